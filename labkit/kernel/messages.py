"""rtnetlink's messages, written and read by pyroute2: each form of request once, of answers what is wanted.

pyroute2 makes an object for each attribute, which takes a hundred times as long as the kernel needs for the
request. Five hundred links are some thousand messages of a few forms: pyroute2 writes the first of each form, and
the others differ from it in the places where it has put the values. Of what the kernel shows of a link (forty
attributes), pyroute2 reads those that somebody asked for. What labkit cannot place in a form that pyroute2 wrote,
pyroute2 writes each time.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from labkit.kernel import pyroute

#: linux/netlink.h: struct nlmsghdr (length, type, flags, number, port), struct nlattr (length, type), and the
#: bits of an attribute's type that say something else (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
HEADER, ATTRIBUTE, KIND = struct.Struct("=IHHII"), struct.Struct("=HH"), 0x3FFF
#: Where a message's number stands.
NUMBER = struct.Struct("=I"), 8

#: A message as pyroute2 reads it: fields by their names, attributes as pairs.
Message = Any
Value = Any


@dataclass(frozen=True)
class Request:
    """A request: its type and flags (rtnetlink(7)), its header's fields and its attributes, by pyroute2's
    names. ``wanted`` are the attributes of the answers that are read; none: all."""

    kind: int
    flags: int = 0
    fields: Mapping[str, int] = field(default_factory=dict)
    attributes: Sequence[tuple[str, Any]] = ()
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Form:
    """A message that pyroute2 wrote, and where in it each value stands: how it is written, from which byte on."""

    text: bytes
    fields: tuple[tuple[struct.Struct, int], ...]
    values: tuple[tuple[Callable[[Value], bytes], int], ...]

    def filled(self, number: int, fields: Iterable[int], values: Iterable[Value]) -> bytes:
        """The message with another number and other values of the same lengths."""
        text = bytearray(self.text)
        NUMBER[0].pack_into(text, NUMBER[1], number)
        for (layout, place), item in zip(self.fields, fields, strict=True):
            layout.pack_into(text, place, item)
        for (write, place), value in zip(self.values, values, strict=True):
            written = write(value)
            text[place : place + len(written)] = written
        return bytes(text)


#: The forms that were written, by what they have in common; None: one that pyroute2 writes each time.
_forms: dict[tuple[Any, ...], Form | None] = {}


def written(requests: Iterable[Request], *, flags: int, first: int) -> Iterator[bytes]:
    """The requests as the kernel takes them, numbered from ``first``."""
    for number, request in enumerate(requests, first):
        values: list[Value] = []
        form = _shape(request.attributes, values)
        key = (request.kind, request.flags | flags, tuple(request.fields), form)
        if key not in _forms:
            _forms[key] = _form(request, flags, values)
        found = _forms[key]
        if found is None:
            yield bytes(_encoded(request, flags, number).data)
        else:
            yield found.filled(number, request.fields.values(), values)


def parts(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """The messages of what was received: type, flags, number, where each begins and ends. Pure."""
    place = 0
    while place + HEADER.size <= len(data):
        length, kind, flags, number, _ = HEADER.unpack_from(data, place)
        yield kind, flags, number, place, place + length
        place += length + 3 & ~3


def read(data: bytes, kinds: frozenset[int] = frozenset()) -> Message:
    """A message as pyroute2 reads it; with ``kinds``, these types of its attributes alone. Pure."""
    (kind,) = struct.unpack_from("=H", data, 4)
    made = _types()[kind]
    message = made(_cut(data, _start(made), kinds) if kinds else data)
    message.decode()
    return message


def kinds(kind: int, names: Iterable[str]) -> frozenset[int]:
    """The types of these attributes of a type of message, as pyroute2's table has them (some tables name
    the types, others have them in order)."""
    table = _types()[kind].nla_map
    numbered = [item[:2] if isinstance(item[0], int) else (n, item[0]) for n, item in enumerate(table)]  # fmt: skip
    return frozenset(number for number, name in numbered if name in set(names))


def attributes(message: Message) -> dict[str, Value]:
    """The attributes of a message by their names."""
    return {item[0]: item[1] for item in message["attrs"]}


def error(data: bytes) -> OSError | None:
    """What an answer to a request says, None when it was done; the words are the kernel's own."""
    if struct.unpack_from("=i", data, HEADER.size)[0] == 0:
        return None
    message = pyroute.module("netlink").nlmsgerr(data)
    message.decode()
    code = abs(message["error"])
    return OSError(code, message.get_attr("NLMSGERR_ATTR_MSG") or os.strerror(code))


def _shape(given: Sequence[tuple[str, Any]], values: list[Value]) -> tuple[Any, ...]:
    """What attributes have in common that differ in their values alone; adds the values to the list."""
    found: list[Any] = []
    for name, value in given:
        if isinstance(value, dict):
            found.append((name, _shape(value["attrs"], values)))
        else:
            values.append(value)
            found.append((name, len(value) if isinstance(value, str) else type(value)))
    return tuple(found)


def _form(request: Request, flags: int, values: Sequence[Value]) -> Form | None:
    """The form of a request, None when the values do not stand in it as they would be written."""
    message = _encoded(request, flags, 0)
    text = bytes(message.data)
    layouts = {name: struct.Struct(f"={layout}") for name, layout in message.fields}
    starts, place = {}, HEADER.size
    for name, layout in layouts.items():
        starts[name] = place
        place += layout.size
    cells = list(_leaves(message))
    placed = [(_writer(cell), cell.offset + ATTRIBUTE.size) for cell in cells]
    for (write, start), cell, value in zip(placed, cells, values, strict=True):
        if write is None or write(value) != text[start : cell.offset + cell.length]:
            return None
    fields = tuple((layouts[name], starts[name]) for name in request.fields)
    return Form(text, fields, tuple((write, start) for write, start in placed if write))


def _leaves(message: Message) -> Iterator[Any]:
    """The attributes that have values, in their order: pyroute2's own objects."""
    for slot in message["attrs"]:
        cell = slot.cell[1]
        if cell.get("attrs"):
            yield from _leaves(cell)
        else:
            yield cell


def _writer(cell: Any) -> Callable[[Value], bytes] | None:
    """How a value of such an attribute is written, None where that is not one of the plain ways."""
    layout = cell.fields[0][1] if len(cell.fields) == 1 else ""
    if getattr(cell, "zstring", 0):
        return lambda text: text.encode() + b"\0"
    if layout in ("B", "H", "I", "=I", "i"):
        return struct.Struct(layout).pack
    sizes = {4: socket.inet_aton, 6: lambda text: bytes.fromhex(text.replace(":", ""))}  # fmt: skip
    return sizes.get(cell.length - ATTRIBUTE.size)


def _encoded(request: Request, flags: int, number: int) -> Any:
    """The message that pyroute2 wrote."""
    message = _types()[request.kind]()
    for name, value in request.fields.items():
        message[name] = value
    message["attrs"] = list(request.attributes)
    message["header"]["type"] = request.kind
    message["header"]["flags"] = request.flags | flags
    message["header"]["sequence_number"] = number
    message.encode()
    return message


def _start(made: Any) -> int:
    """Where the attributes of a type of message begin."""
    return HEADER.size + (struct.calcsize("=" + "".join(layout for _, layout in made.fields)) + 3 & ~3)  # fmt: skip


def _cut(data: bytes, start: int, kinds: frozenset[int]) -> bytes:
    """A message with these types of its attributes alone. Pure."""
    kept, place = [data[4:start]], start
    while place + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, place)
        end = place + (max(length, ATTRIBUTE.size) + 3 & ~3)
        if kind & KIND in kinds:
            kept.append(data[place:end])
        place = end
    text = b"".join(kept)
    return struct.pack("=I", len(text) + 4) + text


@cache
def _types() -> Mapping[int, Any]:
    """pyroute2's classes of the messages, by their types: those of requests, of their answers and of what goes."""
    names = {16: "ifinfmsg", 20: "ifaddrmsg", 24: "rtmsg", 28: "ndmsg"}
    first = {
        kind: getattr(pyroute.module(f"netlink.rtnl.{name}"), name) for kind, name in names.items()
    }
    return {kind + more: made for kind, made in first.items() for more in range(3)}
