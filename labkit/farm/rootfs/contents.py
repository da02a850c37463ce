"""Scans a root file system: each file's size and kind, and the package that it belongs to.

A file's owner is the first of these that applies: a package lists the file; ucf or update-alternatives keeps it for a
package; it is the package tools' own state; a package's scripts are known to make it (:data:`MADE`), or it is a link to
a package's file, or the scripts of exactly one package name it; the program that built the root file system writes it
(:data:`BUILT`); a package has systemd-tmpfiles make it. Other files belong to no package. Read are dpkg's file lists,
diversions and alternatives (dpkg(1), dpkg-divert(1), update-alternatives(1)), and the files that ucf(1) keeps.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from labkit.farm.rootfs import packages
from labkit.farm.rootfs.packages import STATUS, Package
from labkit.records import Record

Form = Literal["file", "folder", "link", "device"]


#: Kind -> the paths of its files, whole; ``{lib}`` is a folder of libraries. The order counts: a copyright file
#: is a licence before it is documentation. ``locales``: translations, and what a language
#: writes and sorts by.
PATHS: Mapping[str, str] = {
    "package-manager state": r"/var/lib/(dpkg|apt|aptitude|ucf)/.*|/var/cache/(apt|debconf)/.*"
    r"|/var/backups/.*",
    "licences": r"/usr/share/doc/.*/(copyright|LICEN[CS]E|NOTICE|COPYING)[^/]*"
    r"|/usr/share/common-licenses/.*",
    "documentation": r"/usr/share/(doc|info|doc-base|gtk-doc|lintian|bug|menu|linda)/.*",
    "man pages": r"/usr/share/man/.*|/var/cache/man/.*|/usr/local/man",
    "locales": r"/usr/share/(locale|i18n)/.*|/usr/lib/locale/.*|.*/[^/]+\.mo",
    "character sets": r"{lib}/([^/]+/)?gconv/.*",
    "time zones": r"/usr/share/zoneinfo/.*|/etc/(localtime|timezone)",
    "fonts and terminals": r"/usr/share/(fonts|consolefonts|consoletrans|keymaps|tabset)/.*"
    r"|(/usr/share|/usr/lib|/etc)/terminfo/.*|/usr/share/X11/.*",
    "headers": r"/usr/include/.*|.*/pkgconfig/.*|{lib}/.*\.(a|la|o)|/usr/share/aclocal/.*",
    "hardware lists": r"/usr/lib/udev/hwdb.*|/etc/udev/hwdb.*|/usr/share/(misc|hwdata)/[^/]*\.ids.*"
    r"|/usr/lib/(firmware|modules)/.*",
    "Perl": r"/usr/(share|lib|local/lib)(/[^/]+)?/perl.*|/usr/bin/(perl|cpan|c?prove|pod)[^/]*"
    r"|.*\.(pm|pl|ph|pod|al|ix)",
    "Python": r"/usr/(lib|share|local/lib)/python3?[^/]*/.*|/usr/bin/(py|python)[^/]*|.*\.pyc?",
    "certificates and keys": r"/usr/share/(ca-certificates|keyrings)/.*|/etc/ssl/.*"
    r"|/etc/apt/trusted\.gpg.*|.*\.(gpg|pem|crt)",
    "shell completions": r"/usr/share/(bash-completion|zsh|fish)/.*|/etc/bash_completion\.d/.*",
    "service definitions": r"(/usr/lib|/etc)/systemd/.*|/etc/(init|rc[0-6S]|cron)\.?[a-z]*/.*"
    r"|/usr/lib/(udev|tmpfiles|sysusers|modprobe|sysctl|modules-load|init)(\.d)?/.*"
    r"|/var/lib/systemd/.*|/etc/(sv|runit)/.*|/usr/share/runit/.*",
    "shared objects": r"{lib}/.*\.so([.-][^/]*)?|/usr/lib(x?32|64)?/ld-.*",
    "logs and caches": r"/var/(log|cache|tmp|spool)/.*|/run/.*",
    "configuration": r"/etc/.*",
}


LIBRARIES = r"/usr/(local/)?lib(32|64|x32|exec)?"


#: Where programs lie that people and other programs call.
PROGRAMS = re.compile(r"/(usr/(local/)?)?s?bin/.*|/usr/libexec/.*")


RULES = tuple((kind, re.compile(text.replace("{lib}", LIBRARIES))) for kind, text in PATHS.items())


KINDS = (*PATHS, "executables", "other data", "folders", "devices")


class File(NamedTuple):
    """One name in a root file system (a plain tuple: there are thousands of them).

    ``path`` begins with ``/``, the root itself; ``size`` is the apparent size and ``disk`` what the
    file takes on its disk, in bytes, as du(1) counts both: a file with holes takes less than
    its size, and of several names of one file (hard links) all but the first weigh nothing.
    ``target`` is where a symbolic link points to, as it is written in it.
    """

    path: str
    form: Form
    size: int
    disk: int
    executable: bool = False
    target: str = ""


def scan(*roots: Path) -> tuple[File, ...]:
    """The files below ``roots``, by path; of a name in several of them the first root's counts.

    Several roots are an image's layers, the topmost first, none of which removes a file.
    """
    found: dict[str, tuple[os.stat_result, str]] = {}
    for root in reversed(roots):
        found["/"] = (root.lstat(), "")
        found.update(_below(str(root), ""))
    seen: set[tuple[int, int]] = set()
    return tuple(_file(path, *found[path], seen) for path in sorted(found))


def _below(folder: str, prefix: str) -> Iterator[tuple[str, tuple[os.stat_result, str]]]:
    """Path below the root -> what stat(2) says, and a link's target."""
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{prefix}/{entry.name}"
            target = str(Path(entry.path).readlink()) if entry.is_symlink() else ""
            yield path, (entry.stat(follow_symlinks=False), target)
            if entry.is_dir(follow_symlinks=False):
                yield from _below(entry.path, path)


def _file(path: str, status: os.stat_result, target: str, seen: set[tuple[int, int]]) -> File:
    form = _form(status.st_mode)
    size, disk = status.st_size, status.st_blocks * 512  # st_blocks: inode(7)
    if status.st_nlink > 1 and form != "folder":
        inode = (status.st_dev, status.st_ino)
        if inode in seen:
            size = disk = 0
        seen.add(inode)
    executable = form == "file" and bool(status.st_mode & 0o111)
    return File(path, form, size, disk, executable, target)


def _form(mode: int) -> Form:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "link" if stat.S_ISLNK(mode) else "device"


def kind(file: File) -> str:
    """The kind of a file, one of :data:`KINDS`; a link is what its own place says."""
    if file.form == "folder":
        return "folders"
    if file.form == "device":
        return "devices"
    for name, pattern in RULES:
        if pattern.fullmatch(file.path):
            return name
    if file.executable or PROGRAMS.fullmatch(file.path):
        return "executables"
    return "other data"


# -- owners ------------------------------------------------------------------------------------------

How = Literal["package", "alternative", "script", "state", "shared", "builder", "nobody"]

#: What each way to own a file means, as a table says it.
MEANING: Mapping[How, str] = {
    "package": "files of a package, as dpkg lists them",
    "alternative": "links of update-alternatives",
    "script": "made by a package's maintainer scripts",
    "state": "state of dpkg, apt and debconf",
    "shared": "folders that several packages list",
    "builder": "written by the program that built it",
    "nobody": "nobody's",
}


#: dpkg's files of one package.
INFO = re.compile(r"/var/lib/dpkg/info/([^/:]+)(?::[^/.]+)?\.[a-z0-9]+")
#: How many links are followed before they are taken for a circle.
HOPS = 8
#: dpkg's own folder below a root folder.
DPKG = "var/lib/dpkg"
#: A package's scripts beside its file list; ``.triggers`` names the files that wake one.
SCRIPTS = ("preinst", "postinst", "config", "triggers")
#: Where packages write down what systemd-tmpfiles(8), which their scripts start, is to make.
TMPFILES = PurePosixPath("/usr/lib/tmpfiles.d")
#: What the package tools write about themselves: databases, indices, downloads, logs, backups.
STATE = re.compile(
    r"/var/lib/(dpkg|apt|aptitude|ucf)(/.*)?"
    r"|/var/cache/(apt|debconf)(/.*)?"
    r"|/var/log/(apt(/.*)?|(dpkg|alternatives)\.log.*)"
    r"|/var/backups(/.*)?"
)
#: What maintainer scripts, and the programs that they call, make -> the package that it is owed to;
#: of several the first that is installed.
MADE: Mapping[str, tuple[str, ...]] = {
    r"/(media|mnt|opt|srv|etc/opt|var/opt|usr/local(/.*)?)": ("base-files",),
    r"/etc/(passwd|group)": ("base-passwd",),
    r"/etc/((passwd|group)-|g?shadow-?|sub[ug]id-?|\.pwd\.lock)": ("passwd",),
    r"/etc/shells|/var/lib/shells\.state": ("debianutils",),
    r"/etc/nsswitch\.conf": ("base-files",),
    r"/etc/(ld\.so\.cache|ld\.so\.cache~)|/var/cache/ldconfig(/.*)?": ("libc-bin",),
    r"/usr/lib/[^/]+/gconv/gconv-modules\.cache": ("libc-bin", "libc6"),
    r"/usr/lib/locale/locale-archive|/etc/default/locale": ("locales",),
    r"/etc/(localtime|timezone)": ("tzdata",),
    r"/etc/pam\.d/common-.*|/var/lib/pam(/.*)?": ("libpam-runtime",),
    r"/etc/ssl/certs(/.*)?|/etc/ca-certificates(/.*|\.conf)?": ("ca-certificates",),
    r"/etc/ssh/ssh_host_.*": ("openssh-server",),
    r"/var/lib/apache2(/.*)?": ("apache2",),
    r"/var/cache/man(/.*)?": ("man-db",),
    r"/usr/share/info/dir(\.old)?": ("install-info", "base-files"),
    r"/(usr/lib|etc)/udev/hwdb\.bin": ("udev", "systemd-hwe-hwdb"),
    r"/etc/mtab|/root/\.ssh|/var/lib/systemd/(catalog|coredump|pstore)(/.*)?": ("systemd",),
    r"/run/(log|shm|user|sendsigs\.omit\.d|lock/subsys|systemd(/.*)?)": ("systemd",),
    r"/var/(cache|lib|log)/private": ("systemd",),
    r"/etc/systemd/(system|user)/[^/]+\.wants": ("init-system-helpers",),
    r"/var/lib/systemd/deb-systemd-(user-)?helper-[a-z]+(/[^/]+\.wants)?": ("init-system-helpers",),
    r"/run/adduser": ("adduser",),
    r"/run/mount": ("mount",),
    r"/run/runit(/.*)?": ("runit-helper",),
    r"/var/lib/wtmpdb": ("libwtmpdb0",),
}
#: What debootstrap, mmdebstrap, debuerreotype and labkit write into every root file system.
BUILT = re.compile(
    r"/dev(/.*)?"
    r"|/usr/lib(32|64|x32|o32)|/(bin|sbin|lib|lib32|lib64|libx32)"
    r"|/etc/(fstab|hostname|hosts|resolv\.conf)|/var/log/bootstrap\.log"
    r"|/etc/apt/sources\.list(\.d/[^/]+)?|/etc/apt/apt\.conf\.d/(99mmdebstrap|docker-.*)"
    r"|/etc/dpkg/dpkg\.cfg\.d/(99mmdebstrap|99labkit|docker.*)"
    r"|/usr/sbin/policy-rc\.d|/debuerreotype-epoch|/debootstrap(/.*)?"
    r"|/run/apache2|/run/lock/apache2|/run/sshd"
)
#: A unit that deb-systemd-helper(1p) has noted as enabled: where its own file lies.
NOTED = re.compile(
    r"/var/lib/systemd/deb-systemd-(?:user-)?helper-[a-z]+/(?:.*/)?([^/]+?)(?:\.dsh-also)?"
)
UNITS = ("/usr/lib/systemd/system", "/etc/systemd/system", "/usr/lib/systemd/user")
#: A module that Python compiled: the file that it was compiled from.
COMPILED = re.compile(r"(.*)/__pycache__/([^/.]+)\.[^/]+\.pyc")


class Owner(NamedTuple):
    """How a file came to be there, and the package that it is owed to ('' where it is to none)."""

    how: How
    package: str = ""


NOBODY = Owner("nobody")


def attribute(files: Iterable[File], known: Database) -> dict[str, Owner]:
    """The owner of each file, by its path."""
    finder = _Finder(files, known)
    return {path: finder.owner(path) for path in finder.here}


class _Finder:
    """Finds owners by real paths (:func:`resolver`)."""

    def __init__(self, files: Iterable[File], known: Database) -> None:
        self.here = {file.path: file for file in files}
        self.real = resolver({path: f.target for path, f in self.here.items() if f.target})
        self.listed = listed(known, self.real)
        self.alternatives = frozenset(map(self.real, known.alternatives))
        self.kept = {self.real(path): package for path, package in known.kept.items()}
        self.wanted = {self.real(path): package for path, package in known.wanted.items()}
        self.installed = frozenset(package.name for package in known.packages)
        self.named: dict[str, set[str]] = {}  # path -> the packages whose scripts name it
        for package, text in known.scripts.items():
            for path in re.findall(r"/[\w.+/-]+\w", text):
                self.named.setdefault(path, set()).add(package)

    def owner(self, path: str, hops: int = 0) -> Owner:
        lists = self.listed.get(path, ())
        if lists:
            shared = len(lists) > 1 and self._joins(path)
            return Owner("shared") if shared else Owner("package", lists[0])
        if path in self.kept:
            return Owner("script", self.kept[path])
        if path in self.alternatives:
            return Owner("alternative", self._target(path, hops))
        if info := INFO.fullmatch(path):
            return Owner("state", info[1] if info[1] in self.installed else "")
        return self._unlisted(path, hops)

    def _unlisted(self, path: str, hops: int) -> Owner:
        if STATE.fullmatch(path):
            return Owner("state")
        if package := self._maker(path, hops):
            return Owner("script", package)
        if BUILT.fullmatch(path):
            return Owner("builder")
        return Owner("script", self.wanted[path]) if path in self.wanted else NOBODY

    def _maker(self, path: str, hops: int) -> str:
        """The package whose scripts made a file that no package lists, '' for none."""
        if hops > HOPS:
            return ""
        made_from = (self.owner(self.real(item), hops + 1).package for item in sources(path))
        named = self.named.get(path, set())
        return (
            self._known_maker(path)
            or next(filter(None, made_from), "")
            or self._target(path, hops)
            or (next(iter(named)) if len(named) == 1 else "")
        )

    def _known_maker(self, path: str) -> str:
        names = next((n for pattern, n in MADE.items() if re.fullmatch(pattern, path)), ())
        return next((name for name in names if name in self.installed), "")

    def _target(self, path: str, hops: int) -> str:
        """The package of what a link points to; also when that is gone, as dpkg still lists it."""
        file = self.here.get(path)
        if file is None or not file.target or hops > HOPS:
            return ""
        return self.owner(self.real(joined(path, file.target)), hops + 1).package

    def _joins(self, path: str) -> bool:
        """Whether it is a folder, or a link where packages list one (``/bin``)."""
        file = self.here.get(path)
        return file is None or file.form in ("folder", "link")


class Diversion(NamedTuple):
    """A file of every package but ``package`` is at ``away`` instead of ``path``."""

    path: str
    away: str
    package: str


class Database(NamedTuple):
    """What is known of the files, with paths as the packages write them.

    ``lists``: package -> its files and folders. ``alternatives``: the links that
    update-alternatives made. ``kept``: file -> the package for which ucf keeps it. ``scripts``:
    package -> the text of its maintainer scripts. ``wanted``: path -> the package that has
    systemd-tmpfiles make it.
    """

    packages: tuple[Package, ...]
    lists: Mapping[str, tuple[str, ...]]
    diversions: tuple[Diversion, ...]
    alternatives: frozenset[str]
    kept: Mapping[str, str]
    scripts: Mapping[str, str]
    wanted: Mapping[str, str]


def database(root: Path) -> Database:
    """The database of the root file system; raises StateError where dpkg has none."""
    info = root / DPKG / "info"
    lists: dict[str, tuple[str, ...]] = {}
    for path in sorted(info.glob("*.list")):
        name = package_of(path.name)
        lists[name] = (*lists.get(name, ()), *parse_list(_text(path)))
    scripts: dict[str, str] = {}
    for ending in SCRIPTS:
        for path in sorted(info.glob(f"*.{ending}")):
            name = package_of(path.name)
            scripts[name] = scripts.get(name, "") + _text(path)
    return Database(
        packages=packages.read(root),
        lists=lists,
        diversions=parse_diversions(_text(root / DPKG / "diversions")),
        alternatives=frozenset(
            link
            for path in sorted((root / DPKG / "alternatives").glob("*"))
            for link in parse_alternative(path.name, _text(path))
        ),
        kept=parse_registry(_text(root / "var/lib/ucf/registry")),
        scripts=scripts,
        wanted={
            wanted: name
            for name, paths in lists.items()
            for path in paths
            if PurePosixPath(path).parent == TMPFILES
            for wanted in parse_tmpfiles(_text(root / path[1:]))
        },
    )


def package_of(name: str) -> str:
    """The package of a file in dpkg's folder ``info``: ``libc6:amd64.list`` is libc6's."""
    return PurePosixPath(name).stem.partition(":")[0]


def parse_list(text: str) -> tuple[str, ...]:
    """The absolute paths of a file list; the root folder is in each as ``/.``."""
    return tuple("/" if line == "/." else line for line in text.splitlines() if line)


def parse_diversions(text: str) -> tuple[Diversion, ...]:
    """Three lines a diversion; the package is ``:`` for one that the administrator made."""
    lines = text.splitlines()
    return tuple(map(Diversion, lines[0::3], lines[1::3], lines[2::3]))


def parse_alternative(name: str, text: str) -> tuple[str, ...]:
    """The links of one alternative and of those that follow it, also the ones in /etc/alternatives.

    The file: a state, the link, then (name, link) for each follower up to an empty line.
    """
    head = text.split("\n\n", maxsplit=1)[0].splitlines()[1:]
    return (*head[0::2], *(f"/etc/alternatives/{item}" for item in (name, *head[1::2])))


def parse_registry(text: str) -> dict[str, str]:
    """ucf's registry: ``package path`` a line."""
    rows = (line.split(maxsplit=1) for line in text.splitlines())
    return {row[1]: row[0] for row in rows if len(row) == 2}


def parse_tmpfiles(text: str) -> tuple[str, ...]:
    """The paths of a file for systemd-tmpfiles (tmpfiles.d(5)): the second word of each line."""
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return tuple(row[1] for row in rows if len(row) > 1)


def resolver(links: Mapping[str, str]) -> Callable[[str], str]:
    """A function from a path to where that name really lies, given all symbolic links (path -> target).

    Folders that are links are followed (``/bin/sh`` lies at ``/usr/bin/sh``), the last
    part of the path is not. The caller may follow that itself: ``/usr/bin/sh`` -> ``dash``.
    """
    known: dict[str, str] = {"/": "/"}

    def folder(path: str) -> str:
        if path not in known:
            known[path] = path  # a circle of links ends here
            place = name(path)
            target = links.get(place)
            known[path] = place if target is None else folder(joined(place, target))
        return known[path]

    def name(path: str) -> str:
        if path == "/":
            return path
        above, _, last = path.rpartition("/")
        return f"{folder(above or '/').rstrip('/')}/{last}"

    return name


def joined(link: str, target: str) -> str:
    """The absolute path that a link at ``link`` points to, without ``.`` and ``..``."""
    parts: list[str] = [] if target.startswith("/") else link.split("/")[1:-1]
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/" + "/".join(parts)


def listed(database: Database, real: Callable[[str], str]) -> dict[str, tuple[str, ...]]:
    """The real path of each file and folder of a package -> the packages that list it, by name.

    A diverted file counts at its other place.
    """
    away = {item.path: item for item in database.diversions}
    found: dict[str, set[str]] = {}
    for package, paths in database.lists.items():
        for path in paths:
            item = away.get(path)
            place = item.away if item and item.package != package else path
            found.setdefault(real(place), set()).add(package)
    return {path: tuple(sorted(owners)) for path, owners in found.items()}


def _text(path: Path) -> str:
    """A file's text; '' where there is none."""
    if not path.is_file():
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def sources(path: str) -> tuple[str, ...]:
    """The paths one of which a file was made from, and whose owner is its own: none for most."""
    if compiled := COMPILED.fullmatch(path):
        return (f"{compiled[1]}/{compiled[2]}.py",)
    if noted := NOTED.fullmatch(path):
        return tuple(f"{folder}/{noted[1]}" for folder in UNITS)
    return ()


# -- all files together ------------------------------------------------------------------------------


class Weight(Record):
    """How many files, their apparent size and what they take on their disk (bytes)."""

    files: int
    size: int
    disk: int

    @classmethod
    def of(cls, files: Iterable[File]) -> Weight:
        """The sum of some files."""
        listed = list(files)
        return cls(
            files=len(listed),
            size=sum(file.size for file in listed),
            disk=sum(file.disk for file in listed),
        )


@dataclass(frozen=True)
class Contents:
    """The files of a root file system, each with its owner and its kind (by path), and its packages."""

    name: str
    files: tuple[File, ...]
    owners: Mapping[str, Owner]
    kinds: Mapping[str, str]
    packages: tuple[Package, ...]

    @property
    def weight(self) -> Weight:
        """The sum of all files, as du(1) counts a folder."""
        return Weight.of(self.files)

    @classmethod
    def read(cls, name: str, *roots: Path) -> Contents:
        """The contents of a root file system; of an image's layers ``roots``, the topmost first.

        dpkg's database is that of the first root that has one; raises StateError when none has. What
        lies in the layers above that one was written by who built the image.
        """
        files = scan(*roots)
        place = next((n for n, root in enumerate(roots) if (root / STATUS).is_file()), 0)
        known = database(roots[place])
        above = {f.path for root in roots[:place] for f in scan(root) if f.form != "folder"}
        return cls(
            name=name,
            files=files,
            owners=attribute(files, known) | dict.fromkeys(above, Owner("builder")),
            kinds={file.path: kind(file) for file in files},
            packages=known.packages,
        )
