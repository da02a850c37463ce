"""What ping says and what is counted, as texts; no packet is sent."""

from __future__ import annotations

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.farm.network import pings
from labkit.farm.network.pings import Echo

ANSWERED = """\
PING 10.60.0.11 (10.60.0.11) 56(84) bytes of data.
64 bytes from 10.60.0.11: icmp_seq=1 ttl=64 time=0.102 ms

--- 10.60.0.11 ping statistics ---
2 packets transmitted, 2 received, 0% packet loss, time 50ms
rtt min/avg/max/mdev = 0.041/0.071/0.102/0.030 ms
"""
REFUSED = """\
PING 10.60.0.11 (10.60.0.11) 56(84) bytes of data.
From 10.60.0.1 icmp_seq=1 Destination Host Unreachable

--- 10.60.0.11 ping statistics ---
1 packets transmitted, 0 received, +1 errors, 100% packet loss, time 0ms
"""
SILENT = """\
PING 10.60.0.11 (10.60.0.11) 56(84) bytes of data.

--- 10.60.0.11 ping statistics ---
2 packets transmitted, 0 received, 100% packet loss, time 50ms
"""
#: RFC 4293's counters, shortened.
SNMP = """\
Ip: Forwarding DefaultTTL
Ip: 2 64
Icmp: InMsgs InErrors InEchos InEchoReps
Icmp: 9 0 4 5
IcmpMsg: InType0 InType8
IcmpMsg: 5 4
"""


def an_echo(**changes: object) -> Echo:
    """Two requests that were answered by whom they were meant for."""
    sound = {
        "source": "host", "target": "red-1", "address": "10.60.0.11", "sent": 2, "answered": 2,
        "counted": 2, "fastest": 0.041, "said": "",
    }  # fmt: skip
    return Echo.model_validate({**sound, **changes})


@pytest.mark.parametrize(
    ("stdout", "stderr", "wanted"),
    [
        (ANSWERED, "", (2, 0.041, "")),
        (REFUSED, "", (0, None, "Destination Host Unreachable")),
        (SILENT, "", (0, None, "")),
        ("", "ping: connect: Network is unreachable\n", (0, None, "Network is unreachable")),
        ("", "nsenter: cannot open /run/netns/x: No such file\n",
         (0, None, "nsenter: cannot open /run/netns/x: No such file")),
    ],
)  # fmt: skip
def test_ping_is_read(stdout: str, stderr: str, wanted: tuple[int, float | None, str]) -> None:
    """Answers, the fastest in milliseconds, and what it says instead of one."""
    assert pings.parse(stdout, stderr) == wanted


def test_requests_are_read_from_the_namespace_s_counters() -> None:
    """By the name of the column, not by its place."""
    assert pings.echo_requests(SNMP) == 4


@pytest.mark.parametrize(
    ("changes", "holds", "seen"),
    [
        ({}, True, "answered in 0.041 ms; red-1 counted 2 of 2 requests"),
        (
            {"answered": 1, "counted": 1},
            True,
            "answered in 0.041 ms; red-1 counted 1 of 2 requests",
        ),
        ({"counted": 0}, False, "answered in 0.041 ms; red-1 counted 0 of 2 requests"),
        ({"answered": 0, "fastest": None}, False, "no answer; red-1 counted 2 of 2 requests"),
        (
            {"answered": 0, "fastest": None, "counted": 0, "said": "Network is unreachable"},
            False,
            "Network is unreachable; red-1 counted 0 of 2 requests",
        ),
    ],
)
def test_an_answer_and_a_request_that_arrived_are_needed(
    changes: dict[str, object], holds: bool, seen: str
) -> None:
    """An answer alone may be the pinger's own."""
    check = pings.check("network.ping.red-1.out", an_echo(**changes), "ping 10.60.0.11")
    assert (check.holds, check.seen) == (holds, seen)


def test_each_replica_has_two_checks() -> None:
    """One a way; a failing one is that of its own ping."""
    lab = Lab.load(None, lab_name="shop", sites=["red"], netns="box")
    seen = (an_echo(), an_echo(), an_echo(counted=0), an_echo())
    found = pings.checks(lab, seen)
    assert [check.name for check in found] == [
        f"network.ping.{name}.{way}" for name in ("red-1", "red-2") for way in ("out", "back")
    ]
    assert [check.name for check in failed(found)] == ["network.ping.red-2.out"]
    assert found[0].again == "ip netns exec box ping -c 2 10.60.0.11"
    assert found[1].again.startswith("ip netns exec shop-red-1 ping")
