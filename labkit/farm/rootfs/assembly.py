"""Makes a root file system from package files: ``python -m labkit.farm.rootfs.assembly --help``.

dpkg unpacks one package after the other and reads and writes its database for each. Here all packages are unpacked
side by side and the database is written once (its format: dpkg's own doc/ and deb-triggers(5)); then dpkg configures
them. It runs as a process, so that it is sealed off and ends with labkit, as debootstrap does.
"""

from __future__ import annotations

import argparse
import fnmatch
import functools
import hashlib
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from debian.deb822 import Deb822
from debian.debfile import DebFile

from labkit.core import run
from labkit.core.probes import DEVICES
from labkit.farm.rootfs import apt, variants
from labkit.farm.rootfs.commands import LEFT_OUT
from labkit.farm.rootfs.sandbox import no_services, sealed

#: The folders that programs know by two names, in a system with a merged /usr.
MERGED = ("bin", "sbin", "lib", "lib64")
#: dpkg's folder.
DPKG = "var/lib/dpkg"
#: The package whose script runs first: it makes the users to whom other packages' files belong.
FIRST = "base-passwd"
#: openssh-server's script makes these keys where there is no such file: each container has its own.
KEYS = tuple(f"etc/ssh/ssh_host_{kind}_key" for kind in ("rsa", "ecdsa", "ed25519"))
WORKERS = 2
TIMEOUT = 900.0


class Selection(NamedTuple):
    """The paths of packages that are unpacked, by dpkg's rules (dpkg(1), ``--path-exclude``): all but those that
    fit ``left_out``, and those that fit ``kept``. Both are a shell's patterns; ``*`` matches ``/`` too."""

    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def has(self, path: str) -> bool:
        """Whether a path (``/usr/share/doc/a``) is unpacked."""
        out, back = pattern(self.left_out), pattern(self.kept)
        return not out.fullmatch(path) or back.fullmatch(path) is not None

    @property
    def configuration(self) -> str:
        """The same for dpkg.cfg(5), so that packages that are installed later are treated alike."""
        lines = [f"path-exclude={item}\n" for item in self.left_out]
        return "".join([*lines, *(f"path-include={item}\n" for item in self.kept)])


class Unpacked(NamedTuple):
    """An unpacked package: its name, how its files in dpkg's database begin (with the architecture where several
    may be installed), its paragraph there, whether it has a script that runs before it is unpacked, and the time of
    its newest file (seconds since 1970)."""

    name: str
    stem: str
    entry: str
    preinst: bool
    newest: int


def main() -> None:
    """Makes the target, an empty or missing folder."""
    given = parser().parse_args()
    root, chosen = given.target, Selection(tuple(given.leave_out), tuple(given.keep))
    files = listed(given.packages)
    print(f"extracting {len(files)} packages", flush=True)
    architecture = apt.architecture()
    root.mkdir(exist_ok=True)
    root.chmod(0o755)
    found = unpack(files, root, chosen)
    for name, text in (
        ("etc/apt/sources.list", given.sources.read_text(encoding="utf-8")),
        (LEFT_OUT, chosen.configuration),
        ("var/lib/apt/extended_states", automatic(found, given.include.split(","), architecture)),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    with no_services(root):
        _configure(root, found, architecture)
    run.run(sealed(("a2enmod", "--quiet", *variants.MODULES), root=root), timeout=60)
    variants.prepare(root)


def parser() -> argparse.ArgumentParser:
    """The program's arguments; :func:`labkit.farm.rootfs.commands.steps` gives them."""
    made = argparse.ArgumentParser(prog="labkit.farm.rootfs.assembly", description=__doc__)
    made.add_argument("--sources", type=Path, required=True, help="the new /etc/apt/sources.list")
    made.add_argument("--packages", type=Path, required=True, help="names their files, one a line")
    made.add_argument("--include", required=True, help="packages that are asked for")
    made.add_argument("--leave-out", action="append", default=[], help="paths (dpkg(1))")
    made.add_argument("--keep", action="append", default=[], help="paths that stay nevertheless")
    made.add_argument("target", type=Path)
    return made


def listed(path: Path) -> list[Path]:
    """The packages' files that a file names, one a line."""
    return [Path(line) for line in path.read_text(encoding="utf-8").splitlines()]


@functools.cache
def pattern(words: tuple[str, ...]) -> re.Pattern[str]:
    """One expression for a shell's patterns, in which ``*`` matches ``/`` too."""
    return re.compile("|".join(map(fnmatch.translate, words)) or r"(?!)")


def automatic(packages: Iterable[Unpacked], asked: Sequence[str], architecture: str) -> str:
    """apt's list of packages that nobody asked for: it removes them when nothing needs them any more. Pure."""
    names = (item.name for item in packages if item.name not in asked)
    return "\n".join(
        f"Package: {name}\nArchitecture: {architecture}\nAuto-Installed: 1\n" for name in names
    )


# -- unpacking ---------------------------------------------------------------------------------------


def unpack(
    files: Iterable[Path], root: Path, chosen: Selection, *, configured: bool = False
) -> list[Unpacked]:
    """Unpacks the chosen files of all packages into ``root``, an empty folder, and writes dpkg's database.

    :param configured: count all packages as configured, for a folder in which no script will run; otherwise only
        those that have no script for that.
    """
    for name in MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("info", "updates", "triggers", "alternatives"):
        (root / DPKG / name).mkdir(parents=True)
    one = functools.partial(_unpack_one, root=root, chosen=chosen, configured=configured)
    largest = sorted(files, key=lambda path: -path.stat().st_size)
    if configured:
        found = list(map(one, largest))
    else:
        with ProcessPoolExecutor(WORKERS) as pool:  # threads would wait for each other's Python
            found = list(pool.map(one, largest))
    found.sort(key=lambda item: item.name)
    (root / DPKG / "status").write_text("\n".join(item.entry for item in found), encoding="utf-8")
    (root / DPKG / "available").touch()
    (root / DPKG / "info/format").write_text("1\n", encoding="utf-8")
    return found


def _unpack_one(path: Path, root: Path, chosen: Selection, configured: bool) -> Unpacked:
    package, info = DebFile(str(path)), root / DPKG / "info"
    control = {str(m.name).rpartition("/")[2]: m for m in package.control.tgz() if m.isfile()}
    text = _content(package, control.pop("control")).decode()
    fields = Deb822(text)
    name = fields["Package"]
    stem = f"{name}:{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else name
    for kind, member in control.items():
        (info / f"{stem}.{kind}").write_bytes(_content(package, member))
        (info / f"{stem}.{kind}").chmod(member.mode & 0o777)
    names, newest = _unpack_files(package.data.tgz(), root, chosen)
    package.close()
    (info / f"{stem}.list").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    waits = "postinst" in control and not configured
    hashes = _hashes(info / f"{stem}.conffiles", root)
    entry = paragraph(text, "unpacked" if waits else "installed", hashes)
    return Unpacked(name, stem, entry, "preinst" in control, newest)


def _content(package: DebFile, member: tarfile.TarInfo) -> bytes:
    file = package.control.tgz().extractfile(member)
    return file.read() if file else b""


def paragraph(text: str, status: str, hashes: dict[str, str]) -> str:
    """A package's paragraph in dpkg's database. Pure.

    :param text: its control file.
    :param hashes: its configuration files, each with the MD5 sum of the unpacked one.
    """
    lines = text.strip("\n").split("\n")
    lines.insert(1, f"Status: install ok {status}")
    if hashes:
        lines += ["Conffiles:", *(f" {path} {value}" for path, value in hashes.items())]
    return "\n".join(lines) + "\n"


def _hashes(conffiles: Path, root: Path) -> dict[str, str]:
    """The configuration files that were unpacked, with their MD5 sums."""
    found = {}
    for line in conffiles.read_text(encoding="utf-8").splitlines() if conffiles.exists() else ():
        with suppress(FileNotFoundError):
            if line.startswith("/"):  # and no flag before the path
                data = (root / line[1:]).read_bytes()
                found[line] = hashlib.md5(data, usedforsecurity=False).hexdigest()
    return found


def _unpack_files(archive: tarfile.TarFile, root: Path, chosen: Selection) -> tuple[list[str], int]:
    """Unpacks an archive; returns the paths of all its members as dpkg lists them, and the latest time."""
    names, times = [], [0]

    def members() -> Iterator[tarfile.TarInfo]:
        for member in archive:
            path = member.name.removeprefix(".").rstrip("/")
            names.append(path or "/.")
            there = member.issym() and Path(f"{root}{path}").is_symlink()
            if chosen.has(path) and not there:  # another process may need the link meanwhile
                times.append(int(member.mtime))
                yield member

    archive.extraction_filter = lambda member, _: member  # set-uid programs and devices stay so
    archive.extractall(root, members(), numeric_owner=True)  # noqa: S202 - apt has verified it
    return names, max(times)


# -- configuring -------------------------------------------------------------------------------------


def _configure(root: Path, packages: Sequence[Unpacked], architecture: str) -> None:
    """Runs the packages' scripts in the new root, once each and sealed off; no service starts."""
    for name, (major, minor) in DEVICES.items():
        os.mknod(root / "dev" / name, stat.S_IFCHR | 0o666, os.makedev(major, minor))
        (root / "dev" / name).chmod(0o666)
    for name in KEYS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    epoch = max(item.newest for item in packages)
    env = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "SOURCE_DATE_EPOCH": str(epoch)}
    for package in ordered(packages):
        script = (f"/{DPKG}/info/{package.stem}.preinst", "install")
        given = {  # what dpkg tells a script (dpkg(1), ENVIRONMENT)
            "DPKG_ADMINDIR": f"/{DPKG}",
            "DPKG_MAINTSCRIPT_ARCH": architecture,
            "DPKG_MAINTSCRIPT_NAME": "preinst",
            "DPKG_MAINTSCRIPT_PACKAGE": package.name,
            "DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT": "1",
        }
        run.run(sealed(script, root=root), env=env | given, timeout=TIMEOUT)
    print("configuring", flush=True)
    words = ("dpkg", "--configure", "--pending", "--force-unsafe-io", "--force-confold")
    run.run(sealed(words, root=root), env=env, timeout=TIMEOUT)
    for name in KEYS:
        (root / name).unlink()


def ordered(packages: Iterable[Unpacked]) -> list[Unpacked]:
    """The packages with a script that runs before they are unpacked, in an order in which it can. Pure."""
    return sorted((p for p in packages if p.preinst), key=lambda p: (p.name != FIRST, p.name))


if __name__ == "__main__":
    main()
