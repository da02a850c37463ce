"""Tables as nft(8) lists them. Pure."""

from __future__ import annotations

import json
from collections import Counter
from itertools import zip_longest

#: So many differences are told.
TOLD = 2


def counters(output: str) -> dict[str, int]:
    """How many packets each named counter of ``nft -j list table``'s output has counted."""
    every = (item.get("counter") for item in json.loads(output or "{}").get("nftables", []))
    return {what["name"]: what["packets"] for what in every if what}


def input_chains(output: str, own: str) -> list[tuple[str, str, str, str]]:
    """Family, table, name and policy of each chain in ``nft -j list chains``' output that judges what comes to
    the host; those of the table ``own`` are left out."""
    every = (item.get("chain") for item in json.loads(output or "{}").get("nftables", []))
    return [
        (what["family"], what["table"], what["name"], what["policy"])
        for what in every
        if what
        and what["family"] in ("ip", "inet")
        and what.get("hook") == "input"
        and what["table"] != own
    ]


def told(known: str, seen: str) -> str:
    """How two listings differ, in a few words: the lines that are gone, and those that are new."""
    before, after = (Counter(map(str.strip, text.splitlines())) for text in (known, seen))
    said = [f"`{line}` is gone" for line in (before - after).elements()]
    said += [f"`{line}` is new" for line in (after - before).elements()]
    more = f"; {len(said) - TOLD} more" if len(said) > TOLD else ""
    return "; ".join(said[:TOLD]) + more if said else _moved(known, seen)


def _moved(known: str, seen: str) -> str:
    pairs = zip_longest(known.splitlines(), seen.splitlines(), fillvalue="")
    line = next((new.strip() for old, new in pairs if old != new), "")
    return f"`{line}` is in another place" if line else ""
