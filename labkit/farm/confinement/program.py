"""A program of a few hundred bytes that makes system calls and says what came of each. Pure.

A container's root file system may have neither perl nor a shell worth the name, a new machine has no
compiler, and what a library does before and after a call is not what is to be tried: so the program is put
together here. It is an ELF executable for amd64 that needs nothing but the kernel (System V ABI, AMD64
supplement, A.2: the calls' registers; ELF-64 object file format).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

#: The one kind of processor that the program is for, as uname(2) names it.
MACHINE = "x86_64"
#: Where the file is mapped, and the sizes of the ELF and the program header.
BASE, HEADERS = 0x400000, 64 + 56
#: How a result is written, one character a call: a number above 0, 0, and from there on the number of the error;
#: all errors from :data:`FURTHER` on are one.
SOME, NOTHING, FURTHER = "/", "0", 78
#: The size of one call in memory: its number and six arguments, eight bytes each.
CALL = 56

#: r12: the next call; r13: the results; r14: the next of them; rbx: how many calls are left.
_START = "49bc{calls}49bd{results}4d89ee48bb{count}"
#: test rbx; je to the end; number and arguments from (r12); syscall; neg rax; js: 'some'; above 78: 78; the
#: character to (r14); the next of all; jmp back. Then write(1, r13, r14 - r13) and exit_group(0).
_LOOP = (
    "4885db7446498b0424498b7c2408498b742410498b5424184d8b5424204d8b4424284d8b4c24300f05"
    "48f7d8780a4883f84e7606b04eeb02b0ff0430418806 49ffc64983c43848ffcbebb5".replace(" ", "")
)
_END = "b801000000bf010000004c89ee4c89f24c29ea0f05b8e700000031ff0f05"
#: mov eax, 20; int 0x80: getpid of i386's interface; then exit_group(0) of amd64's.
_FOREIGN = "b814000000cd80b8e700000031ff0f05"


class Call(NamedTuple):
    """A system call; an argument that is text stands for the address of it, closed by a NUL."""

    number: int
    arguments: Sequence[int | str] = ()


def calling(calls: Sequence[Call]) -> bytes:
    """The program that makes these calls, one after the other, and writes a character for each."""
    start = len(
        bytes.fromhex(_START.format(**dict.fromkeys(("calls", "results", "count"), "0" * 16)))
    )
    table = BASE + HEADERS + start + len(bytes.fromhex(_LOOP + _END))
    texts, places = b"", {}
    for text in dict.fromkeys(
        item for call in calls for item in call.arguments if isinstance(item, str)
    ):
        places[text] = table + CALL * len(calls) + len(texts)
        texts += text.encode() + b"\0"
    results = table + CALL * len(calls) + len(texts)
    known = {"calls": table, "results": results, "count": len(calls)}
    head = _START.format(**{name: struct.pack("<Q", value).hex() for name, value in known.items()})
    body = b"".join(_packed(call, places) for call in calls)
    return _executable(bytes.fromhex(head + _LOOP + _END) + body + texts, room=len(calls) + 64)


def foreign() -> bytes:
    """The program that makes one call by way of i386's interface, and ends with status 0 if it may."""
    return _executable(bytes.fromhex(_FOREIGN), room=0)


def outcomes(said: str) -> tuple[str, ...]:
    """What came of each call, in words, of what the program wrote: 'some', 'nothing', or the error's name."""
    return tuple(_outcome(character) for character in said)


def _outcome(character: str) -> str:
    import errno

    if character in (SOME, NOTHING):
        return "some" if character == SOME else "nothing"
    number = ord(character) - ord(NOTHING)
    return errno.errorcode.get(number, "an error") if number < FURTHER else "an error"


def _packed(call: Call, places: dict[str, int]) -> bytes:
    values = [places[item] if isinstance(item, str) else item for item in call.arguments]
    words: Iterable[int] = (call.number, *values, *[0] * (6 - len(values)))
    return struct.pack("<7Q", *(word & (2**64 - 1) for word in words))


def _executable(code: bytes, *, room: int) -> bytes:
    """A file of one part, readable, writable and executable, with ``room`` for as many more bytes behind it."""
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    size = HEADERS + len(code)
    header = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, BASE + HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    part = struct.pack("<IIQQQQQQ", 1, 7, 0, BASE, BASE, size, size + room, 0x1000)
    return ident + header + part + code
