"""Layers as tar archives: written so that the same files give the same bytes, and read back."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from labkit.core import run
from labkit.errors import StateError

#: The beginning of a file's name that stands for a removal (OCI image specification, layer.md).
WHITEOUT = ".wh."


def write(path: Path, files: Mapping[str, str], below: Path) -> None:
    """An archive of text files (path below the root -> content), owned by root, all of one time.

    Their folders are in it with the owner and mode that they have in ``below``, the root file system
    of the layers under this one: the topmost layer's folder is the one that counts.
    """
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder in folders(files):
            archive.addfile(_folder(folder, below))
        for name, text in sorted(files.items()):
            data = text.encode()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o755 if text.startswith("#!") else 0o644
            archive.addfile(member, io.BytesIO(data))


def extract(blob: Path, target: Path) -> None:
    """Unpacks a layer that only adds files; a removal in it is a :class:`StateError`."""
    target.mkdir()
    with tarfile.open(blob, "r:*") as archive:
        names = archive.getnames()
    gone = [name for name in names if PurePosixPath(name).name.startswith(WHITEOUT)]
    if gone:
        raise StateError(
            str(blob),
            f"the layer removes {gone[0]}",
            "unpack the image whole instead",
            code="state.whiteout",
        )
    # tar(1) refuses to leave the folder, which Python's own extraction before 3.11.4 does not
    run.run(["tar", "--extract", f"--file={blob}", f"--directory={target}", "--numeric-owner"])


def folders(files: Mapping[str, str]) -> list[str]:
    """The folders above the files, each before those in it."""
    found = {str(parent) for name in files for parent in PurePosixPath(name).parents}
    return sorted(found - {"."})


def _folder(name: str, below: Path) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.mode = tarfile.DIRTYPE, 0o755
    if (below / name).is_dir():
        known = (below / name).stat()
        member.mode, member.uid, member.gid = known.st_mode & 0o7777, known.st_uid, known.st_gid
    return member
