"""The rules by which replicas are kept apart, as nft(8) reads them. Pure.

They know the lab's bridge and its ports alone: nobody else's packets are judged, nor counted. They keep no
connections in mind (which would cost the balancer's requests, and all others of the machine, a place in the
kernel's list of them): what answers a connection is told by TCP's flags from what begins one.
"""

from __future__ import annotations

from collections.abc import Iterable

from labkit.core import firewall_tables
from labkit.model.lab import Lab
from labkit.records import Record

#: What a replica serves: the balancer asks port 80, a person's ssh port 22 (the assignment's R10).
SERVED = (22, 80)
#: The lab's name server.
NAMES = 53
#: Each counter, and what it counts (refused, all of it).
COUNTERS = {
    "spoofed": "sent with another's address, or in another protocol than IPv4 and ARP",
    "between": "from one replica to another, pings aside",
    "host": "to the host: all but names, pings and answers",
    "outwards": "from a replica to beyond the host",
    "inwards": "from beyond the host to a replica",
}


class End(Record):
    """A port of the bridge, and what the replica behind it may call itself."""

    link: str
    mac: str
    address: str


class Rules(Record):
    """What the rules are made of: the bridge, its addresses, and its ports."""

    bridge: str
    gateways: tuple[str, ...]
    ends: tuple[End, ...]


def wanted(lab: Lab) -> Rules:
    """What the Lab asks for. Pure."""
    return Rules(
        bridge=lab.bridge,
        gateways=(str(lab.gateway.ip),),
        ends=tuple(
            End(link=item.link, mac=item.mac, address=str(item.address)) for item in lab.farm
        ),
    )


def both(first: Rules, second: Rules) -> Rules:
    """What is allowed by either, while the one is being changed into the other. Pure."""
    return Rules(
        bridge=second.bridge,
        gateways=tuple(dict.fromkeys((*first.gateways, *second.gateways))),
        ends=tuple(dict.fromkeys((*first.ends, *second.ends))),
    )


def text(name: str, rules: Rules) -> str:
    """The commands after which there are the tables of that name with these rules, and no others. Pure."""
    return firewall_tables.removal(name) + _bridge(name, rules) + _host(name, rules)


def _bridge(name: str, rules: Rules) -> str:
    """What passes the bridge: who sends it, and from port to port. Both before br_netfilter's hooks, at priority 0:
    those take a packet from the chains of their own priority that are registered before them."""
    ends = (f'"{end.link}" . {end.mac} . {end.address}' for end in rules.ends)
    ports = (f'"{link}"' for link in dict.fromkeys(end.link for end in rules.ends))
    return f"""
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
"""


def _host(name: str, rules: Rules) -> str:
    """What leaves the bridge for the host, and what is sent on by it: before the machine's own packet filter, so
    that what that one drops as well is counted."""
    here, served = _set(rules.gateways), _set(map(str, SERVED))
    known = "echo-request, echo-reply, destination-unreachable"
    return f"""
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


def _elements(items: Iterable[str]) -> str:
    listed = ", ".join(items)
    return f"elements = {{ {listed} }}" if listed else ""


def _set(items: Iterable[str]) -> str:
    return f"{{ {', '.join(items)} }}"
