"""A project of a test's own, the command that is called in it, and what lies in its folders."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit import Lab
from labkit.core import run
from labkit.core.run import Done
from tests.conftest import CACHE, free_port

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Project:
    """A folder with a ``lab.toml`` whose lab keeps all that it has below that folder."""

    folder: Path

    @property
    def file(self) -> Path:
        """Its configuration."""
        return self.folder / "lab.toml"

    @property
    def lab(self) -> Lab:
        """Its lab."""
        return Lab.load(self.file)

    def labkit(self, *words: str, before: Sequence[str | Path] = (), **env: str) -> Done:
        """Calls the command in the folder as a person would, whatever its exit status; ``before`` are
        the words that it is called by."""
        argv = [*before, sys.executable, "-m", "labkit", *words]
        env = {"PYTHONPATH": str(ROOT), **env}
        return run.run(argv, cwd=self.folder, env=env, ok=range(256), timeout=600)


def project(folder: Path, text: str = "", **parameters: object) -> Project:
    """Such a project, with ``text`` at the beginning of its ``lab.toml``; it has the real notebooks."""
    (folder / "lab").touch()  # what marks a project
    (folder / "notebooks").symlink_to(ROOT / "notebooks")
    name = f"t{secrets.token_hex(3)}"
    keys = {
        "name": name,
        "state": f"{folder}/state",
        "run": f"{folder}/run",
        "cache": CACHE,
        "host.netns": name,
        "wiki.port": free_port(),
        **parameters,
    }
    own = [line for line in text.splitlines() if line]
    named = {line.partition("=")[0].strip() for line in own}
    lines = [f"{key} = {_toml(value)}" for key, value in keys.items() if key not in named]
    made = Project(folder)
    made.file.write_text("\n".join([*own, *lines, ""]))
    return made


#: Size in bytes and time of the last change (nanoseconds) by path; (0, 0) is a folder.
Listing = dict[str, tuple[int, int]]


def listing(*folders: Path) -> Listing:
    """What lies below the folders, but for locks, which name their last holder, and folders that hold
    nothing but those."""
    found: Listing = {}
    for path in (path for folder in folders for path in sorted(folder.rglob("*"))):
        if path.suffix == ".lock" or path.is_symlink():
            continue
        if path.is_file():
            found[str(path)] = path.stat().st_size, path.stat().st_mtime_ns
        elif any(item.suffix != ".lock" and not item.is_dir() for item in path.rglob("*")):
            found[str(path)] = 0, 0
    return found


def files(seen: Listing) -> Listing:
    """Those of a listing that are files."""
    return {path: what for path, what in seen.items() if what != (0, 0)}


def _toml(value: object) -> str:
    return str(value) if isinstance(value, int) else f'"{value}"'
