"""Root file systems: the commands of each variant, builds that are whole or not at all, comparisons."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from labkit import Lab
from labkit.core import cache, run, undo
from labkit.core.journal import Journal
from labkit.errors import BuildError, ConfigError, MachineError
from labkit.farm import rootfs
from labkit.farm.rootfs import buildplan, commands, variants
from labkit.farm.rootfs.apt import Source
from labkit.farm.rootfs.buildplan import Rootfs
from labkit.farm.rootfs.cache_entries import building
from labkit.farm.rootfs.contents import scan
from labkit.farm.rootfs.repository import ADDRESS, Repository
from labkit.farm.rootfs.variants import Variant
from labkit.farm.study import comparison
from labkit.farm.study.comparison import Compressed, Measured
from labkit.kernel import calls
from labkit.kernel.netns import alone
from tests import proc
from tests.conftest import CACHE

T = TypeVar("T")


def _commands(name: str, packages: tuple[str, ...] = ()) -> list[str]:
    variant = variants.named(name)
    found = commands.steps(
        variant, "bookworm", Path("/t"), packages=packages, script=Path("/source")
    )
    return [" ".join(step.argv) for step in found]


def test_the_commands_of_a_variant() -> None:
    """Further packages are included; what a tool fetches comes from the repository."""
    assert _commands("minbase", ("nano", "less")) == [
        f"debootstrap --variant=minbase --include=nano,less --no-check-gpg bookworm /t {ADDRESS}/0"
    ]
    assert _commands("docker", ("nano",)) == [
        f"debuerreotype-init --non-debian --include=nano --debootstrap=/source /t bookworm {ADDRESS}/0",
        "debuerreotype-minimizing-config /t",
    ]


def test_the_farms_base_has_apt_and_no_documentation() -> None:
    """apt installs the web layer; documentation is left out, the copyright files are not."""
    (command,) = _commands("essential", ("nano",))
    for words in (
        "--variant=essential --include=apt,nano",
        "path-exclude=/usr/share/doc/*",
        "path-include=/usr/share/doc/*/copyright",
    ):
        assert words in command


def test_what_a_build_takes_and_from_where() -> None:
    """The repository for mmdebstrap, which fetches, and the mirror for what is put together from fetched packages; all
    that is wanted at once, in apt's words, and nothing for a variant that copies another one."""
    repository = Repository((Source(mirror="http://mirror.test/debian", suite="bookworm"),), ("",))
    for name, text in (
        ("essential", f"deb [trusted=yes] {ADDRESS}/0 bookworm main\n"),
        ("web", "deb http://mirror.test/debian bookworm main\n"),
    ):
        assert commands.script_text(variants.named(name), repository) == text
    web = ("?essential", "usrmerge-", "apt", "apache2", "openssh-server", "nano")
    assert commands.wanted(variants.named("web"), ("nano",)) == web
    assert commands.wanted(variants.named("docker"), ("nano",)) == ()
    assert commands.wanted(variants.named("smallest"), ()) == ("busybox", "dropbear-bin")


def test_a_suite_that_debootstrap_does_not_know_is_refused() -> None:
    """Before anything is made; the remedy is the other tool."""
    with pytest.raises(ConfigError) as caught:
        commands.recipe(variants.named("minbase"), "nosuch", ())
    assert "mmdebstrap" in caught.value.remedy


def test_tool_and_variant_of_a_lab() -> None:
    """The same word means another variant to another tool."""
    for tool, variant, name in (
        ("mmdebstrap", "minbase", "mmdebstrap"),
        ("debootstrap", "minbase", "minbase"),
        ("debootstrap", "essential", "debootstrap"),
        ("mmdebstrap", "docker-slim", "docker-slim"),
    ):
        lab = Lab.of({"rootfs": {"tool": tool, "variant": variant}})
        assert variants.of_lab(lab).name == name


def test_an_unknown_variant_names_the_near_one() -> None:
    """A misspelt name is refused before anything is made."""
    with pytest.raises(ConfigError) as caught:
        rootfs.build(Lab(), "debootstrp")
    assert "did you mean 'debootstrap'?" in caught.value.remedy


@pytest.mark.parametrize(
    ("registry", "checked"), [("127.0.0.1:5000", False), ("registry.test", True)]
)
def test_dockers_image_is_pulled_by_its_suite(registry: str, checked: bool) -> None:
    """The tag is the suite's; certificates are only left unchecked on loopback."""
    pull, unpack = commands.pull_steps(
        variants.named("docker-slim"), "bookworm", Path("/w"), registry
    )
    assert f"docker://{registry}/library/debian:bookworm-slim" in pull.argv
    assert ("--src-tls-verify=false" not in pull.argv) is checked
    assert unpack.argv[-2:] == ("/w/image:bookworm-slim", "/w/rootfs")


def test_the_key_changes_with_what_determines_the_build() -> None:
    """Not with the lab's name: another lab of the machine finds what this one built."""
    lab = Lab.of({"name": "one", "rootfs": {"suite": "bookworm"}})
    others = [
        Lab.of({"name": "one", "rootfs": {"suite": "trixie"}}),
        Lab.of({"name": "one", "rootfs": {"suite": "bookworm", "packages": ["nano"]}}),
        Lab.of({"name": "one", "rootfs": {"suite": "bookworm", "mirror": "http://m.test"}}),
    ]
    keys = {rootfs.plan(each, "essential").key for each in (lab, *others)}
    assert len(keys) == 4
    renamed = Lab.of({"name": "two", "rootfs": {"suite": "bookworm"}})
    assert rootfs.plan(renamed, "essential").key == rootfs.plan(lab, "essential").key


# -- comparison, pure ------------------------------------------------------------------------------


def _rootfs(variant: str, size: int, cleaned: int = 0) -> Rootfs:
    return Rootfs(
        variant=variant, suite="bookworm", tool="debootstrap", architecture="amd64",
        path=Path("/r"), bytes=size, cleaned=cleaned, packages=9, seconds=1.0,
        origin="built with a tool", key=variant,
    )  # fmt: skip


def _measured(variant: str, size: int, cleaned: int = 0) -> Measured:
    packed = Compressed(key="", gzip=size // 2, zstd=size // 3)
    return Measured(rootfs=_rootfs(variant, size, cleaned), disk=size + 8, layer=packed)


@pytest.mark.parametrize(
    ("chosen", "ordered"),
    [
        ("docker-slim docker debootstrap minbase", "minbase debootstrap docker docker-slim"),
        ("smallest essential web", "web essential smallest"),
        ("web-slim docker-slim", "web-slim docker-slim"),
        ("essential mmdebstrap", "essential mmdebstrap"),
    ],
)
def test_what_others_are_made_from_is_built_first(chosen: str, ordered: str) -> None:
    """And what is made from others last, then the farm's own; otherwise it is as it was asked for."""
    named = [variants.named(name) for name in chosen.split()]
    assert [variant.name for variant in comparison.in_order(named)] == ordered.split()
    first, *rest = ordered.split()
    assert [v.name for v in comparison.in_order(named, own=first)] == [*rest, first]


def test_sizes_stand_beside_dockers() -> None:
    """The ratio is to Docker's base image; the heaviest comes first."""
    value = comparison.Comparison(
        suite="bookworm",
        variants=(_measured("docker", 100), _measured("debootstrap", 250, cleaned=50)),
    )
    frame = comparison.variant_table(value).frame()
    assert list(frame["variant"]) == ["debootstrap", "docker"]
    assert list(frame["size / docker"]) == [2.5, 1.0]
    assert list(frame["as the tool left it"]) == [300, 100]
    assert list(frame["gzip"]) == [125, 50]
    (check,) = comparison.checks(value)
    assert (check.name, check.holds, check.rows) == ("rootfs.docker-smaller", True, ("R2", "R3"))
    assert "60 % less" in check.seen


# -- building --------------------------------------------------------------------------------

#: The smallest thing that the tools build: a shell and its libraries, unpacked and not configured.
TINY = Variant(name="tiny", tool="mmdebstrap", mode="extract", about="for tests", space=1_000_000)


def _tiny_lab(lab: Lab, cache: Path) -> Lab:
    packages = lab.rootfs.model_copy(update={"packages": ("dash",)})
    return lab.model_copy(update={"cache": str(cache), "rootfs": packages})


@pytest.fixture
def tiny(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab with a cache of its own, but for downloaded files, and the variant ``tiny``."""
    monkeypatch.setitem(dict_of_variants(), "tiny", TINY)
    own = _tiny_lab(lab, tmp_path / "cache")
    _share_depot(own)
    yield own
    undo.unmake_all(own)


def _share_depot(lab: Lab) -> None:
    """What was downloaded is the machine's."""
    lab.cache_dir.mkdir(exist_ok=True)
    for place in ("debian", "lists"):
        Path(CACHE, place).mkdir(parents=True, exist_ok=True)
        (lab.cache_dir / place).symlink_to(Path(CACHE, place))


def dict_of_variants() -> dict[str, Variant]:
    """The named variants, to add one."""
    assert isinstance(variants.VARIANTS, dict)
    return variants.VARIANTS


def _has_shell(found: Rootfs) -> bool:
    """Whether the shell is unpacked: Debian 13's package has it in /usr, to which nothing links /bin here."""
    return any((found.path / folder / "sh").exists() for folder in ("bin", "usr/bin"))


def _leftovers(lab: Lab) -> list[str]:
    """What an unfinished build may leave: folders in the cache, mounts, entries in the journal."""
    folder = lab.cache_dir / "rootfs"
    parts = [path.name for path in folder.glob(".*")] if folder.exists() else []
    mounts = [point for point in undo.mount_points() if point.startswith(f"{folder}/")]
    uses = str(lab.state_dir / "uses")  # which root file systems the lab has, for `labkit gc`
    stands = [entry.what for entry in Journal.of(lab).standing() if entry.what != {"path": uses}]
    return [*parts, *mounts, *map(str, stands)]


@pytest.mark.root
def test_a_second_build_finds_the_first(tiny: Lab) -> None:
    """It stands in the cache under its key, with its record, and nothing else is left."""
    first = rootfs.build(tiny, "tiny")
    assert first.changed
    assert _has_shell(first.value)
    files = scan(first.value.path)
    folders = sum(file.size for file in files if file.form == "folder")
    du = int(run.run(["du", "-sb", first.value.path]).stdout.split()[0])
    assert du in (first.value.bytes, first.value.bytes - folders)  # newer ones leave folders out
    assert first.value.origin.startswith("built with mmdebstrap ")
    second = rootfs.build(tiny, "tiny")
    assert not second.changed
    assert second.value == first.value
    assert not _leftovers(tiny)


def test_a_cache_may_be_moved(tmp_path: Path) -> None:
    """The place of a root file system is where it was found, not where it was built."""
    planned = rootfs.plan(Lab.of({"cache": str(tmp_path)}), "essential")
    (planned.place / "rootfs/var/lib/dpkg").mkdir(parents=True)
    (planned.place / "rootfs/var/lib/dpkg/status").touch()
    (planned.place / "rootfs.json").write_text(_rootfs("essential", 1).model_dump_json())
    cache.seal(planned.place)
    found = rootfs.find(planned)
    assert found is not None
    assert found.path == planned.place / "rootfs"


KILLED = """
import sys
from labkit import Lab
from labkit.farm import rootfs
from labkit.farm.rootfs import variants
variants.VARIANTS["tiny"] = variants.Variant(*__import__("json").loads(sys.argv[2]))
rootfs.build(Lab.of(__import__("json").loads(sys.argv[1])), "tiny")
"""


@pytest.mark.root
@pytest.mark.parametrize("moment", ["begun", "running", "copied"])
def test_a_killed_build_leaves_nothing_that_a_later_one_takes_for_whole(
    tiny: Lab, moment: str
) -> None:
    """SIGKILL at several points: its programs end with it, nothing stays mounted, nothing is taken for
    whole; unmaking the lab removes the rest, and the next build is whole."""
    planned = buildplan.ready(tiny, "tiny")
    part = planned.place.with_name(f".{planned.key}.part")
    moments = {
        "begun": (part / "memory").exists,
        "running": lambda: any(
            "mmdebstrap" in " ".join(words) for words in proc.command_lines(str(part)).values()
        ),
        "copied": (part / "rootfs").exists,
    }
    builder = run.start(
        [sys.executable, "-c", KILLED, tiny.model_dump_json(), json.dumps(TINY)],
        env={"PYTHONPATH": str(Path(rootfs.__file__).parents[3])},
    )
    try:
        _until(moments[moment], moment)
    finally:
        os.kill(builder.pid, signal.SIGKILL)
        builder.wait()
    _until(lambda: not proc.command_lines(str(part)), "its programs ended")
    assert not [point for point in undo.mount_points() if point.startswith(str(part))]
    assert rootfs.find(planned) is None
    assert part.exists()
    undo.unmake_all(tiny)
    assert not _leftovers(tiny)
    whole = rootfs.build(tiny, "tiny")
    assert whole.changed
    assert _has_shell(whole.value)


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"not within a minute: {what}"
        time.sleep(0.02)


def _cut_off(function: Callable[[], T]) -> T:
    """``function()`` in a network namespace that has no interface that is up, not even loopback."""

    def inside() -> T:
        calls.unshare(calls.CLONE_NEWNET)
        return function()

    return alone(inside)


@pytest.mark.root
def test_offline_it_is_built_from_what_was_downloaded_before(tiny: Lab, tmp_path: Path) -> None:
    """The same root file system, without any network, and it is found without one. A package or a list that was not
    downloaded is named, with the remedy to call it once with the network; nothing is left."""
    first = rootfs.build(tiny, "tiny").value
    offline = tiny.model_copy(update={"offline": True})
    assert not _cut_off(lambda: rootfs.build(offline, "tiny")).changed
    undo.remove_folder(tiny, path=str(first.path.parent))
    again = _cut_off(lambda: rootfs.build(offline, "tiny"))
    assert again.changed
    assert (again.value.key, again.value.bytes) == (first.key, first.bytes)
    rare = tiny.rootfs.model_copy(update={"packages": ("0ad-data",)})
    with pytest.raises(BuildError, match=r"not in the cache.*0ad-data_") as caught:
        _cut_off(lambda: rootfs.build(offline.model_copy(update={"rootfs": rare}), "tiny"))
    assert "without --offline" in caught.value.remedy
    empty = offline.model_copy(update={"cache": str(tmp_path / "empty")})
    with pytest.raises(MachineError, match="offline") as told:
        _cut_off(lambda: rootfs.build(empty, "tiny"))
    assert told.value.value.startswith("the list of packages of ")
    assert not [*_leftovers(offline), *_leftovers(empty)]


@pytest.fixture
def small_disk(tiny: Lab, tmp_path: Path) -> Iterator[Lab]:
    """A lab whose cache is a file system of 20 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", "size=20m", "labkit-test", disk])
    own = tiny.model_copy(update={"cache": str(disk)})
    _share_depot(own)
    yield own
    run.run(["umount", disk])


@pytest.mark.root
def test_a_disk_that_is_too_small_or_fills_up_is_named_and_the_next_build_is_whole(
    small_disk: Lab,
) -> None:
    """Refused before anything is made, with what is needed and what is free; or the build fails, says why, and leaves
    nothing."""
    with pytest.raises(BuildError, match=r"needs 900.0 MB while it is made"):
        rootfs.build(small_disk, "essential")
    assert not _leftovers(small_disk)
    place = rootfs.plan(small_disk, "tiny").place
    with pytest.raises(BuildError, match="is full") as caught:
        rootfs.build(small_disk, "tiny")
    assert "free space" in caught.value.remedy
    assert not _leftovers(small_disk)
    assert list(place.parent.iterdir()) == []
    run.run(["mount", "-o", "remount,size=600m", small_disk.cache_dir])
    result = rootfs.build(small_disk, "tiny")
    assert result.changed
    assert _has_shell(result.value)
    assert not rootfs.build(small_disk, "tiny").changed
    assert [path.name for path in place.parent.iterdir()] == [place.name]


@pytest.mark.root
def test_a_failed_program_is_the_reason(tiny: Lab) -> None:
    """What the program said is in the error; nothing is left."""
    absent = tiny.rootfs.model_copy(update={"packages": ("no-such-package",)})
    with pytest.raises(BuildError) as caught:
        rootfs.build(tiny.model_copy(update={"rootfs": absent}), "tiny")
    assert "no-such-package" in caught.value.reason
    assert not _leftovers(tiny)


@pytest.mark.root
def test_a_missing_program_is_named_before_anything_is_made(
    tiny: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mmdebstrap is not on the search path."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("dpkg", "dpkg-query", "setpriv", "unshare", "apt-get"):
        (programs / name).symlink_to(shutil.which(name, path=run.PATH) or "")
    monkeypatch.setattr(run, "PATH", str(programs))
    with pytest.raises(MachineError) as caught:
        rootfs.build(tiny, "tiny")
    assert caught.value.value == "mmdebstrap"
    assert not _leftovers(tiny)


@pytest.mark.root
def test_an_interrupted_block_leaves_nothing(tiny: Lab) -> None:
    """Ctrl-C while a build runs: its folder and its entry in the journal are gone."""
    place = tiny.cache_dir / "rootfs" / "thing"
    with pytest.raises(KeyboardInterrupt), building(tiny, place, what="a thing") as work:
        (work / "file").touch()
        raise KeyboardInterrupt
    assert not place.exists()
    assert not _leftovers(tiny)


# -- on the machine's own cache --------------------------------------------------------------


@pytest.mark.root
def test_the_farms_base_works(lab: Lab) -> None:
    """A shell starts in it, every package is configured, and dpkg lists the table's packages."""
    rootfs.build(lab)
    again = rootfs.build(lab)
    assert not again.changed
    assert again.holds, [check for check in again.checks if not check.holds]
    assert len(again.table("packages").rows) == again.value.packages
    assert again.value.variant == "essential"


@pytest.mark.root
def test_a_comparison_has_a_row_a_variant(lab: Lab) -> None:
    """What is in the cache is compared without building it again; kinds and steps add up to its size."""
    comparison.compare(lab, ("essential",))
    again = comparison.compare(lab, ("essential",))
    assert not again.changed
    assert again.holds, [check for check in again.checks if not check.holds]
    assert [row[0] for row in again.table("variants").rows] == ["essential"]
    (measured,) = again.value.variants
    assert again.table("kinds").frame()["essential"].sum() == measured.rootfs.bytes
    assert again.value.steps[-1].after == measured.rootfs.bytes
    assert measured.layer.zstd < measured.layer.gzip < measured.rootfs.bytes < measured.disk


def test_a_package_that_is_not_installed_is_told_as_such() -> None:
    """A program of that name may be on the machine, of another origin: what dpkg knows is told, and asked again."""
    with pytest.raises(MachineError, match="this Debian package is not installed") as told:
        buildplan.program_version("labkit-no-such-package")
    assert told.value.code == "machine.no-program"
    assert told.value.again == "dpkg-query --show labkit-no-such-package"
