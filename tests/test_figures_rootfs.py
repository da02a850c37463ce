"""The figures of root file systems and images: drawn from results alone, with their numbers in words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path

import pytest

from labkit import Lab, Result, Table
from labkit.errors import ConfigError
from labkit.report.figures import image_relations, package_sizes, relations, variant_sizes
from labkit.result import Cell, Figure, picture

PACKAGES: list[Mapping[str, Cell]] = [
    {"name": f"package-{n}", "installed": (30 - n) * 1_000_000} for n in range(30)
]
VARIANTS: list[Mapping[str, Cell]] = [
    {"variant": "debootstrap", "tool": "debootstrap", "packages": 156, "size": 197_000_000,
     "as the tool left it": 297_000_000},
    {"variant": "docker", "tool": "debuerreotype", "packages": 88, "size": 120_000_000,
     "as the tool left it": 120_000_000},
]  # fmt: skip
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
    (package_sizes, _result(packages=PACKAGES)),
    (package_sizes, _result(packages=PACKAGES, unneeded=PACKAGES[2:5])),
    (variant_sizes, _result(variants=VARIANTS)),
    (image_relations, _result(pointers=POINTERS)),
]


@pytest.mark.parametrize(("draw", "result"), DRAWINGS)
def test_the_same_result_gives_the_same_bytes(
    lab: Lab, draw: relations.Drawing, result: Result[str]
) -> None:
    """Both formats are written, and a second drawing changes neither."""
    first = _written(lab, draw(lab, result))
    assert first[0].startswith(b"\x89PNG")
    assert first == _written(lab, draw(lab, result))


def test_the_largest_packages_are_told_in_words(lab: Lab) -> None:
    """The alt text has the bars' numbers and says which packages are not needed; the rest is left out."""
    figure = package_sizes(lab, _result(packages=PACKAGES, unneeded=PACKAGES[2:5]), most=4)
    assert (
        "package-0 30.0 MB, package-1 29.0 MB, package-2 28.0 MB, package-3 27.0 MB" in figure.alt
    )
    assert "Not needed to serve pages: package-2, package-3." in figure.alt
    assert "package-4" not in figure.alt


def test_the_variants_are_told_in_words(lab: Lab) -> None:
    """Size and number of packages of each."""
    figure = variant_sizes(lab, _result(variants=VARIANTS))
    assert "debootstrap 197.0 MB in 156 packages; docker 120.0 MB in 88 packages" in figure.alt


def test_no_box_lies_on_another() -> None:
    """And the bundle's files stand in one column, beside what they were made from."""
    places = relations.arrange(POINTERS)
    for (ax, ay), (bx, by) in combinations(places.values(), 2):
        assert abs(ax - bx) >= 2 * relations.HALF or abs(ay - by) >= 2 * relations.RISE
    assert places["bundle: config.json"][1] == places["configuration bb"][1]
    assert places["bundle: rootfs"][1] == places["layer cc"][1]
    assert len({x for name, (x, _) in places.items() if name.startswith("bundle")}) == 1


@pytest.mark.parametrize("draw", [package_sizes, variant_sizes, image_relations])
def test_a_result_of_another_action_is_refused(lab: Lab, draw: relations.Drawing) -> None:
    """The error names the table that is missing and those that there are."""
    with pytest.raises(ConfigError) as caught:
        draw(lab, _result(other=PACKAGES))
    assert "['other']" in caught.value.reason
