"""The packages that a replica uses: the files it opens, what was left out, and how its job went without."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas
import pytest

from labkit import Lab
from labkit.core import run
from labkit.core.journal import Journal, lock
from labkit.errors import FarmError
from labkit.farm import rootfs
from labkit.farm.containers import runc
from labkit.farm.images import layout as images
from labkit.farm.rootfs.contents import NOBODY, Contents, File, Owner
from labkit.farm.study import opened_files, probes, usage
from labkit.farm.study.sizes import Asked
from labkit.farm.study.usage import FINE, UNTRIED, Evidence, Omission, Served
from tests.sample_packages import package as _package

FILES = {
    "/": Owner("shared"),
    "/usr/sbin/apache2": Owner("package", "apache2-bin"),
    "/usr/sbin/sshd": Owner("package", "openssh-server"),
    "/usr/lib/libssl.so": Owner("package", "libssl"),
    "/usr/lib/libxml.so": Owner("package", "libxml"),
    "/usr/bin/perl": Owner("package", "perl"),
    "/etc/perl.conf": Owner("script", "perl"),
    "/usr/bin/awk": Owner("alternative", "mawk"),
    "/usr/bin/mawk": Owner("package", "mawk"),
    "/var/lib/dpkg/info/mawk.list": Owner("state", "mawk"),
    "/etc/passwd": Owner("script", "passwd"),
    "/notes": NOBODY,
}
SIZES = {"/usr/bin/perl": 900, "/usr/bin/mawk": 50, "/usr/lib/libxml.so": 400}
WEB = Contents(
    name="web",
    files=tuple(
        File(path, "folder" if path == "/" else "file", SIZES.get(path, 1), 4096) for path in FILES
    ),
    owners=FILES,
    kinds=dict.fromkeys(FILES, "other data"),
    packages=(
        _package("apache2-bin", depends=(("libssl",), ("libxml",), ("perl",))),
        _package("openssh-server"),
        _package("libssl", section="libs"),
        _package("libxml", section="libs"),
        _package("perl"),
        _package("mawk", essential=True, description="an awk"),
        _package("passwd"),
    ),
)
OPENED = ("/usr/sbin/apache2", "/usr/lib/libssl.so", "/etc/passwd", "/usr/sbin/sshd", "/tmp/x")
FOUND = usage.classes(WEB, OPENED)
WENT = Served(web=FINE, reload=FINE, ssh=FINE)
FAILED = Served(web=FINE, reload="apache2 has ended: (no output)", ssh=UNTRIED)


def test_packages_are_told_apart_by_what_a_run_opens() -> None:
    """Opened ones and the servers' own, what these depend on, and the others."""
    assert FOUND.opened == ("apache2-bin", "libssl", "openssh-server", "passwd")
    assert FOUND.needed == ("apache2-bin", "libssl", "libxml", "openssh-server", "passwd", "perl")
    assert FOUND.idle == ("libxml", "perl")
    assert FOUND.spare == ("mawk",)
    assert FOUND.size == WEB.weight.size
    assert FOUND.opened_size == 4


def test_what_is_left_out_set_by_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spare ones, all that no run opens, and the heaviest of them each by itself; nothing twice."""
    both = ("libxml", "mawk", "perl")
    assert list(usage.sets(WEB, FOUND)) == [("mawk",), both, ("perl",), ("libxml",)]
    monkeypatch.setattr(usage, "SINGLE", 1)
    assert list(usage.sets(WEB, FOUND)) == [("mawk",), both, ("perl",)]
    needed = FOUND.model_copy(update={"idle": (), "spare": ()})
    assert list(usage.sets(WEB, needed)) == []


def test_the_files_that_go_with_a_package() -> None:
    """Its own and its alternatives; what its scripts made and what dpkg notes of it stays."""
    assert usage.files(WEB, ("perl", "mawk")) == (
        "/usr/bin/perl",
        "/usr/bin/awk",
        "/usr/bin/mawk",
    )


def _evidence(*trials: Omission) -> Evidence:
    return FOUND.model_copy(update={"whole": WENT, "trials": trials})


ALONE = Omission(packages=("perl",), files=1, size=900, served=WENT)
TOGETHER = Omission(packages=("libxml", "mawk", "perl"), files=4, size=1351, served=FAILED)


def test_what_came_of_leaving_a_package_out() -> None:
    """Alone where that was tried, else with the others; '' for a package that stayed. Each set that was left out has a
    row, the first is the image as it is."""
    found = _evidence(TOGETHER, ALONE)
    assert found.told("perl") == "alone: apache2 and ssh answer"
    ended = "after a reload: apache2 has ended: (no output); ssh: not tried"
    assert found.told("libxml") == f"with 2 others: {ended}"
    assert found.told("libssl") == ""
    frame = usage.trial_table(found).frame()
    assert frame["left out"].tolist() == ["nothing", "all that are never opened", "perl"]
    assert frame["ssh session"].tolist() == [FINE, UNTRIED, FINE]


SYSTEMD = _package("systemd", priority="important")
LARGER = dataclasses.replace(WEB, packages=(*WEB.packages, SYSTEMD))


def judged(
    *trials: Omission, contents: Contents = LARGER, found: Evidence = FOUND
) -> pandas.DataFrame:
    """The packages of a root file system by their names, as the evidence judges them."""
    found = found.model_copy(update={"whole": WENT, "trials": trials})
    return usage.judged(contents, found, Asked(packages=("apache2-bin",)))


def test_the_use_of_each_package() -> None:
    """Those that are not needed come first, the heaviest before the others; what the image lacks is not needed."""
    uses = judged().groupby("use", observed=True, sort=True)["package"].agg(list).to_dict()
    assert uses == {
        usage.MEANING["unneeded"]: ["mawk", "systemd"],
        usage.MEANING["idle"]: ["perl", "libxml"],
        usage.MEANING["opened"]: ["apache2-bin", "openssh-server", "libssl", "passwd"],
    }


def test_what_a_smaller_image_does_without_is_depended_on_all_the_same() -> None:
    """The image has no perl, on which apache2-bin depends in the root file system that is looked at."""
    less = tuple(item for item in WEB.packages if item.name != "perl")
    found = usage.classes(dataclasses.replace(WEB, packages=less), OPENED)
    assert "perl" not in found.needed
    assert judged(found=found).set_index("package")["use"]["perl"] == usage.MEANING["idle"]


def test_dpkg_says_what_cannot_go(tmp_path: Path) -> None:
    """A package that another one depends on is not called unneeded; dpkg is asked, and removes nothing."""
    fields = "Status: install ok installed\nMaintainer: x\nArchitecture: all\nVersion: 1\nDescription: x\n"
    status = tmp_path / "var/lib/dpkg/status"
    for name in ("info", "updates"):
        (status.parent / name).mkdir(parents=True)
    status.write_text(
        f"Package: server\nDepends: library\n{fields}\nPackage: library\nEssential: yes\n{fields}\n"
        f"Package: spare\nEssential: yes\n{fields}"
    )
    value = usage.Unneeded(
        variant="v", packages=("library", "spare"), idle=(), needed=("server",), bytes=0, idle_bytes=0,
        total=0, evidence=FOUND,
    )  # fmt: skip
    wrong = usage.separable(value, tmp_path)
    assert (wrong.holds, wrong.seen) == (False, "needed after all: library")
    assert usage.separable(value.model_copy(update={"packages": ("spare",)}), tmp_path).holds


def test_each_package_has_its_reason_its_weight_and_what_came_of_leaving_it_out() -> None:
    """One that is not in the farm's image is not left out of it."""
    frame = usage.package_table(LARGER, judged(TOGETHER, ALONE)).frame().set_index("package")
    assert frame["size"][["mawk", "perl", "libxml"]].tolist() == [52, 901, 400]
    assert frame["why it is there"]["mawk"] == "essential"
    assert frame["why it is there"]["perl"] == "asked for: apache2-bin → perl"
    assert frame["left out of the farm's image"]["perl"] == "alone: apache2 and ssh answer"
    assert frame["left out of the farm's image"]["systemd"] == usage.ABSENT
    assert frame["what it is"]["mawk"] == "an awk"


def test_the_uses_add_up_to_the_whole() -> None:
    """With what belongs to no package as the last row; the heaviest packages of a ground are named."""
    table = usage.ground_table(LARGER, judged())
    assert table.rows[0] == (usage.MEANING["unneeded"], "essential", 1, 52, "mawk")
    frame = table.frame()
    assert frame["size"].sum() == LARGER.weight.size
    assert frame["packages"].sum() == len(LARGER.packages)


def test_reads_what_the_linker_loads() -> None:
    """File names of the libraries that were found; the kernel's own has no file."""
    text = (
        "/usr/sbin/sshd:\n\tlinux-vdso.so.1 (0x00007ffc)\n"
        "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f3a)\n"
        "\t/lib64/ld-linux-x86-64.so.2 (0x00007f3b)\n"
    )
    assert usage.parse_ldd(text) == {"libc.so.6", "ld-linux-x86-64.so.2"}


# -- opened files ----------------------------------------------------------------------------------


def test_paths_are_told_from_the_root_of_the_file_system() -> None:
    """Whether it was opened where it is mounted, or in a mount namespace of its own."""
    root = Path("/run/lab/rootfs")
    for path, seen in (
        (root / "etc/passwd", "/etc/passwd"),
        ("/etc/passwd", "/etc/passwd"),
        (root, "/"),
    ):
        assert opened_files.inside(str(path), root) == seen


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of the test's own."""
    run.run(["mount", "-t", "tmpfs", "labkit-test", tmp_path])
    try:
        yield tmp_path
    finally:
        run.run(["umount", tmp_path])


@pytest.mark.root
def test_the_kernel_tells_which_files_are_opened(disk: Path) -> None:
    """Read, written and executed ones, by whomever; not those that were only looked at."""
    for name in ("read", "executed", "looked", "before"):
        (disk / name).write_text("#!/bin/sh\n")
        (disk / name).chmod(0o755)
    (disk / "before").read_text()
    with opened_files.watching(disk) as seen:
        (disk / "read").read_text()
        (disk / "written").write_text("x")
        run.run([disk / "executed"])
        (disk / "looked").stat()
    assert seen == {"/read", "/written", "/executed"}


# -- on the farm's own image -----------------------------------------------------------------------


def served(lab: Lab, without: tuple[str, ...] = (), *, watch: bool = False) -> Served:
    """A replica's job done once on the image of the lab's first site."""
    unpacked = images.unpacked(lab, lab.sites[0].name)
    with lock(lab.run_dir, "farm"):
        return usage.serve(lab, unpacked, without, watch=watch)


@pytest.mark.root
def test_a_replica_opens_a_small_part_of_its_image(lab: Lab) -> None:
    """The server, its modules and the page, and what an ssh session needs; nothing is left of it."""
    done = served(lab, watch=True)
    assert done.fine, done.told
    assert {
        "/usr/sbin/apache2", "/usr/lib/apache2/modules/mod_include.so", "/usr/sbin/sshd",
        "/var/www/html/index.html", "/usr/bin/bash", "/usr/bin/hostname",
    } <= set(done.opened)  # fmt: skip
    assert not any("perl" in path for path in done.opened)
    assert not runc.folder(lab, "trial-serving").exists()
    assert not [e for e in Journal.of(lab).standing() if e.kind in ("netns", "container", "mount")]


@pytest.mark.root
def test_what_is_missing_is_named(lab: Lab) -> None:
    """A library of the server, and the ssh server: each breaks its own part of the job; an error leaves nothing."""
    unpacked = images.unpacked(lab, lab.sites[0].name)
    (library,) = (unpacked.lower[-1] / "usr/lib").glob("*/libpcre2-8.so.0.*")
    path = f"/{library.relative_to(unpacked.lower[-1])}"
    broken = served(lab, (path,))
    assert "libpcre2-8.so.0" in broken.web
    assert broken.ssh == UNTRIED
    closed = served(lab, ("/usr/sbin/sshd",))
    assert (closed.web, closed.reload) == (FINE, FINE)
    assert "sshd does not start" in closed.ssh
    assert not closed.fine
    absent = served(lab, ("/usr/sbin/apache2",))
    assert "apache2" in absent.web
    assert "answers" not in absent.told
    with pytest.raises(FileNotFoundError):
        served(lab, ("/no/such/file",))
    assert not runc.folder(lab, "trial-serving").exists()
    assert not Path("/run/netns", f"{lab.name}-trial-serving").exists()


@pytest.mark.root
def test_the_farms_base_has_packages_that_it_could_do_without(lab: Lab) -> None:
    """Neither dependencies nor loaded libraries nor a run contradict the list; a second call starts no container."""
    result = usage.unneeded(lab, "essential")
    assert result.holds, [check for check in result.checks if not check.holds]
    value = result.value
    assert set(value.packages) >= {"apt", "util-linux"}
    assert set(value.needed) >= {"libc6", "bash", "coreutils"}
    assert {*value.packages, *value.idle, *value.needed} == {
        row[0] for row in result.table("unneeded").rows
    }
    assert result.table("uses").frame()["size"].sum() == value.total
    again = usage.unneeded(lab, "essential")
    assert not [c for c in again.commands if " create " in c.command]


@pytest.mark.root
def test_the_smallest_image_s_linker_is_asked(lab: Lab) -> None:
    """It has no ldd; of its libraries one that no needed package has is named."""
    root = rootfs.build(lab, "smallest").value.path
    contents = Contents.read("smallest", root)
    names = [package.name for package in contents.packages]
    assert usage.linked(contents, root, names).holds
    less = usage.linked(contents, root, [name for name in names if name != "libcrypt1"])
    assert (less.holds, less.seen) == (False, "of libcrypt1 too")


@pytest.mark.root
def test_the_evidence_is_the_same_for_another_lab(make_lab: Callable[..., Lab]) -> None:
    """The lab's own names do not matter; what is kept is read back as it was."""
    one, other = make_lab(), make_lab()
    assert usage.evidence(one) == usage.evidence(other)


@pytest.mark.root
def test_an_image_that_does_not_serve_is_no_evidence(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an error that says what went wrong, after a second try, and nothing is kept of it."""
    monkeypatch.setattr(probes, "QUESTION", "no-such-program")
    unpacked = images.unpacked(lab, lab.sites[0].name)
    before = sorted(unpacked.lower[-1].parent.iterdir())
    with pytest.raises(FarmError) as caught:
        usage.evidence(lab)
    assert "ssh: " in caught.value.reason
    assert sorted(unpacked.lower[-1].parent.iterdir()) == before
