"""What the libraries' own binaries need of the machine (tests/bare.py runs this where nothing else is installed)."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from labkit.core import run


def binaries(folder: Path) -> list[Path]:
    """The ELF files below a folder: extension modules, and the programs that wheels bring."""

    def is_elf(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(4) == b"\x7fELF"

    files = (path for path in sorted(folder.rglob("*")) if path.suffix not in (".py", ".pyc"))
    named = [path for path in files if ".so" in path.name or os.access(path, os.X_OK)]
    return [path for path in named if path.is_file() and is_elf(path)]


def test_every_binary_finds_the_libraries_that_it_links_to() -> None:
    """None names a shared library that this machine, with the packages of the list, does not have."""
    found = binaries(Path(sysconfig.get_path("platlib")))
    assert [path for path in found if path.name == "node"], "playwright's driver is one of them"
    shown = run.spread(lambda path: run.run(["ldd", path], ok=(0, 1)).stdout, found)
    brought = {path.name for path in found}  # by a wheel, whose module loads it first
    lacking = {
        f"{path.name}: {line.split()[0]}"
        for path, text in zip(found, shown, strict=True)
        for line in text.splitlines()
        if line.endswith("=> not found") and line.split()[0] not in brought
    }
    assert lacking == set()
