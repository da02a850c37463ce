"""Packages' files in a folder, and dpkg's database of them, as if dpkg had unpacked them there.

dpkg unpacks one package after the other and reads and writes its database for each; here all are unpacked
side by side and the database is written once (its format: dpkg's own doc/ and deb-triggers(5)).
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

from labkit.farm.rootfs import deb
from labkit.farm.rootfs.deb import Deb
from labkit.farm.rootfs.selection import Selection

#: The folders that programs know by two names, in a system with a merged /usr.
MERGED = ("bin", "sbin", "lib", "lib64")
#: dpkg's folder, and its parts.
DPKG = "var/lib/dpkg"
#: Scripts that dpkg has to run when it configures: what has none is configured once it is unpacked.
POSTINST = "postinst"
WORKERS = 2


class Unpacked(NamedTuple):
    """What became of one package: its entry in dpkg's database, the script that runs before the others
    ('' where it has none), and the time of its newest file (seconds since 1970)."""

    name: str
    stem: str
    entry: str
    preinst: bool
    newest: int


class Place(NamedTuple):
    """A folder that the archive has, with what it is to be once all is in it."""

    path: str
    mode: int
    owner: tuple[int, int]
    time: int


def files(listed: Path) -> list[Path]:
    """The packages' files that a file names, one a line."""
    return [Path(line) for line in listed.read_text(encoding="utf-8").splitlines()]


def unpack(
    files: Iterable[Path], root: Path, chosen: Selection, *, configured: bool = False
) -> list[Unpacked]:
    """The chosen files of all packages are in ``root``, and dpkg's database knows all packages.

    A package without a script for it counts as ``configured`` at once; all do, where nobody will run them.
    """
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("info", "updates", "triggers", "alternatives"):
        (root / DPKG / name).mkdir(parents=True)
    largest = sorted(files, key=lambda path: -path.stat().st_size)
    with ProcessPoolExecutor(WORKERS) as pool:  # threads would wait for each other's Python
        each = (largest, repeat(root), repeat(chosen), repeat(configured))
        found = sorted(pool.map(_one, *each), key=lambda item: item.name)
    (root / DPKG / "status").write_text("\n".join(item.entry for item in found), encoding="utf-8")
    (root / DPKG / "available").touch()
    (root / DPKG / "info/format").write_text("1\n", encoding="utf-8")
    return found


def entry(package: Deb, status: str, hashes: dict[str, str]) -> str:
    """The package's paragraph in dpkg's database. Pure.

    :param hashes: its configuration files, each with the MD5 sum of what was unpacked.
    """
    lines = package.text.strip("\n").split("\n")
    lines.insert(1, f"Status: install ok {status}")
    if hashes:
        lines += ["Conffiles:", *(f" {path} {value}" for path, value in hashes.items())]
    return "\n".join(lines) + "\n"


def _one(path: Path, root: Path, chosen: Selection, configured: bool) -> Unpacked:
    package = deb.read(path)
    names, newest = _files(package.data, root, chosen)
    info = root / DPKG / "info"
    for kind, (content, mode) in package.control.items():
        own = info / f"{package.stem}.{kind}"
        own.write_bytes(content)
        own.chmod(mode)
    (info / f"{package.stem}.list").write_text(
        "".join(f"{name}\n" for name in names), encoding="utf-8"
    )
    waits = POSTINST in package.control and not configured
    status = "unpacked" if waits else "installed"
    text = entry(package, status, _hashes(package, root))
    return Unpacked(package.name, package.stem, text, "preinst" in package.control, newest)


def _hashes(package: Deb, root: Path) -> dict[str, str]:
    """The configuration files that were unpacked, with their MD5 sums."""
    content, _ = package.control.get("conffiles", (b"", 0))
    found = {}
    for line in content.decode().splitlines():
        with suppress(FileNotFoundError):
            if line.startswith("/"):  # and no flag before the path
                data = (root / line[1:]).read_bytes()
                found[line] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return found


def _files(data: bytes, root: Path, chosen: Selection) -> tuple[list[str], int]:
    """Unpacks an archive; returns the paths of all its members as dpkg lists them, and the latest time."""
    names, folders, newest = [], [], 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            path = member.name.removeprefix(".").rstrip("/")
            names.append(path or "/.")
            if not chosen.has(path):
                continue
            newest = max(newest, int(member.mtime))
            target = f"{root}{path}"
            if member.isdir():
                Path(target).mkdir(parents=True, exist_ok=True)
                owner = (member.uid, member.gid)
                folders.append(Place(target, member.mode, owner, int(member.mtime)))
            else:
                _file(archive, member, target, root)
    for folder in reversed(folders):
        os.chown(folder.path, *folder.owner)
        Path(folder.path).chmod(folder.mode)
        os.utime(folder.path, (folder.time, folder.time))
    return names, newest


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, target: str, root: Path) -> None:
    """One file, link or name of another file."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        with suppress(FileExistsError):
            Path(target).symlink_to(member.linkname)
    elif member.islnk():
        Path(target).hardlink_to(f"{root}{member.linkname.removeprefix('.')}")
    else:
        source = archive.extractfile(member)
        Path(target).write_bytes(source.read() if source else b"")
        os.chown(target, member.uid, member.gid)
        Path(target).chmod(member.mode)
        os.utime(target, (member.mtime, member.mtime))
