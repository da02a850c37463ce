"""Root file systems made smaller: what each rule takes away, what is written, and what probes then say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.errors import ConfigError
from labkit.farm import rootfs
from labkit.farm.images import layout as image
from labkit.farm.rootfs import packages, shrink, variants
from labkit.farm.rootfs.cache_entries import scratch
from labkit.farm.rootfs.contents import File
from labkit.farm.rootfs.tree import Item, Tree
from labkit.farm.rootfs.variants import Step
from labkit.farm.study import ablation, probes
from labkit.farm.study.ablation import Ablation, ProbedStep, StepProbes
from tests.sample_packages import package as _package

#: path -> package, and a link's target; a folder's path ends in a slash.
FILES = {
    "/usr/": ("", ""),
    "/usr/bin/": ("", ""),
    "/usr/bin/sh": ("dash", ""),
    "/usr/bin/mkdir": ("coreutils", ""),
    "/usr/bin/perl": ("perl", ""),
    "/usr/bin/apachectl": ("apache2", "apache2ctl"),
    "/usr/bin/apache2ctl": ("apache2", ""),
    "/usr/lib/": ("", ""),
    "/usr/lib/apache2/": ("apache2", ""),
    "/usr/lib/apache2/modules/": ("apache2", ""),
    "/usr/lib/apache2/modules/mod_dir.so": ("apache2", ""),
    "/usr/lib/apache2/modules/mod_ssl.so": ("apache2", ""),
    "/usr/share/": ("", ""),
    "/usr/share/doc/": ("", ""),
    "/usr/share/doc/perl/": ("perl", ""),
    "/usr/share/doc/perl/copyright": ("perl", ""),
    "/etc/": ("", ""),
    "/etc/passwd": ("base-passwd", ""),
    "/etc/perl.conf": ("perl", ""),
    "/etc/apache2/": ("apache2", ""),
    "/etc/apache2/mods-available/": ("apache2", ""),
    "/etc/apache2/mods-available/dir.load": ("apache2", ""),
    "/etc/apache2/mods-available/ssl.load": ("apache2", ""),
    "/etc/apache2/mods-enabled/": ("apache2", ""),
    "/etc/apache2/mods-enabled/dir.load": ("apache2", "../mods-available/dir.load"),
    "/run/": ("", ""),
    "/run/apache2/": ("", ""),
}
TEXTS = {
    "/etc/passwd": "root:x:0:0:root:/root:/usr/bin/bash\n",
    "/etc/apache2/mods-available/dir.load": "LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so\n",
}
PACKAGES = (
    _package("apache2", "perl", "dash"),
    _package("base-passwd"),
    _package("coreutils"),
    _package("dash"),
    _package("perl"),
)


def _item(path: str, package: str, target: str) -> Item:
    form = "folder" if path.endswith("/") else "link" if target else "file"
    text = TEXTS.get(path, "") if form == "file" else None
    return Item(File(path.rstrip("/"), form, 1, 1, target=target), None, package, text)  # type: ignore[arg-type]


TREE = Tree({path.rstrip("/"): _item(path, *of) for path, of in FILES.items()}, PACKAGES, ("",))


def _gone(rule: str, full: Tree = TREE, **given: tuple[str, ...]) -> set[str]:
    """What a step with this rule takes away."""
    step = Step(name="a", why="b", rule=rule, **given)
    return TREE.items.keys() - shrink.apply(TREE, step, full).items.keys()


@pytest.mark.parametrize(
    ("rule", "given", "gone"),
    [
        ("paths", {"words": ("/usr/bin/*",), "kept": ("*/sh",)},
         {"/usr/bin/mkdir", "/usr/bin/perl", "/usr/bin/apachectl", "/usr/bin/apache2ctl"}),
        ("paths", {"words": ("/usr/bin/apache2ctl",)}, {"/usr/bin/apache2ctl", "/usr/bin/apachectl"}),
        ("paths", {"words": ("/etc/apache2/mods-available/*",)},
         {"/etc/apache2/mods-available", "/etc/apache2/mods-available/dir.load",
          "/etc/apache2/mods-available/ssl.load", "/etc/apache2/mods-enabled",
          "/etc/apache2/mods-enabled/dir.load", "/etc/apache2"}),
        ("needed", {"words": ("apache2", "base-passwd", "coreutils"), "kept": ("perl",)},
         {"/usr/bin/perl", "/usr/share/doc/perl", "/usr/share/doc/perl/copyright", "/etc/perl.conf",
          "/usr/share/doc", "/usr/share"}),
        ("modules", {}, {"/usr/lib/apache2/modules/mod_ssl.so", "/etc/apache2/mods-available/ssl.load"}),
        ("programs", {"words": ("sh", "apachectl")}, {"/usr/bin/mkdir", "/usr/bin/perl"}),
    ],
)  # fmt: skip
def test_what_a_rule_takes_away(
    rule: str, given: dict[str, tuple[str, ...]], gone: set[str]
) -> None:
    """Links that would lead nowhere go with what they led to, folders with the last thing in them."""
    assert _gone(rule, **given) == gone


def test_remnants_go_with_the_last_program_of_a_package() -> None:
    """Configuration and licences stay with a program; users are there for themselves."""
    step = Step(name="a", why="b", rule="remnants", kept=("base-passwd",))
    bare = TREE.without({"/usr/bin/perl"})
    left = shrink.apply(bare, step, TREE).items
    assert "/etc/perl.conf" not in left
    assert "/usr/share/doc/perl/copyright" not in left
    assert "/etc/passwd" in left
    assert "/etc/perl.conf" in shrink.apply(TREE, step, TREE).items


def test_busybox_takes_the_place_of_commands_that_it_knows() -> None:
    """What it does not know is gone; a user whose shell is gone gets the one that is always there."""
    program = Item(
        File("/usr/bin/busybox", "file", 9, 9), None, "busybox", "x\0[\0[[\0mkdir\0sh\0\0"
    )
    full = TREE.having({"/usr/bin/busybox": program}, Tree({}, (_package("busybox"),), ("",)))
    words = ("dash", "coreutils", "perl")
    after = shrink.apply(TREE, Step(name="a", why="b", rule="busybox", words=words), full)
    assert {path for path, item in after.items.items() if item.file.target == "busybox"} == {
        "/usr/bin/sh", "/usr/bin/mkdir",
    }  # fmt: skip
    assert "/usr/bin/perl" not in after.items
    assert after.items["/etc/passwd"].text == "root:x:0:0:root:/root:/bin/sh\n"
    assert shrink.applet_names(b"\x7fELF") == []


def test_the_libraries_that_a_program_asks_for() -> None:
    """Those that the dynamic linker finds, without what these need in turn; None for a file that is no program."""
    listed = run.run(["ldd", "/bin/ls"]).stdout
    asked = shrink.needed_libraries(Path("/bin/ls").read_bytes())
    assert asked is not None
    assert "libc.so.6" in asked
    assert all(name in listed for name in asked)
    assert [shrink.needed_libraries(data) for data in (b"", b"#!/bin/sh\n", b"\x7fELF")] == [
        None
    ] * 3


def test_each_step_of_the_ladder_is_of_a_rule() -> None:
    """A rung is a variant, its steps have names of their own, and those that break something are no part."""
    for name, steps in variants.LADDER.items():
        assert variants.named(name).after == "web"
        assert len({step.name for step in steps}) == len(steps)
        assert all(step.rule in shrink.RULES and not step.breaks for step in steps)
    assert all(
        step.rule in shrink.RULES and step.breaks for step in (ablation.TRACED, *ablation.TOO_FAR)
    )


def _tried(name: str, *broken: str, too_far: bool = False) -> ProbedStep:
    return ProbedStep(
        name=name, why="because", too_far=too_far, kept=not broken, files=1, size=2, disk=3, size_after=4,
        disk_after=5, asked=20, broke=dict.fromkeys(broken, "no answer"), seconds=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kept", "undone", "same", "failing"),
    [
        ((), ("ssh",), True, set()),
        (("ssh",), ("ssh",), True, {"shrink.kept.smallest"}),
        ((), (), True, {"shrink.undone.smallest"}),
        ((), ("ssh",), False, {"shrink.same.smallest"}),
    ],
)
def test_what_the_checks_of_an_ablation_say(
    kept: tuple[str, ...], undone: tuple[str, ...], same: bool, failing: set[str]
) -> None:
    """A step that breaks something, one that goes too far and does not, and another result are each told."""
    tried = (_tried("web, as it is"), _tried("a", *kept), _tried("b", *undone, too_far=True))
    value = Ablation(variant="smallest", before="web", tried=tried, same=same)
    assert {check.name for check in ablation.checks(value) if not check.holds} == failing
    names = [table.frame()["step"].tolist() for table in ablation.tables(value)]
    assert names == [["web, as it is", "a"], ["b"]]


def test_another_variant_has_no_steps(lab: Lab) -> None:
    """The error names those that have."""
    with pytest.raises(ConfigError) as caught:
        ablation.shrink(lab, "smalest")
    assert "smallest" in caught.value.remedy


# -- on the machine's own cache --------------------------------------------------------------------


@pytest.mark.root
def test_the_smallest_is_debians_file_by_file(lab: Lab) -> None:
    """dpkg lists its packages and finds every file as it was packaged; none is nobody's; no library lacks."""
    built = rootfs.build(lab, "smallest")
    assert built.holds, [check for check in built.checks if not check.holds]
    assert not rootfs.build(lab, "smallest").changed
    answers = ablation.look(built.value.path)
    assert [probe.seen for probe in answers if not probe.holds] == []
    names = {package.name for package in packages.read(built.value.path)}
    assert {"apache2", "busybox", "dropbear-bin", "libc6"} <= names
    assert not names & {"dpkg", "apt", "perl-base", "bash"}


@pytest.mark.root
def test_the_farm_stands_on_the_smallest(make_lab: Callable[..., Lab]) -> None:
    """Its images need no layer for the servers, and containers on them do all that is asked of them."""
    lab = make_lab(variant="smallest")
    built = image.build(lab)
    assert built.holds, [check for check in built.checks if not check.holds]
    assert built.value.tag("web").layers == built.value.tag("base").layers
    lost = {probe.name: probe.seen for probe in probes.probe(lab, "web") if not probe.holds}
    assert lost == {}


@pytest.fixture
def small(make_lab: Callable[..., Lab], tmp_path: Path) -> Iterator[tuple[StepProbes, Tree]]:
    """Probes of steps that begin at the smallest root file system."""
    lab = make_lab(variant="smallest")
    tree = Tree.read(rootfs.build(lab, "smallest").value.path)
    with scratch(lab, lab.cache_dir / "rootfs" / f".{lab.name}.part") as folder:
        yield StepProbes(lab, tree, tree, folder), tree


@pytest.mark.root
def test_a_step_that_breaks_something_is_undone(small: tuple[StepProbes, Tree]) -> None:
    """The next one starts from where it was; a harmless one is kept, one that takes nothing away is not tried."""
    probes_of, before = small
    shell, licences, nothing = (
        Step(name=name, why="a test", rule="paths", words=words)
        for name, words in (
            ("shell", ("/usr/bin/busybox",)),
            ("licences", ("/usr/share/common-licenses/*",)),
            ("nothing", ("/nowhere",)),
        )
    )
    first, second = probes_of.each((shell, licences, nothing))
    assert not first.kept
    assert {"reload", "ssh"} <= first.broke.keys()
    assert second.kept
    assert not second.broke
    assert "/usr/bin/busybox" in probes_of.tree.items
    assert probes_of.tree.weight.size < before.weight.size


@pytest.mark.root
def test_a_tree_is_written_as_it_is(lab: Lab, tmp_path: Path) -> None:
    """Owners, modes and times are the original's, and dpkg has nothing of a package that is gone."""
    tree = Tree.read(rootfs.build(lab, "smallest").value.path)
    target = tmp_path / "root"
    target.mkdir()
    tree.without({"/usr/sbin/dropbear", "/usr/lib/dropbear", "/usr/bin/dropbearconvert"}).write(
        target
    )
    source = tree.items["/usr/sbin/apache2"].source
    assert source is not None
    one, other = source.stat(), (target / "usr/sbin/apache2").stat()
    assert (one.st_mode, one.st_mtime, one.st_uid) == (other.st_mode, other.st_mtime, other.st_uid)
    assert (target / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (target / "run/lock/apache2").stat().st_uid == 33
    assert ablation.look(target)[1].holds
