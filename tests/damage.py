"""What can become of a file that labkit keeps: cut short, written over, edited, or no file any more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def torn(path: Path) -> None:
    """Half of it is left."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def junk(path: Path) -> None:
    """It is no text."""
    path.write_bytes(b"\xff\xfe\x00junk")


def null(path: Path) -> None:
    """It is JSON, of nothing."""
    path.write_text("null\n")


def gone(path: Path) -> None:
    """It is not there."""
    path.unlink()


def nowhere(path: Path) -> None:
    """A link that leads nowhere is in its place."""
    path.unlink()
    path.symlink_to(path.with_name(f"{path.name}.nowhere"))


def folder(path: Path) -> None:
    """A folder is in its place."""
    path.unlink()
    path.mkdir()


def flip(path: Path) -> None:
    """One bit in its middle is another one, and the times of the last change and access are as they were."""
    seen = path.stat()
    with path.open("r+b") as file:
        file.seek(seen.st_size // 2)
        (byte,) = file.read(1)
        file.seek(seen.st_size // 2)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


#: What labkit mends, for it can make the file again; not a folder, which may be somebody's.
MENDED: Mapping[str, Callable[[Path], None]] = {
    function.__name__: function for function in (torn, junk, null, gone, nowhere)
}


@contextmanager
def damaged(path: Path, harm: Callable[[Path], None]) -> Iterator[None]:
    """The file is damaged while the block runs, and afterwards as it was before."""
    data, status = path.read_bytes(), path.stat()
    path.unlink()  # the copy may have further names: hard links into the cache
    path.write_bytes(data)
    harm(path)
    try:
        yield
    finally:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(status.st_mode & 0o7777)
        os.chown(path, status.st_uid, status.st_gid)
