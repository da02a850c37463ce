"""Questions to a root file system that need no container: is it still Debian's, file by file?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from labkit.core import run
from labkit.errors import LabkitError
from labkit.farm.rootfs import account, elf, packages
from labkit.farm.study.proof import Probe

#: A line of ``dpkg --verify`` about a file whose content is another (rpm's format, dpkg(1)).
OTHER = slice(2, 3)


def look(root: Path) -> tuple[Probe, ...]:
    """The answers of the root file system in a folder; nothing in it is started."""
    questions: tuple[tuple[str, str, Callable[[Path], str], str], ...] = (
        ("listed", "dpkg lists packages", _listed, f"dpkg --root={root} --get-selections"),
        (
            "as-packaged",
            "no file differs from its package's",
            _changed,
            f"dpkg --root={root} --verify",
        ),
        ("owned", "every file belongs to a package, or to who built it", _owned, f"ls {root}"),
        (
            "linked",
            "every library that is asked for is there",
            _linked,
            f"chroot {root} ldd /usr/sbin/apache2",
        ),
    )
    return tuple(_probe(root, *question) for question in questions)


def _probe(root: Path, name: str, expected: str, ask: Callable[[Path], str], again: str) -> Probe:
    started = time.monotonic()
    try:
        seen = ask(root) or expected
    except LabkitError as error:
        seen = error.reason
    return Probe(
        name=name,
        expected=expected,
        seen=seen,
        holds=seen == expected,
        seconds=round(time.monotonic() - started, 3),
        again=again,
    )


def _listed(root: Path) -> str:
    names = packages.parse_selections(
        run.run(["dpkg", f"--root={root}", "--get-selections"]).stdout
    )
    return "" if names else "dpkg lists no package"


def _changed(root: Path) -> str:
    lines = run.run(["dpkg", f"--root={root}", "--verify"], ok=(0, 1)).stdout.splitlines()
    return _named([line.split()[-1] for line in lines if line[OTHER] == "5"])


def _owned(root: Path) -> str:
    contents = account.read(root.name, root)
    files = (file.path for file in contents.files if file.form != "folder")
    return _named([path for path in files if contents.owners[path].how == "nobody"])


def _linked(root: Path) -> str:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    needs = {path: elf.needed(path.read_bytes()) or () for path in files}
    here = {PurePosixPath(path).name for path in root.rglob("*.so*")}
    lost = sorted({name for names in needs.values() for name in names if name not in here})
    return _named(lost)


def _named(listed: list[str]) -> str:
    return packages.naming(sorted(listed), 3) if listed else ""
