"""The figures of root file systems and images: drawn from results alone, with their numbers in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from labkit import Lab, Result, Table
from labkit.core.result import Figure, picture
from labkit.core.tables import Cell
from labkit.errors import ConfigError
from labkit.report import figures
from labkit.report.figures.treemap import NONE, Box, Label, divided, heading_of, label_of

VARIANTS: list[Mapping[str, Cell]] = [
    {"variant": "debootstrap", "tool": "debootstrap", "packages": 156, "size": 197_000_000,
     "on disk": 216_000_000, "gzip": 79_000_000, "zstd": 66_000_000},
    {"variant": "docker", "tool": "debuerreotype", "packages": 88, "size": 120_000_000,
     "on disk": 133_000_000, "gzip": 51_000_000, "zstd": 40_000_000},
    {"variant": "docker-slim", "tool": "debuerreotype", "packages": 88, "size": 77_000_000,
     "on disk": 85_000_000, "gzip": 30_000_000, "zstd": 24_000_000},
]  # fmt: skip
KINDS: list[Mapping[str, Cell]] = [
    {"kind": f"kind {n}", "debootstrap": (20 - n) * 900_000, "docker": (20 - n) * 500_000,
     "docker-slim": (20 - n) * 300_000}
    for n in range(20)
]  # fmt: skip
STEPS: list[Mapping[str, Cell]] = [
    {"step": name, "a root file system": whole, "more or less": more, "size": size}
    for name, whole, more, size in (
        ("debootstrap", True, 0, 197_000_000),
        ("package udev", False, -24_000_000, 173_000_000),
        ("all else", False, 1_000_000, 174_000_000),
        ("minbase", True, 0, 174_000_000),
    )
]
TRIED: list[Mapping[str, Cell]] = [
    {"step": step, "files": 1, "saved": saved, "saved on disk": saved, "left": left, "left on disk": left,
     "answered": answered, "not answered": lost, "seen": "", "why": "because"}
    for step, saved, left, answered, lost in (
        ("web, as it is", 0, 140_000_000, "20 of 20", ""),
        ("package tools", 90_000_000, 50_000_000, "20 of 20", ""),
        ("a small ssh server", -1_000_000, 51_000_000, "20 of 20", ""),
        ("a shell", 2_000_000, 49_000_000, "18 of 20", "reload, ssh"),
    )
]  # fmt: skip
PARTS: list[Mapping[str, Cell]] = [
    {"kind": f"kind {kind}", "package": f"package-{kind}-{n}", "size": 900_000 * (12 - n) // (kind + 1)}
    for kind in range(10)
    for n in range(12)
]  # fmt: skip
USES: list[Mapping[str, Cell]] = [
    {"package": f"package-{n}", "use": use, "size": (30 - n) * 400_000}
    for n in range(30)
    for use in ("neither", "idle", "opened")[n % 3 : n % 3 + 1]
]
POINTERS: list[Mapping[str, Cell]] = [
    {"from": source, "to": target, "as": role, "bytes": 1}
    for source, target, role in (
        ("index.json", "manifest aa", "tag first"),
        ("manifest aa", "configuration bb", "configuration"),
        ("manifest aa", "layer cc", "layer"),
        ("index.json", "manifest dd", "tag second"),
        ("manifest dd", "configuration ee", "configuration"),
        ("manifest dd", "layer cc", "layer"),
        ("manifest dd", "layer ff", "layer"),
        ("bundle: umoci.json", "manifest aa", "names"),
        ("bundle: *.mtree", "manifest aa", "named after; lists rootfs"),
        ("bundle: config.json", "configuration bb", "made from"),
        ("bundle: rootfs", "layer cc", "unpacked from"),
    )
]


Drawing = Callable[[Lab, Result[Any]], Figure]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab that writes into the test's folder."""
    return Lab.of({"outputs": str(tmp_path)})


def _result(**tables: list[Mapping[str, Cell]]) -> Result[str]:
    return Result[str](
        action="rootfs.test",
        subject="bookworm",
        summary="A result.",
        changed=False,
        value="",
        tables=tuple(Table.of(name, name, rows) for name, rows in tables.items()),
        run="r",
        started=datetime(2024, 1, 1, tzinfo=UTC),
        seconds=0.0,
    )


def _written(lab: Lab, figure: Figure) -> tuple[bytes, bytes]:
    return picture(lab, figure.png).read_bytes(), picture(lab, figure.svg).read_bytes()


DRAWINGS = [
    (figures.package_map, _result(parts=PARTS)),
    (figures.use_map, _result(unneeded=USES)),
    (figures.variant_sizes, _result(variants=VARIANTS, kinds=KINDS)),
    (figures.waterfall, _result(variants=VARIANTS, waterfall=STEPS)),
    (figures.waterfall, _result(variants=VARIANTS[:1], waterfall=STEPS[:1])),
    (figures.image_relations, _result(pointers=POINTERS)),
    (figures.shrinking, _result(steps=TRIED[:3], undone=TRIED[3:])),
    (figures.shrinking, _result(steps=TRIED[:1], undone=[])),
]


@pytest.mark.parametrize(("draw", "result"), DRAWINGS)
def test_the_same_result_gives_the_same_bytes(lab: Lab, draw: Drawing, result: Result[str]) -> None:
    """Both formats are written, and a second drawing changes neither."""
    first = _written(lab, draw(lab, result))
    assert first[0].startswith(b"\x89PNG")
    assert first == _written(lab, draw(lab, result))


@pytest.mark.parametrize(
    ("draw", "result", "words"),
    [
        (figures.variant_sizes, DRAWINGS[2][1],
         "docker 120.0 MB in 88 packages, 133.0 MB on disk, as a layer 51.0 MB (gzip) or 40.0 MB (zstd)"),
        (figures.waterfall, DRAWINGS[3][1],
         "debootstrap 197.0 MB; package udev 24.0 MB less; all else 1.0 MB more; minbase 174.0 MB"),
        (figures.shrinking, DRAWINGS[6][1], "package tools 50.0 MB, 20 of 20 answered"),
        (figures.shrinking, DRAWINGS[6][1], "Undone: a shell, fails reload, ssh."),
        (figures.use_map, DRAWINGS[1][1],
         "neither 66.0 MB (package-0 12.0 MB, package-3 10.8 MB, package-6 9.6 MB); idle"),
        (figures.package_map, DRAWINGS[0][1], "kind 0 70.2 MB (package-0-0 10.8 MB"),
    ],
)  # fmt: skip
def test_a_figure_is_told_in_words(
    lab: Lab, draw: Drawing, result: Result[str], words: str
) -> None:
    """The alt text has the numbers that the picture shows, the largest first."""
    assert words in draw(lab, result).alt


def test_variants_that_were_not_packed_have_no_layer(lab: Lab) -> None:
    """Neither drawn nor told; the figure has the name that it is given."""
    rows = [{k: v for k, v in row.items() if k not in ("gzip", "zstd")} for row in VARIANTS]
    figure = figures.variant_sizes(lab, _result(variants=rows, kinds=KINDS), name="unpacked")
    assert (figure.name, "layer" in figure.alt + figure.caption) == ("unpacked", False)
    assert "docker 120.0 MB in 88 packages, 133.0 MB on disk;" in figure.alt


def test_a_figures_file_has_a_plain_name(lab: Lab) -> None:
    """Whatever the root file system is called."""
    result = _result(parts=PARTS).model_copy(update={"subject": "image:web"})
    assert figures.package_map(lab, result).png == "figures/map-image-web.png"


# -- the layout of treemaps ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes", [[6.0, 6.0, 4.0, 3.0, 2.0, 2.0, 1.0], [1000.0, 1.0, 1.0], [1.0] * 50]
)
@pytest.mark.parametrize("box", [Box(10, 20, 400, 300), Box(0, 0, 30, 900)])
def test_the_parts_fill_the_box(sizes: list[float], box: Box) -> None:
    """Each has its share of the area, the first at the upper left; none lies on another or outside."""
    parts = divided(sizes, box)
    top = box.y + box.height
    assert (parts[0].x, parts[0].y + parts[0].height) == pytest.approx((box.x, top))
    for size, part in zip(sizes, parts, strict=True):
        assert part.width * part.height == pytest.approx(size * box.width * box.height / sum(sizes))
        assert min(part.x - box.x, part.y - box.y) >= -1e-6
        assert part.x + part.width <= box.x + box.width + 1e-6
        assert part.y + part.height <= top + 1e-6
    for one, other in combinations(parts, 2):
        across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
        along = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
        assert min(across, along) < 1e-6


@pytest.mark.parametrize(
    ("name", "width", "height", "label"),
    [
        ("udev", 200, 100, Label("udev\n1.0 MB", 10.0)),
        ("libsystemd-shared", 66, 90, Label("libsystemd-\nshared\n1.0 MB", 9.393939393939394)),
        ("libelf1", 33, 60, Label("libelf1\n1.0 MB", 10.0, True)),
        ("libunistring2", 30, 12, NONE),
        ("gpgv", 30, 14, Label("gpgv", 10.0)),
    ],
)
def test_the_label_of_a_tile(name: str, width: float, height: float, label: Label) -> None:
    """With its size where that is legible; broken or upright where it must be; none where none fits."""
    found = label_of(name, "1.0 MB", width, height)
    assert (found.text, found.upright) == (label.text, label.upright)
    assert found.letters == pytest.approx(label.letters)


@pytest.mark.parametrize(
    ("width", "text"), [(200, "documentation  9.3 MB"), (84, "documentation"), (40, "")]
)
def test_the_heading_of_a_group(width: float, text: str) -> None:
    """With its size where there is room for it."""
    assert heading_of("documentation", "9.3 MB", Box(0, 0, width, 100)).text == text
    assert heading_of("documentation", "9.3 MB", Box(0, 0, width, 30)) == NONE


@pytest.mark.parametrize("draw", list(dict.fromkeys(draw for draw, _ in DRAWINGS)))
def test_a_result_of_another_action_is_refused(lab: Lab, draw: Drawing) -> None:
    """The error names the table that is missing and those that there are."""
    with pytest.raises(ConfigError) as caught:
        draw(lab, _result(other=PARTS))
    assert "['other']" in caught.value.reason
