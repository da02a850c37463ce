"""Scans the files of a root file system: path, form, size, and the kind of each."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

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


def kinds(files: Iterable[File]) -> dict[str, str]:
    """The kind of each file, by its path."""
    return {file.path: kind(file) for file in files}
