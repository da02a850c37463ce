"""Whether anything of a network namespace's packet filter was changed, asked in one message (nftables).

Every change of an nftables ruleset, by whomever, has a number, one more than the last. pyroute2 writes the messages
and reads the answer. Its own classes of them are in a module that brings an event loop with it, whose import takes
45 ms; the one that they are made from takes half of one.
"""

from __future__ import annotations

import socket
import struct
from functools import cache
from typing import Any

from labkit.kernel import pyroute
from labkit.kernel.messages import HEADER

#: linux/netlink.h: the packet filter's family.
NETFILTER = 12
#: linux/netfilter/nf_tables.h: the questions for a table and for the number.
GETTABLE, GETGEN = 1, 16
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
        return read(_answer(_written(GETGEN)))
    except OSError:
        return None


def stands(family: str, name: str) -> bool:
    """Whether there is a table of that family and name in the network namespace of the calling thread."""
    answer = _answer(_written(GETTABLE, FAMILIES[family], NFTA_TABLE_NAME=name))
    return bool(HEADER.unpack_from(answer)[1] != ERROR)


def read(answer: bytes) -> int | None:
    """The number in the kernel's answer, None for an error, and for an answer without one. Pure."""
    if HEADER.unpack_from(answer)[1] == ERROR:
        return None
    message = _types()[GETGEN](answer)
    message.decode()
    found: int | None = message.get_attr("NFTA_GEN_ID")
    return found


def _written(kind: int, family: int = 0, **attributes: str) -> bytes:
    """A question as the kernel takes it. Pure."""
    message = _types()[kind]()
    message["nfgen_family"] = family
    message["attrs"] = list(attributes.items())
    message["header"]["type"] = pyroute.module("netlink.nfnetlink").NFNL_SUBSYS_NFTABLES << 8 | kind
    message["header"]["flags"] = REQUEST
    message["header"]["sequence_number"] = 1
    message.encode()
    return bytes(message.data)


def _answer(question: bytes) -> bytes:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETFILTER) as asked:
        asked.send(question)
        return asked.recv(4096)


@cache
def _types() -> dict[int, Any]:
    """The classes of the messages, by the questions (linux/netfilter/nf_tables.h: nft_table_attributes,
    nft_gen_attributes)."""
    made = pyroute.module("netlink.nfnetlink").nfgen_msg
    maps = {
        GETTABLE: (("NFTA_TABLE_UNSPEC", "none"), ("NFTA_TABLE_NAME", "asciiz")),
        GETGEN: (("NFTA_GEN_UNSPEC", "none"), ("NFTA_GEN_ID", "be32")),
    }
    return {kind: type("message", (made,), {"nla_map": known}) for kind, known in maps.items()}


def cookie() -> int:
    """The number of the calling thread's network namespace, 0 where the kernel (before 5.14) tells none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            own = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        except OSError:
            return 0
    return int.from_bytes(own, "little" if struct.pack("=H", 1)[0] else "big")
