"""The packet filter that keeps replicas apart: its rules, and the lab's two nftables tables made, observed and mended.

The rules match the lab's bridge and its ports alone; they neither judge nor count other packets. They need no
connection tracking, which would cost each of the balancer's requests, and all others on the machine, an entry in the
kernel's list: TCP's flags tell an answer from a new connection. Each change of the tables is one transaction of
nft(8), and what nft lists of them afterwards is kept: whoever looks compares it with what nft lists then.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path

from pydantic import ConfigDict, Field, ValidationError

from labkit.core import network_removal, run
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import Journal
from labkit.core.network_removal import FAMILIES, table_name
from labkit.errors import CommandError, FarmError, LabkitError, StateError, excerpt
from labkit.farm.network import host
from labkit.kernel import netns as namespaces
from labkit.model.lab import Lab
from labkit.model.resources import fingerprint, listed
from labkit.records import Record

#: What a replica serves: the balancer asks port 80, a person's ssh port 22 (the assignment's R10).
SERVED = (22, 80)
#: The lab's name server.
NAMES = 53
#: Each counter, and the packets that it counts (all of them refused).
COUNTERS = {
    "spoofed": "sent with another's address, or in another protocol than IPv4 and ARP",
    "between": "from one replica to another, pings aside",
    "host": "to the host: all but names, pings and answers",
    "outwards": "from a replica to beyond the host",
    "inwards": "from beyond the host to a replica",
}
#: The reason when a kernel cannot keep replicas apart.
LACKING = "this kernel has no nftables"
#: How many differences between two listings are told.
TOLD = 2


class End(Record):
    """A port of the bridge, and the addresses that the replica behind it may use."""

    link: str
    mac: str
    address: str


class Rules(Record):
    """The values in the rules: the bridge, its addresses, and its ports."""

    bridge: str
    gateways: tuple[str, ...]
    ends: tuple[End, ...]


class Tables(Record):
    """The lab's tables: the rules in them (None: unknown), and what nft listed of each family's table when they were
    loaded. ``lacking`` says why the kernel can have none, ``difference`` what a hand did to them ('' for nothing)."""

    model_config = ConfigDict(extra="ignore")  # the files of earlier versions hold more

    rules: Rules | None
    listed: dict[str, str] = Field(default_factory=dict)
    lacking: str = ""
    difference: str = ""


# -- the rules -------------------------------------------------------------------------------------------------


def rules_of(lab: Lab) -> Rules:
    """The rules that the lab asks for. Pure."""
    return Rules(
        bridge=lab.bridge,
        gateways=(str(lab.gateway.ip),),
        ends=tuple(
            End(link=item.link, mac=item.mac, address=str(item.address)) for item in lab.farm
        ),
    )


def both(first: Rules, second: Rules) -> Rules:
    """The rules that allow what either allows, while the first are being changed into the second. Pure."""
    return Rules(
        bridge=second.bridge,
        gateways=tuple(dict.fromkeys((*first.gateways, *second.gateways))),
        ends=tuple(dict.fromkeys((*first.ends, *second.ends))),
    )


def script(name: str, rules: Rules) -> str:
    """The nft(8) commands that replace the tables of that name by tables with these rules. Pure.

    Both chains of the bridge come before br_netfilter's hooks, at priority 0: those take a packet from the chains of
    their own priority that are registered before them. The host's chains come before the machine's own packet
    filter, so that packets that it drops as well are counted.
    """
    ends = ", ".join(f'"{end.link}" . {end.mac} . {end.address}' for end in rules.ends)
    ports = ", ".join(f'"{link}"' for link in dict.fromkeys(end.link for end in rules.ends))
    here, served = (f"{{ {', '.join(map(str, items))} }}" for items in (rules.gateways, SERVED))
    known = "echo-request, echo-reply, destination-unreachable"
    return f"""{network_removal.tables_removal(name)}
table bridge {name} {{
{_counters("spoofed", "between")}
    set ports {{
        type ifname
        {_elements(ports)}
    }}
    set ends {{
        type ifname . ether_addr . ipv4_addr
        {_elements(ends)}
    }}
    chain from_replicas {{
        type filter hook prerouting priority -300; policy accept;
        iifname != @ports accept
        iifname . ether saddr . ip saddr @ends accept
        iifname . ether saddr . arp saddr ip @ends iifname . arp saddr ether . arp saddr ip @ends accept
        counter name spoofed drop
    }}
    chain between_replicas {{
        type filter hook forward priority -200; policy accept;
        iifname != @ports accept
        ether type arp accept
        icmp type {{ echo-request, echo-reply }} accept
        counter name between drop
    }}
}}

table inet {name} {{
{_counters("host", "outwards", "inwards")}
    chain to_the_host {{
        type filter hook input priority -10; policy accept;
        iifname != "{rules.bridge}" accept
        ip daddr {here} udp dport {NAMES} accept comment "questions to the name server"
        ip daddr {here} tcp dport {NAMES} accept comment "long ones"
        ip daddr {here} icmp type {{ {known} }} accept comment "pings"
        ip daddr {here} tcp sport {served} tcp flags & (syn | ack) != syn accept comment "answers"
        counter name host jump refuse
    }}
    chain through_the_host {{
        type filter hook forward priority -10; policy accept;
        iifname "{rules.bridge}" oifname "{rules.bridge}" accept comment "seen on the bridge already"
        iifname "{rules.bridge}" counter name outwards jump refuse
        oifname "{rules.bridge}" counter name inwards jump refuse
    }}
    chain refuse {{
        meta l4proto tcp reject with tcp reset
        reject with icmpx admin-prohibited
    }}
}}
"""


def _counters(*names: str) -> str:
    return "\n".join(f"    counter {name} {{\n    }}" for name in names)


def _elements(items: str) -> str:
    return f"elements = {{ {items} }}" if items else ""


# -- the tables as resources -----------------------------------------------------------------------------------


def wanted(lab: Lab) -> dict[str, str]:
    """The facts, by name, that hold of the tables when they are as the lab says. Pure."""
    return {"rules": "in force", **_told(rules_of(lab))}


def facts(found: Tables | None) -> dict[str, str] | None:
    """The same facts of the observed tables; None without tables, empty where the kernel can have none. Pure."""
    if found is None or found.lacking:
        return None if found is None else {}
    return {
        "rules": found.difference or "in force",
        **(_told(found.rules) if found.rules else {}),
    }


def differs(lab: Lab, seen: Mapping[str, str] | None) -> bool:
    """Whether there are tables that differ from the lab's: they may refuse packets that it needs. Pure."""
    asked = wanted(lab)
    return seen is not None and any(asked[fact] != value for fact, value in seen.items())


def look(lab: Lab) -> Tables | None:
    """The lab's own tables as they are now; None when there are none."""
    if lab.netns and not namespaces.stands(lab.netns):
        return None
    made = _made(lab)
    if made and made.lacking:
        return made
    found = _listed(lab) if _owned(lab) else {}
    if not found:
        return None
    if made is None:
        return Tables(rules=None, difference="unknown: the file that describes them is gone")
    if not made.listed:  # an earlier version listed them later
        made = made.model_copy(update={"listed": found})
        with suppress(OSError):  # who only looks may have no right to it
            _keep(lab, made)
    return made.model_copy(update={"difference": _difference(made.listed, found)})


def widen(lab: Lab) -> bool:
    """Allows what the lab asks for beside what was allowed before; returns whether that changed the tables.

    The caller holds the lab's ``farm`` lock, and the host's side is up.
    """
    asked, found = rules_of(lab), look(lab)
    return _install(lab, both(found.rules, asked) if found and found.rules else asked, found)


def settle(lab: Lab) -> bool:
    """Allows what the lab asks for, and nothing else; returns whether that changed the tables."""
    return _install(lab, rules_of(lab), look(lab))


def counts(lab: Lab) -> Mapping[str, int]:
    """How many packets were refused, by the counters of :data:`COUNTERS`."""
    found: dict[str, int] = {}
    for family in FAMILIES if run.which("nft") else ():
        words = ["nft", "-j", "list", "table", family, table_name(lab)]
        output = run.run(words, netns=lab.netns, ok=(0, 1)).stdout
        every = (item.get("counter") for item in json.loads(output or "{}").get("nftables", []))
        found |= {what["name"]: what["packets"] for what in every if what}
    return found


def blame(lab: Lab, port: int) -> str:
    """Which of the machine's own chains judge packets from replicas to a port of the host, and how to let them in;
    '' without one. Those tables are only read; the lab's rules cannot accept what another table drops."""
    words = ["nft", "-j", "list", "chains"]
    output = run.run(words, netns=lab.netns, ok=range(256)).stdout if run.which("nft") else ""
    rule = f'iifname "{lab.bridge}" meta l4proto {{ tcp, udp }} th dport {port} accept'
    said = []
    for family, table, name, policy in input_chains(output, table_name(lab)):
        allow = host.again(lab, f"nft 'insert rule {family} {table} {name} {rule}'")
        said.append(
            f"the machine's packet filter stands between (chain {name} of table {family} {table}, "
            f"policy {policy}); to let it in: {allow}"
        )
    return "; ".join(said)


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


def again(lab: Lab) -> str:
    """The command that shows the lab's tables."""
    return "; ".join(
        host.again(lab, f"nft list table {family} {table_name(lab)}") for family in FAMILIES
    )


def impossible() -> str:
    """Why such tables cannot be made on this machine, '' when they can: tried in a namespace that ends with it."""
    unshared = ["unshare", "--net", "--", "nft"]
    try:
        run.run([*unshared, "-f", "-"], stdin=script("labkit-trial", rules_of(Lab())))
    except LabkitError as error:
        if run.run([*unshared, "list", "tables"], ok=range(256)).status:
            return LACKING
        return f"this kernel's nftables lacks something: {excerpt(' '.join(error.reason.split()))}"
    return ""


def _install(lab: Lab, asked: Rules, found: Tables | None) -> bool:
    if found and (found.lacking or (found.rules == asked and not found.difference)):
        return False
    run.require("nft")
    there = frozenset() if _owned(lab) else network_removal.tables_there(lab.netns)
    folder = _file(lab).parent
    Journal.of(lab).intend("folder", path=str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    lacking = LACKING if there is None else ""
    if there is not None:
        _refuse_foreign(lab, there)
        Journal.of(lab).intend("table", name=table_name(lab), netns=lab.host.netns)
        lacking = _load(lab, asked)
    known = {} if lacking else _listed(lab)
    _keep(lab, Tables(rules=asked, listed=known, lacking=lacking))
    return not lacking


def _load(lab: Lab, asked: Rules) -> str:
    """Loads the rules; returns why this kernel cannot have them ('' when it can)."""
    try:
        run.run(["nft", "-f", "-"], stdin=script(table_name(lab), asked), netns=lab.netns)
    except CommandError as error:
        if error.status < 0:  # nft was killed, or hung: the kernel refused nothing
            raise
        if lacking := impossible():
            return lacking
        raise FarmError(
            f"table {table_name(lab)}",
            f"nft refuses it: {excerpt(error.stderr)}",
            "stop the program that changes the same tables, then run this again",
            again(lab),
            code="farm.firewall",
        ) from None
    return ""


def _refuse_foreign(lab: Lab, there: Iterable[tuple[str, str]]) -> None:
    """Raises :class:`StateError` for tables of the lab's name that labkit did not make."""
    found = [family for family in FAMILIES if (family, table_name(lab)) in there]
    if found:
        raise StateError(
            f"nftables' {' and '.join(found)} table {table_name(lab)}",
            "exists already and labkit did not make it for this lab",
            "choose another lab name (lab.toml: name), or remove the table yourself",
            again(lab),
            code="state.table-taken",
        )


def _listed(lab: Lab) -> dict[str, str]:
    """What nft lists of the lab's tables, by family, without the counters' values."""
    found = {}
    for family in FAMILIES if run.which("nft") else ():
        words = ["nft", "-s", "list", "table", family, table_name(lab)]
        done = run.run(words, netns=lab.netns, ok=(0, 1))
        if done.status == 0:
            found[family] = done.stdout
    return found


def _difference(known: Mapping[str, str], found: Mapping[str, str]) -> str:
    if known == found:
        return ""
    gone = [family for family in known if family not in found]
    if gone:
        return f"changed by hand: the table of family {gone[0]} is gone"
    changes = (compared(text, found[family]) for family, text in known.items())
    return f"changed by hand: {'; '.join(filter(None, changes))}"


def compared(known: str, seen: str) -> str:
    """How two listings differ, in a few words: the lines that are gone, and those that are new. Pure."""
    before, after = (Counter(map(str.strip, text.splitlines())) for text in (known, seen))
    said = [f"`{line}` is gone" for line in (before - after).elements()]
    said += [f"`{line}` is new" for line in (after - before).elements()]
    if said:
        return "; ".join(said[:TOLD]) + (f"; {len(said) - TOLD} more" if len(said) > TOLD else "")
    pairs = zip_longest(known.splitlines(), seen.splitlines(), fillvalue="")
    line = next((new.strip() for old, new in pairs if old != new), "")
    return f"`{line}` is in another place" if line else ""


def _owned(lab: Lab) -> bool:
    return Journal.of(lab).owns("table", name=table_name(lab), netns=lab.host.netns)


def _told(rules: Rules) -> dict[str, str]:
    """The rules in facts; the same text whatever the order of the ports."""
    ends = tuple(sorted(rules.ends, key=lambda end: (end.link, end.address)))
    gateways = tuple(sorted(rules.gateways))
    ordered = rules.model_copy(update={"ends": ends, "gateways": gateways})
    return {
        "host": listed(gateways),
        "replicas": str(len(ends)),
        "configuration": fingerprint(script("", ordered)),
    }


def _file(lab: Lab) -> Path:
    return lab.run_dir / "isolation" / "tables.json"


def _made(lab: Lab) -> Tables | None:
    text = text_of(_file(lab))
    try:
        return Tables.model_validate_json(text) if text else None
    except ValidationError:
        return None


def _keep(lab: Lab, made: Tables) -> None:
    write_atomically(_file(lab), made.model_dump_json())
