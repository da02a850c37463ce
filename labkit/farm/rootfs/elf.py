"""Which shared objects a program or shared object asks for (elf(5), ld.so(8)). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"\x7fELF"
#: Types of program headers and of entries in the dynamic section (elf(5)).
PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5


class Layout(NamedTuple):
    """Where the fields of a file of one class and byte order are: the table of program headers in the file's
    header, a program header's own fields (type, offset, address, length), an entry of the dynamic section."""

    table: struct.Struct
    header: struct.Struct
    places: tuple[int, int, int, int]
    entry: struct.Struct


class Part(NamedTuple):
    """A part of the file that is loaded, or says how."""

    kind: int
    offset: int
    address: int
    length: int


def needed(data: bytes) -> tuple[str, ...] | None:
    """The names of the shared objects that a file needs, in its order; None for a file that is no ELF."""
    if data[:4] != MAGIC or len(data) < 64:
        return None
    layout = _layout(wide=data[4] == 2, order="<" if data[5] == 1 else ">")
    parts = list(_parts(data, layout))
    entries = [
        entry for part in parts if part.kind == PT_DYNAMIC for entry in _entries(data, layout, part)
    ]
    strings = next((value for tag, value in entries if tag == DT_STRTAB), None)
    if strings is None:
        return ()
    start = _offset(parts, strings)
    return tuple(_text(data, start + value) for tag, value in entries if tag == DT_NEEDED)


def _layout(*, wide: bool, order: str) -> Layout:
    """ELF64 and ELF32 have their fields in another order and width."""
    if wide:
        return Layout(
            table=struct.Struct(f"{order}32xQ14xHH"),
            header=struct.Struct(f"{order}IIQQQQQQ"),
            places=(0, 2, 3, 5),
            entry=struct.Struct(f"{order}qQ"),
        )
    return Layout(
        table=struct.Struct(f"{order}28xI10xHH"),
        header=struct.Struct(f"{order}IIIIIIII"),
        places=(0, 1, 2, 4),
        entry=struct.Struct(f"{order}iI"),
    )


def _parts(data: bytes, layout: Layout) -> Iterator[Part]:
    offset, length, count = layout.table.unpack_from(data)
    for number in range(count):
        fields = layout.header.unpack_from(data, offset + number * length)
        yield Part(*(fields[place] for place in layout.places))


def _entries(data: bytes, layout: Layout, part: Part) -> Iterator[tuple[int, int]]:
    """The dynamic section: (tag, value), up to the one that ends it."""
    for place in range(part.offset, part.offset + part.length, layout.entry.size):
        tag, value = layout.entry.unpack_from(data, place)
        if tag == DT_NULL:
            return
        yield tag, value


def _offset(parts: list[Part], address: int) -> int:
    """Where in the file an address of the loaded program is."""
    for part in parts:
        if part.kind == PT_LOAD and part.address <= address < part.address + part.length:
            return address - part.address + part.offset
    return address


def _text(data: bytes, place: int) -> str:
    return data[place : data.index(b"\0", place)].decode("utf-8", "replace")
