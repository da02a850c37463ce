"""What makes one root file system larger than another, and the way down from step to step."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import Lab
from labkit.farm import rootfs, study
from labkit.farm.rootfs.contents import NOBODY, Contents, File, Owner
from labkit.farm.study import comparison, evidence, sizes
from labkit.farm.study.comparison import Compressed, WaterfallBar
from tests.sample_packages import package as _package


def _contents(name: str, *files: tuple[str, int, str, str], **packages: str) -> Contents:
    """Files as (path, size, package or '', kind); packages as name=version."""
    return Contents(
        name=name,
        files=tuple(File(path, "file", size, 4096) for path, size, _, _ in files),
        owners={path: Owner("package", who) if who else NOBODY for path, _, who, _ in files},
        kinds={path: kind for path, _, _, kind in files},
        packages=tuple(_package(name, version=said) for name, said in packages.items()),
    )


BEFORE = _contents(
    "large",
    ("/bin/init", 700, "init", "executables"),
    ("/doc/init", 50, "init", "documentation"),
    ("/bin/sh", 100, "sh", "executables"),
    ("/doc/sh", 60, "sh", "documentation"),
    ("/lib/c", 30, "libc", "shared objects"),
    ("/state", 10, "", "package-manager state"),
    ("/same", 5, "", "other data"),
    init="1", sh="1", libc="1",
)  # fmt: skip
AFTER = _contents(
    "small",
    ("/bin/sh", 100, "sh", "executables"),
    ("/lib/c", 33, "libc", "shared objects"),
    ("/lib/new", 7, "libc", "shared objects"),
    ("/state", 8, "", "package-manager state"),
    ("/same", 5, "", "other data"),
    ("/bin/web", 20, "web", "executables"),
    ("/conf", 2, "sh", "configuration"),
    sh="1", libc="2", web="1",
)  # fmt: skip


def test_every_byte_of_a_difference_has_a_cause() -> None:
    """A package that is gone, one that came, one with another version; else the kind of file."""
    found = {(c.cause, c.what): (c.files, c.size) for c in sizes.changes(BEFORE, AFTER)}
    assert found == {
        ("package removed", "init"): (2, -750),
        ("package added", "web"): (1, 20),
        ("package changed", "libc"): (2, 10),
        ("left out", "documentation"): (1, -60),
        ("added", "configuration"): (1, 2),
        ("changed", "package-manager state"): (1, -2),
    }


@pytest.mark.parametrize(("one", "other"), [(BEFORE, AFTER), (AFTER, BEFORE), (BEFORE, BEFORE)])
def test_the_causes_add_up(one: Contents, other: Contents) -> None:
    """Sizes and disk, in either direction; nothing differs from itself."""
    found = sizes.changes(one, other)
    assert sum(c.size for c in found) == other.weight.size - one.weight.size
    assert sum(c.disk for c in found) == other.weight.disk - one.weight.disk
    table = sizes.cause_table(one, other, found).frame()
    assert sum(table["size"][:-1]) == table["size"].iloc[-1]


def test_packages_that_are_not_the_same() -> None:
    """Gone, come or in another version, each with its weight in both."""
    found = sizes.versions(BEFORE, AFTER)
    assert [(v.name, v.before, v.after, v.size_before, v.size_after) for v in found] == [
        ("init", "1", "", 750, 0),
        ("libc", "1", "2", 30, 40),
        ("web", "", "1", 0, 20),
    ]
    frame = sizes.version_table(BEFORE, AFTER, found).frame()
    assert frame["package"].tolist() == ["init", "libc", "web"]
    assert frame["small"].tolist() == ["–", "2", "1"]


def test_the_way_down_goes_by_its_largest_causes() -> None:
    """Downloads first, then packages and kinds by name where they weigh enough, the rest in one."""
    assert comparison.way_down((BEFORE, AFTER), left=1000) == (
        WaterfallBar(name="large, as built", whole=True, size=1955, after=1955),
        WaterfallBar(name="downloads and indices", whole=False, size=-1000, after=955),
        WaterfallBar(name="large", whole=True, size=955, after=955),
        WaterfallBar(name="package web", whole=False, size=20, after=975),
        WaterfallBar(name="package init", whole=False, size=-750, after=225),
        WaterfallBar(name="documentation left out", whole=False, size=-60, after=165),
        WaterfallBar(name="all else", whole=False, size=10, after=175),
        WaterfallBar(name="small", whole=True, size=175, after=175),
    )


def test_the_steps_add_up() -> None:
    """Each whole is the one before it with the steps between."""
    chain = (BEFORE, AFTER, BEFORE)
    frame = comparison.waterfall_table(comparison.way_down(chain)).frame()
    assert frame["size"].iloc[0] + frame["more or less"].sum() == frame["size"].iloc[-1]
    assert frame["size"][frame["a root file system"]].tolist() == [955, 175, 955]


@pytest.mark.parametrize(
    ("small", "named"),
    [("y", "package y"), ("yz", "packages y, z"), ("wyz", "3 other packages")],
)
def test_small_packages_are_summed_up(small: str, named: str) -> None:
    """Beside the large ones; a few of them are called by their names."""
    files = [(f"/{name}", 10, name, "executables") for name in small]
    one = _contents(
        "a", ("/x", 900, "x", "executables"), *files, x="1", **dict.fromkeys(small, "1")
    )
    two = _contents("b", ("/o", 1, "", "other data"))
    names = [step.name for step in comparison.way_down((one, two)) if not step.whole]
    assert names == ["package x", named, "all else"]


# -- on real root file systems ---------------------------------------------------------------------


@pytest.mark.root
def test_what_makes_a_site_larger_than_the_base(lab: Lab) -> None:
    """Two tags of the image: the packages that were installed, and the site's own page."""
    result = study.difference(lab, "image:base", lab.sites[0].name)
    assert result.holds
    value = result.value
    added = {item.name for item in value.packages if not item.before}
    assert {"apache2", "openssh-server"} <= added
    causes = {(change.cause, change.what) for change in value.changes}
    assert ("package added", "apache2-bin") in causes
    assert ("added", "other data") in causes
    assert sum(c.size for c in value.changes) == value.size_after - value.size_before


@pytest.mark.root
def test_a_layer_is_measured_once(lab: Lab) -> None:
    """Its weights lie beside the root file system, and nothing else is left of it."""
    built = rootfs.build(lab, "essential").value
    found = comparison.compressed(lab, built)
    kept = built.path.parent / f"{found.key}.json"
    written = kept.stat().st_mtime_ns
    assert comparison.compressed(lab, built) == found
    assert kept.stat().st_mtime_ns == written
    assert found.zstd < found.gzip < built.bytes
    assert not list((lab.cache_dir / "rootfs").glob(".layer-*"))


def test_evidence_is_collected_once_and_again_when_it_is_damaged(tmp_path: Path) -> None:
    """Under another key, too."""
    lab = Lab.of({"cache": str(tmp_path)})
    counted = iter(range(9))

    def collect() -> Compressed:
        return Compressed(key="k", gzip=next(counted), zstd=0)

    def collected(key: str) -> int:
        return evidence.collected(lab, tmp_path, key, Compressed, collect).gzip

    assert [collected("one"), collected("one"), collected("other")] == [0, 0, 1]
    path = tmp_path / "one.json"
    path.write_text(path.read_text().replace('"gzip": 0', '"gzip": 7'))
    assert [collected("one"), collected("one")] == [2, 2]
