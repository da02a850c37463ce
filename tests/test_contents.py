"""The contents of root file systems: whose each file is, of what kind, what it weighs; and why a package is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.errors import ConfigError
from labkit.farm import rootfs
from labkit.farm.rootfs import contents, packages, variants
from labkit.farm.rootfs.contents import (
    NOBODY,
    Contents,
    Database,
    Diversion,
    File,
    Form,
    Owner,
    Weight,
    scan,
)
from labkit.farm.study import sizes
from labkit.farm.study.sizes import Asked
from tests.sample_packages import package as _package

# -- scan ------------------------------------------------------------------------------------------


def _tree(root: Path) -> Path:
    """Folders, a file with a hole, two names of one file, a link and a program."""
    (root / "a/b").mkdir(parents=True)
    (root / "a/text").write_text("x" * 5000)
    os.link(root / "a/text", root / "a/b/same")
    with (root / "hole").open("wb") as file:
        file.seek(1_000_000)
        file.write(b"end")
    (root / "link").symlink_to("a/text")
    (root / "program").write_text("#!")
    (root / "program").chmod(0o755)
    return root


def test_the_sums_are_what_du_counts(tmp_path: Path) -> None:
    """Apparent and disk size, with a hole and with two names of one file; folders weigh what du gives them."""
    found = scan(_tree(tmp_path))
    assert sum(file.disk for file in found) == _du("--block-size=1", tmp_path)
    folders = sum(file.size for file in found if file.form == "folder")
    assert _du("--bytes", tmp_path) in _with_or_without(sum(f.size for f in found), folders)


def _du(how: str, root: Path) -> int:
    return int(run.run(["du", "--summarize", how, root]).stdout.split()[0])


def _with_or_without(size: int, folders: int) -> tuple[int, int]:
    """du counts the size of folders themselves up to coreutils 9.1."""
    return size, size - folders


def test_each_name_has_its_form(tmp_path: Path) -> None:
    """By path from the root; the second name of a file weighs nothing; a hole takes no disk."""
    found = {file.path: file for file in scan(_tree(tmp_path))}
    assert list(found) == sorted(found)
    forms = {path: file.form for path, file in found.items()}
    assert forms == {
        "/": "folder", "/a": "folder", "/a/b": "folder", "/a/b/same": "file", "/a/text": "file",
        "/hole": "file", "/link": "link", "/program": "file",
    }  # fmt: skip
    assert found["/a/b/same"].size + found["/a/text"].size == 5000
    assert found["/hole"].size == 1_000_003 > found["/hole"].disk
    assert found["/link"].target == "a/text"
    assert [path for path, file in found.items() if file.executable] == ["/program"]


def test_of_layers_the_topmost_counts(tmp_path: Path) -> None:
    """A name in both layers is the upper one's; what only one has is there."""
    for layer, text in (("below", "long text"), ("above", "short")):
        (tmp_path / layer / "etc").mkdir(parents=True)
        (tmp_path / layer / "etc/both").write_text(text)
        (tmp_path / layer / f"etc/{layer}").touch()
    found = {f.path: f.size for f in scan(tmp_path / "above", tmp_path / "below")}
    assert found["/etc/both"] == len("short")
    assert {"/etc/above", "/etc/below"} <= found.keys()


# -- dpkg's database -------------------------------------------------------------------------------

ALTERNATIVE = """\
auto
/usr/bin/awk
awk.1.gz
/usr/share/man/man1/awk.1.gz

/usr/bin/mawk
5
/usr/share/man/man1/mawk.1.gz
"""


def test_what_the_package_tools_keep_is_read() -> None:
    """An alternative's links and its followers', also those in /etc/alternatives; three lines a diversion; package and
    path a line of ucf's registry; the second word of a line for systemd-tmpfiles; a file list's package."""
    assert set(contents.parse_alternative("awk", ALTERNATIVE)) == {
        "/usr/bin/awk", "/usr/share/man/man1/awk.1.gz",
        "/etc/alternatives/awk", "/etc/alternatives/awk.1.gz",
    }  # fmt: skip
    text = "/bin/sh\n/bin/sh.distrib\ndash\n"
    assert contents.parse_diversions(text) == (Diversion("/bin/sh", "/bin/sh.distrib", "dash"),)
    registry = contents.parse_registry("openssh-server /etc/ssh/sshd_config\n")
    assert registry == {"/etc/ssh/sshd_config": "openssh-server"}
    text = "# d /no 0755\n\nd /run/setrans 0755 root root - -\nL? /etc/vconsole.conf - - - - x\nd\n"
    assert contents.parse_tmpfiles(text) == ("/run/setrans", "/etc/vconsole.conf")
    names = {"libc6:amd64.list": "libc6", "libpam0g.postinst": "libpam0g", "g++-12.list": "g++-12"}
    assert {name: contents.package_of(name) for name in names} == names


def test_where_a_name_really_lies() -> None:
    """Folders that are links are followed, also through several; the last part is not."""
    links = {"/bin": "usr/bin", "/var/run": "/run", "/deep/one": "../bin", "/loop": "loop"}
    places = {
        "/bin/sh": "/usr/bin/sh", "/bin": "/bin", "/var/run/x/y": "/run/x/y", "/deep/one/file": "/usr/bin/file",
        "/loop/x": "/loop/x", "/": "/",
    }  # fmt: skip
    assert {path: contents.resolver(links)(path) for path in places} == places


# -- owners ----------------------------------------------------------------------------------------

DATABASE = Database(
    packages=tuple(
        _package(name)
        for name in ("apache2", "base-passwd", "bash", "dash", "libc-bin", "mawk", "python3", "cron")
    ),
    lists={
        "dash": ("/", "/bin", "/bin/sh", "/bin/dash", "/etc"),
        "bash": ("/", "/bin", "/bin/sh", "/bin/bash", "/etc"),
        "mawk": ("/usr/bin/mawk",),
        "apache2": ("/etc/apache2", "/etc/apache2/mods-available/mime.load"),
        "python3": ("/usr/lib/python3/os.py",),
        "cron": ("/lib/systemd/system/cron.service", "/usr/lib/systemd/user/cron.socket"),
        "gone": ("/etc/gone.conf",),
    },
    diversions=(Diversion("/bin/sh", "/bin/sh.distrib", "dash"),),
    alternatives=frozenset(("/usr/bin/awk", "/etc/alternatives/awk")),
    kept={"/etc/kept.conf": "apache2"},
    scripts={
        "bash": "touch /etc/made /etc/both\n",
        "dash": "rm -f /etc/both; update-shells\n",
    },
    wanted={"/var/run/wanted": "mawk", "/etc/made": "mawk", "/run/sshd": "mawk"},
)  # fmt: skip
LINKS = {
    "/bin": "usr/bin",
    "/lib": "usr/lib",
    "/var/run": "/run",
    "/usr/bin/awk": "/etc/alternatives/awk",
    "/etc/alternatives/awk": "/usr/bin/mawk",
    "/etc/apache2/mods-enabled/mime.load": "../mods-available/mime.load",
    "/etc/round": "/etc/round",
}
FOLDERS = ("/", "/etc", "/etc/apache2")


#: One for each way; /etc/both is named by two packages' scripts, and so nobody's.
OWNERS = {
    "/usr/bin/dash": Owner("package", "dash"),
    "/usr/bin/sh": Owner("package", "dash"),
    "/usr/bin/sh.distrib": Owner("package", "bash"),
    "/bin": Owner("shared"),
    "/etc": Owner("shared"),
    "/etc/apache2": Owner("package", "apache2"),
    "/etc/gone.conf": Owner("package", "gone"),
    "/usr/bin/awk": Owner("alternative", "mawk"),
    "/etc/alternatives/awk": Owner("alternative", "mawk"),
    "/etc/kept.conf": Owner("script", "apache2"),
    "/etc/passwd": Owner("script", "base-passwd"),
    "/etc/ld.so.cache": Owner("script", "libc-bin"),
    "/etc/apache2/mods-enabled/mime.load": Owner("script", "apache2"),
    "/usr/lib/python3/__pycache__/os.cpython-311.pyc": Owner("script", "python3"),
    "/var/lib/systemd/deb-systemd-helper-enabled/multi-user.target.wants/cron.service": Owner(
        "script", "cron"
    ),
    "/var/lib/systemd/deb-systemd-user-helper-enabled/cron.socket.dsh-also": Owner(
        "script", "cron"
    ),
    "/etc/made": Owner("script", "bash"),
    "/run/wanted": Owner("script", "mawk"),
    "/run/sshd": Owner("builder"),
    "/etc/both": NOBODY,
    "/var/lib/dpkg/info/bash.list": Owner("state", "bash"),
    "/var/lib/dpkg/info/mawk:amd64.md5sums": Owner("state", "mawk"),
    "/var/lib/dpkg/info/gone.list": Owner("state"),
    "/var/lib/dpkg/status": Owner("state"),
    "/var/cache/debconf/config.dat": Owner("state"),
    "/etc/resolv.conf": Owner("builder"),
    "/dev/null": Owner("builder"),
    "/etc/round": NOBODY,
    "/root/notes": NOBODY,
}


def test_whose_a_file_is() -> None:
    """Each by itself, beside links and folders; a rule for a package that is not installed does not apply."""
    for path, owner in OWNERS.items():
        names = (*FOLDERS, *LINKS, path)
        files = [File(name, _form(name), 1, 1, target=LINKS.get(name, "")) for name in names]
        assert contents.attribute(files, DATABASE)[path] == owner, path
    key = "/etc/ssh/ssh_host_rsa_key"
    known = DATABASE._replace(packages=())
    assert contents.attribute([File(key, "file", 1, 1)], known) == {key: NOBODY}


def _form(path: str) -> Form:
    if path in LINKS:
        return "link"
    return "folder" if path in FOLDERS else "file"


# -- kinds -----------------------------------------------------------------------------------------


KINDS = {
    "/usr/share/doc/bash/copyright": "licences",
    "/usr/share/doc/bash/README.gz": "documentation",
    "/usr/share/man/de/man1/ls.1.gz": "man pages",
    "/usr/share/locale/de/LC_MESSAGES/bash.mo": "locales",
    "/usr/lib/x86_64-linux-gnu/gconv/UTF-7.so": "character sets",
    "/usr/share/zoneinfo/Europe/Paris": "time zones",
    "/usr/share/terminfo/x/xterm": "fonts and terminals",
    "/usr/lib/x86_64-linux-gnu/libc.a": "headers",
    "/usr/lib/udev/hwdb.bin": "hardware lists",
    "/usr/bin/perl5.36-x86_64-linux-gnu": "Perl",
    "/usr/lib/x86_64-linux-gnu/libperl.so.5.36.0": "shared objects",
    "/usr/bin/python3.11": "Python",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "certificates and keys",
    "/usr/share/bash-completion/completions/umount": "shell completions",
    "/etc/cron.daily/apt-compat": "service definitions",
    "/usr/lib64/ld-linux-x86-64.so.2": "shared objects",
    "/var/lib/dpkg/status": "package-manager state",
    "/var/log/wtmp": "logs and caches",
    "/etc/apache2/apache2.conf": "configuration",
    "/usr/sbin/apache2": "executables",
    "/usr/share/apache2/icons/a.png": "other data",
}


def test_what_kind_a_file_is() -> None:
    """By where it lies and how it is called; folders and devices are kinds of their own; a program may lie anywhere."""
    files = [File(path, "file", 1, 1) for path in KINDS]
    assert {file.path: contents.kind(file) for file in files} == KINDS
    for file, kind in (
        (File("/usr/share/doc", "folder", 4096, 4096), "folders"),
        (File("/dev/null", "device", 0, 0), "devices"),
        (File("/usr/lib/apt/methods/http", "file", 1, 1, executable=True), "executables"),
        (File("/usr/bin/awk", "link", 1, 0, target="mawk"), "executables"),
    ):
        assert contents.kind(file) == kind


# -- reasons ---------------------------------------------------------------------------------------

LISTED = (
    _package("web", depends=(("lib",), ("mail-transport-agent", "nothing"))),
    _package("lib", depends=(("libdeep",),)),
    _package("libdeep"),
    _package("postfix", provides=("mail-transport-agent",), recommends=(("helper",),)),
    _package("helper", depends=(("libhelper",),)),
    _package("libhelper"),
    _package("shell", essential=True, depends=(("libshell",), ("libdeep",))),
    _package("libshell"),
    _package("zone", priority="required"),
    _package("init", priority="important", depends=(("zone",), ("libinit",))),
    _package("libinit"),
    _package("left"),
)


def test_why_a_package_is_there() -> None:
    """The shortest chain from what was asked for goes before one from what is taken anyway."""
    given = Asked(packages=("web",), priorities=("required", "important"))
    assert {name: why.text for name, why in sizes.reasons(LISTED, given).items()} == {
        "web": "asked for",
        "lib": "asked for: web → lib",
        "libdeep": "asked for: web → lib → libdeep",
        "postfix": "asked for: web → postfix",
        "helper": "recommended: postfix → helper",
        "libhelper": "recommended: postfix → helper → libhelper",
        "shell": "essential",
        "libshell": "essential: shell → libshell",
        "zone": "priority required",
        "init": "priority important",
        "libinit": "priority important: init → libinit",
        "left": "nobody needs it any more",
    }


def test_what_is_no_reason_and_what_ends() -> None:
    """mmdebstrap's variant essential takes no priority: then such a package is left over. In a circle of dependencies
    each package is there because of the one that was asked for."""
    given = sizes.asked(variants.named("essential"), ("web",))
    assert given == Asked(packages=("web", "apt", "usr-is-merged"), priorities=())
    assert sizes.reasons(LISTED, given)["zone"].text == "nobody needs it any more"
    listed = (_package("a", "b"), _package("b", "a"))
    assert sizes.reasons(listed, Asked(packages=("a",)))["b"].path == ("a", "b")


# -- the account -----------------------------------------------------------------------------------

STATUS = """\
Package: bash
Status: install ok installed
Section: shells
Architecture: all
Version: 1
"""


def _system(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in {"var/lib/dpkg/status": STATUS, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_every_table_adds_up_to_the_whole(tmp_path: Path) -> None:
    """By owner, kind, section, priority and package: the same sums of files, size and disk."""
    root = _system(
        tmp_path, {"usr/bin/bash": "x" * 999, "var/lib/dpkg/info/bash.list": "/usr/bin/bash\n", "lost": "?"}
    )  # fmt: skip
    contents = Contents.read("small", root)
    tables = {table.name: table for table in sizes.tables(contents, Asked())}
    whole = contents.weight
    for table in tables.values():
        sums = table.frame()[["files", "size", "on disk"]].sum().tolist()
        assert sums == [whole.files, whole.size, whole.disk]
    packages = tables["packages"].frame().set_index("package")
    assert packages.loc["bash", "size"] == 999 + len("/usr/bin/bash\n")
    assert packages.loc["bash", "mostly"] == "executables"


def test_of_layers_the_database_below_counts(tmp_path: Path) -> None:
    """A site's layer has files and no packages; its files are its own, also where a package lists them."""
    lists = {"var/lib/dpkg/info/bash.list": "/usr/bin/bash\n/etc/bash\n"}
    below = _system(tmp_path / "below", {"usr/bin/bash": "x", "etc/bash": "x", **lists})
    (tmp_path / "above/var/www").mkdir(parents=True)
    (tmp_path / "above/etc").mkdir()
    (tmp_path / "above/etc/bash").write_text("site")
    contents = Contents.read("site", tmp_path / "above", below)
    assert [package.name for package in contents.packages] == ["bash"]
    assert contents.owners["/var/www"] == NOBODY
    assert contents.owners["/etc/bash"] == Owner("builder")
    assert contents.owners["/usr/bin/bash"] == Owner("package", "bash")


def test_an_unknown_name_is_refused() -> None:
    """Neither a variant nor, as ``image:`` says, a tag of the image: before anything is built."""
    with pytest.raises(ConfigError) as caught:
        sizes.find(Lab(), "debootstrp")
    assert "debootstrap" in caught.value.remedy


# -- on real root file systems ---------------------------------------------------------------------


@pytest.mark.root
def test_every_byte_of_every_variant_in_the_cache_is_owned(lab: Lab) -> None:
    """The sums are du's, to the byte, and next to nothing belongs to nobody."""
    made = rootfs.build(lab, "essential").value
    roots = sorted((lab.cache_dir / "rootfs").glob("[!.]*/rootfs"))
    assert made.path in roots
    for root in roots:
        contents = Contents.read(root.parent.name, root)
        whole = contents.weight
        folders = Weight.of(file for file in contents.files if file.form == "folder").size
        assert whole.disk == _du("--block-size=1", root)
        assert _du("--bytes", root) in _with_or_without(whole.size, folders)
        lost = [f for f in contents.files if contents.owners[f.path].how == "nobody"]
        assert Weight.of(lost).size < whole.size / 1000, root


@pytest.mark.root
def test_the_farms_base_is_explained(lab: Lab) -> None:
    """Every package has a reason; dpkg, asked of the same files, names the same owners."""
    result = sizes.explain(lab, "essential")
    assert result.holds
    assert not result.changed
    rows = result.table("packages").frame()
    assert "nobody needs it any more" not in set(rows["why it is there"])
    contents = sizes.named(lab, "essential")
    (root,) = sizes.find(lab, "essential").roots
    for path in ("/usr/bin/perl", "/etc/debian_version", "/usr/bin/apt-get"):
        said = run.run(["dpkg", f"--root={root}", "--search", path]).stdout
        assert contents.owners[path] == Owner("package", said.split(":")[0])


def test_the_archives_priority_goes_before_the_packages_own(tmp_path: Path) -> None:
    """debootstrap takes packages by the archive's priorities and notes them."""
    _system(tmp_path, {"var/lib/dpkg/available": "Package: bash\nPriority: important\n"})
    assert packages.read(tmp_path)[0].priority == "important"
