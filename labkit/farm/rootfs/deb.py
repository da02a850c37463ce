"""Debian packages as files: what they hold, read without a program (deb(5), ar(5), deb-control(5))."""

from __future__ import annotations

import gzip
import io
import lzma
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from labkit.errors import StateError

MAGIC = b"!<arch>\n"
#: The length of a member's header, and where its name and its size are written.
HEADER, NAME, SIZE = 60, slice(0, 16), slice(48, 58)


class Deb(NamedTuple):
    """A package: the fields of its control file, whole as ``text``; its control files but that one
    (name -> content, mode); its files as an uncompressed archive."""

    fields: dict[str, str]
    text: str
    control: dict[str, tuple[bytes, int]]
    data: bytes

    @property
    def name(self) -> str:
        """The package's name."""
        return self.fields["Package"]

    @property
    def stem(self) -> str:
        """How its files in dpkg's database begin: with the architecture where several may be installed."""
        several = self.fields.get("Multi-Arch") == "same"
        return f"{self.name}:{self.fields['Architecture']}" if several else self.name


def read(path: Path) -> Deb:
    """The package in a file; raises :class:`StateError` when the file is none."""
    members = _members(path)
    try:
        packed = {name.split(".tar")[0]: (name, data) for name, data in members.items()}
        control = _control(_plain(path, *packed["control"]))
        data = _plain(path, *packed["data"])
    except (KeyError, OSError, EOFError, lzma.LZMAError, tarfile.TarError) as error:
        raise _damaged(path, str(error)) from None
    text = control.pop("control")[0].decode()
    return Deb(fields=parse_fields(text), text=text, control=control, data=data)


def parse_fields(text: str) -> dict[str, str]:
    """The one-line fields of a control file. Pure."""
    return dict(re.findall(r"^([A-Za-z][\w-]*): *(.*)$", text, re.MULTILINE))


def _members(path: Path) -> dict[str, bytes]:
    """The members of the archive by name."""
    whole = path.read_bytes()
    if not whole.startswith(MAGIC):
        raise _damaged(path, "it does not begin as an archive")
    found, place = {}, len(MAGIC)
    while place + HEADER <= len(whole):
        header = whole[place : place + HEADER]
        size = int(header[SIZE])
        place += HEADER
        found[header[NAME].decode().strip().rstrip("/")] = whole[place : place + size]
        place += size + size % 2
    return found


def _control(data: bytes) -> dict[str, tuple[bytes, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        opened = ((member, archive.extractfile(member)) for member in archive if member.isfile())
        return {
            member.name.removeprefix("./"): (file.read(), member.mode & 0o777)
            for member, file in opened
            if file
        }


def _plain(path: Path, name: str, data: bytes) -> bytes:
    """A member without its compression."""
    ending = name.rpartition(".")[2]
    if ending == "xz":
        return lzma.decompress(data)
    if ending == "gz":
        return gzip.decompress(data)
    if ending == "tar":
        return data
    raise _damaged(path, f"{name}: this compression is not known here")


def _damaged(path: Path, reason: str) -> StateError:
    return StateError(
        str(path),
        f"is no package: {reason}",
        "remove the file: it is fetched anew",
        code="state.damaged-package",
    )
