"""Names of network interfaces, which Linux keeps short."""

from __future__ import annotations

import base64
import hashlib

#: An interface's name is at most this long (Linux, IFNAMSIZ less the closing NUL).
LENGTH = 15
#: Characters of a hash that stands for the rest of a name: of a thousand long ones, two are the same once in 70,000 farms.
HASH = 7


def ifname(*parts: str) -> str:
    """The name of the parts, joined by hyphens; a long one ends in a hash of the whole. Pure."""
    whole = "-".join(parts)
    if len(whole) <= LENGTH:
        return whole
    hashed = base64.b32encode(hashlib.sha256(whole.encode()).digest()).decode().lower()
    return f"{whole[: LENGTH - 1 - HASH]}-{hashed[:HASH]}"
