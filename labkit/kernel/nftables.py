"""Whether anything of a network namespace's packet filter was changed, asked in one message (nftables).

Every change of an nftables ruleset, by whomever, has a number, one more than the last. pyroute2 has this message as
well, in a module that brings an event loop with it and takes longer to import than a farm to be looked at.
"""

from __future__ import annotations

import socket
import struct

#: linux/netlink.h: the packet filter's family.
NETFILTER = 12
#: linux/netfilter/nfnetlink.h and nf_tables.h: the subsystem, its question for the number, the answer's attribute.
SUBSYSTEM, GETGEN, GEN_ID = 10 << 8, 16, 1
#: The question for a table, and the attribute that names it.
GETTABLE, TABLE_NAME = 1, 1
#: linux/netfilter.h: the families that the lab has tables of.
FAMILIES = {"bridge": 7, "inet": 1}
#: linux/netlink.h: flag of a request, type of an error.
REQUEST, ERROR = 1, 2
#: asm-generic/socket.h: a number that a network namespace has as long as the machine runs, and no other one after it.
SO_NETNS_COOKIE = 71


def generation() -> int | None:
    """The number of the last change in the network namespace of the calling thread; None where the kernel
    has no nftables."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as asked:
            asked.send(struct.pack("=IHHIIBBH", 20, SUBSYSTEM | GETGEN, REQUEST, 1, 0, 0, 0, 0))
            return read(asked.recv(4096))
    except OSError:
        return None


def stands(family: str, name: str) -> bool:
    """Whether there is a table of that family and name in the network namespace of the calling thread."""
    text = name.encode() + b"\0"
    attribute = struct.pack("=HH", 4 + len(text), TABLE_NAME) + text + bytes(-len(text) % 4)
    head = struct.pack(
        "=IHHIIBBH",
        20 + len(attribute),
        SUBSYSTEM | GETTABLE,
        REQUEST,
        1,
        0,
        FAMILIES[family],
        0,
        0,
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as asked:
        asked.send(head + attribute)
        return bool(struct.unpack_from("=H", asked.recv(4096), 4)[0] != ERROR)


def read(answer: bytes) -> int | None:
    """The number in the kernel's answer, None for an error (netlink(7): a header of 16 bytes, 4 of nfnetlink's,
    then attributes, each with its length and type). Pure."""
    place, kind = 20, struct.unpack_from("=H", answer, 4)[0]
    while kind != ERROR and place + 8 <= len(answer):
        length, attribute = struct.unpack_from("=HH", answer, place)
        if attribute == GEN_ID:
            return int.from_bytes(answer[place + 4 : place + 8], "big")
        place += max(length + 3 & ~3, 4)
    return None


def cookie() -> int:
    """The number of the calling thread's network namespace, 0 where the kernel (before 5.14) tells none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            own = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(own, "little" if struct.pack("=H", 1)[0] else "big")
