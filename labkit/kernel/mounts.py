"""What is mounted, as the kernel tells it (proc(5), /proc/pid/mountinfo)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple


class Mount(NamedTuple):
    """One mount: its number and its parent's; which folder of the file system is at which place; its options;
    the file system's kind and own options."""

    number: str
    parent: str
    root: str
    place: str
    options: tuple[str, ...]
    kind: str
    special: tuple[str, ...]


def read(pid: int | str = "self") -> str:
    """What a process has mounted; a name that is no UTF-8 is kept."""
    path = Path(f"/proc/{pid}/mountinfo")
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def parse(mountinfo: str) -> tuple[Mount, ...]:
    """The mounts of such a text. Pure.

    Nothing but a space divides its fields, and nothing but a newline its lines: a folder's name may have
    Unicode's other blanks in it.
    """
    return tuple(_mount(line) for line in mountinfo.split("\n") if line)


def plain(text: str) -> str:
    """A field with its octal escapes (``\\040`` is a space) undone. Pure."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _mount(line: str) -> Mount:
    fields, _, rest = line.partition(" - ")
    number, parent, _, root, place, options, *_ = fields.split(" ")
    kind, _, special = rest.split(" ", 2)
    return Mount(
        number, parent, plain(root), plain(place),
        tuple(options.split(",")), kind, tuple(special.split(",")),
    )  # fmt: skip
