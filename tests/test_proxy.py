"""The lab's balancer: its configuration, its life, and what it says of its workers."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import daemon
from labkit.errors import ConfigError, FarmError, MachineError
from labkit.farm.services import balancer, balancer_config, balancer_server, fetch
from labkit.kernel.netns import inside
from tests.host_side import give_address


def text_of(**values: Any) -> str:
    return balancer_config.config(
        Lab.of({"run": "/run/labkit", "state": "/var/lib/labkit", **values})
    )


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({}, "Listen 10.60.0.1:80"),
        ({"proxy": {"port": 8080}}, "Listen 10.60.0.1:8080"),
        ({"network": {"subnet": "10.61.0.0/24"}}, "Listen 10.61.0.1:80"),
        ({}, "User www-data"),
        ({}, "ServerName site2.lab.test"),
        ({"dns": {"domain": "my.test"}}, "ServerName site3.my.test"),
        ({}, "ProxySet lbmethod=byrequests"),
        ({"proxy": {"lbmethod": "bytraffic"}}, "ProxySet lbmethod=bytraffic"),
        ({"proxy": {"sticky": True}}, "ProxySet lbmethod=byrequests stickysession=ROUTEID"),
        (
            {"proxy": {"sticky": True}},
            'Header add Set-Cookie "ROUTEID=.%{BALANCER_WORKER_ROUTE}e; path=/" env=BALANCER_ROUTE_CHANGED',
        ),
        ({}, "Require local"),
        ({}, 'PidFile "/run/labkit/lab/proxy/apache2.pid"'),
        (
            {},
            "CustomLog \"|/usr/bin/rotatelogs -n 5 '/var/lib/labkit/lab/proxy/access.log' 10M\" labkit",
        ),
    ],
)
def test_configuration_says_what_the_lab_says(values: dict[str, Any], line: str) -> None:
    """Each of the Lab's parameters has its line."""
    assert line in [item.strip() for item in text_of(**values).splitlines()]


def test_worker_has_address_route_and_weight() -> None:
    """A replica is a member by its address, named by its route, weighed by its load factor."""
    text = text_of(sites=({"name": "a", "weights": (3, 1)},))
    members = [line.split()[1:4] for line in text.splitlines() if "BalancerMember" in line]
    first = ['"http://10.60.0.11:80"', "route=a-1", "loadfactor=3"]
    second = ['"http://10.60.0.21:80"', "route=a-2", "loadfactor=1"]
    assert members == [first, second, first, second]  # the site's, and those of its halves
    # the fingerprint that a configuration names is the same for the same Lab, and no other's
    plain = balancer_config.running_fingerprint(text_of())
    assert len(plain) == 16
    assert plain == balancer_config.running_fingerprint(text_of())
    for values in ({"replicas": 3}, {"proxy": {"sticky": True}}, {"proxy": {"port": 81}}):
        assert plain != balancer_config.running_fingerprint(text_of(**values))


@pytest.mark.parametrize(
    ("values", "lines"),
    [
        ({"proxy": {"port": 81}}, ["Listen 10.60.0.1:81", "Listen 10.60.0.1:80", "<VirtualHost *:81 *:80>"]),
        (
            {"network": {"subnet": "10.61.0.0/24"}},
            ["Listen 10.61.0.1:80", "Listen 10.60.0.1:80", "<VirtualHost *:80>"],
        ),
    ],
)  # fmt: skip
def test_a_balancer_that_moves_listens_at_both_places_meanwhile(
    values: dict[str, Any], lines: list[str]
) -> None:
    """By a configuration with a fingerprint of its own; one that does not move is the new one at once."""
    old, new = text_of(), text_of(**values)
    both = balancer_config.between(old, new)
    found = [line for line in both.splitlines() if line.startswith(("Listen", "<VirtualHost"))]
    assert list(dict.fromkeys(found)) == lines
    prints = {balancer_config.running_fingerprint(text) for text in (old, new, both)}
    assert len(prints) == 3
    assert balancer_config.between(old, text_of(replicas=3)) == text_of(replicas=3)
    assert balancer_config.between("", new) == new


def test_log_line_keeps_what_a_client_sent_as_it_is() -> None:
    """A quote or a byte that is no text in a request is escaped by Apache, and breaks no line."""
    (line,), _ = balancer.parse(
        [
            '{"time":"2026-03-01T10:00:00.123456+0000","site":"site1.lab.test","replica":"site1-2",'
            '"client":"10.60.0.1","request":"GET /\\"\\xc3 HTTP/1.1","status":200,'
            '"microseconds":1234,"trace":"ab-1"}\n'
        ]
    )
    assert (line.replica, line.status, line.trace) == ("site1-2", 200, "ab-1")
    assert line.request == 'GET /"\\xc3 HTTP/1.1'
    assert line.time.microsecond == 123456


MANAGER = """<?xml version='1.0' encoding='UTF-8' ?>
<httpd:manager xmlns:httpd='http://httpd.apache.org'><httpd:balancers><httpd:balancer>
<httpd:name>balancer://a</httpd:name><httpd:nonce>n-1</httpd:nonce>
<httpd:lbmethod>byrequests</httpd:lbmethod><httpd:workers><httpd:worker>
<httpd:name>http://10.60.0.11</httpd:name><httpd:loadfactor>3.00</httpd:loadfactor>
<httpd:status>{status} </httpd:status><httpd:elected>7</httpd:elected>
<httpd:route>a-1</httpd:route><httpd:busy>2</httpd:busy></httpd:worker></httpd:workers>
</httpd:balancer></httpd:balancers></httpd:manager>"""


@pytest.mark.parametrize(
    ("status", "usable"),
    [
        ("Init Ok", True),
        ("Init Err", False),
        ("Init HcFl Ok", True),
        ("Init Drn Ok", False),
        ("Init Stop Ok", False),
    ],
)
def test_worker_status_is_read_from_the_manager(status: str, usable: bool) -> None:
    """Apache's words decide whether new requests go to a worker."""
    found = balancer_server.parse(MANAGER.format(status=status))
    assert (found.name, found.method, found.nonce) == ("balancer://a", "byrequests", "n-1")
    (worker,) = found.workers
    assert (worker.replica, worker.weight, worker.elected, worker.busy) == ("a-1", 3.0, 7, 2)
    assert worker.usable is usable
    for text in ("", "<p>hello", "<a/>"):  # somebody else's page is no fault of labkit's own
        with pytest.raises(FarmError, match="names no balancer"):
            balancer_server.parse(text)


@pytest.fixture
def addressed(lab: Lab) -> Lab:
    """A lab whose host side has the bridge's address, and no replica that answers."""
    return give_address(lab)


@pytest.mark.root
def test_balancer_comes_up_as_configured(addressed: Lab) -> None:
    """It serves by the Lab's configuration, as www-data, and answers itself for a name that is no site's; the second
    run changes nothing. After down nobody answers, the check says so, and a second down has nothing to do."""
    result = balancer.up(addressed)
    assert result.changed
    broken = {check.name.rpartition(".")[0] for check in failed(result.checks)}
    assert broken <= {"proxy.worker", "proxy.site"}  # nobody is behind it
    leader = daemon.pid(balancer_server.server(addressed))
    kept = Path(f"/proc/{leader}/task/{leader}/children").read_text().split()
    assert {Path(f"/proc/{pid}").stat().st_uid for pid in kept} != {0}
    assert balancer.up(addressed).changed is False
    assert daemon.pid(balancer_server.server(addressed)) == leader
    there = fetch.front(addressed).model_copy(update={"host": "other.test"})
    assert fetch.reach(addressed, there).status == 404
    assert balancer.down(addressed).changed
    assert balancer.down(addressed).changed is False
    (check,) = balancer.checks(addressed)
    assert (check.name, check.holds) == ("proxy.up", False)


@pytest.mark.root
def test_changed_lab_is_taken_over_without_a_restart(addressed: Lab) -> None:
    """A graceful reload: the leading process stays, the new method and weights hold; what apache2 refuses is not
    installed. Another port is taken so, too, and the first one is free again. Sites whose replicas have the 63
    characters of a DNS label are balanced, even if they differ at the end alone."""
    balancer.up(addressed)
    leader, config = (
        daemon.pid(balancer_server.server(addressed)),
        balancer_server.server(addressed).config,
    )
    values = addressed.model_dump()
    values["proxy"]["lbmethod"] = "bybusyness"
    values["sites"][0]["weights"] = (3, 1)
    result = balancer.up(Lab.of(values))
    assert result.changed
    assert result.value.lbmethod == "bybusyness"
    assert [worker.weight for worker in result.value.workers][:2] == [3.0, 1.0]
    before = config.read_text()
    with pytest.raises(FarmError, match=r"(?s)refuses this.*NoSuchDirective"):
        balancer_server.install(addressed, before + "\nNoSuchDirective on\n")
    assert config.read_text() == before
    assert balancer.up(Lab.of(values)).changed is False
    moved = Lab.of({**addressed.model_dump(), "proxy": {"port": 8081}})
    assert balancer.up(moved).value.port == 8081
    with pytest.raises(FarmError, match="does not answer"):
        fetch.reach(addressed, fetch.front(addressed))
    sites = ["a" * 60 + "1", "a" * 60 + "2"]
    lab = Lab.of({**addressed.model_dump(), "sites": sites, "dns": {"domain": ""}})
    assert len(balancer.up(lab).value.workers) == 4
    assert daemon.pid(balancer_server.server(addressed)) == leader


@pytest.mark.root
@pytest.mark.parametrize("running", [False, True])
def test_taken_port_names_the_process(addressed: Lab, running: bool) -> None:
    """Somebody else's port is refused before the start, and before a reload would end the balancer."""
    if running:
        balancer.up(addressed)
    values = {**addressed.model_dump(), "proxy": {"port": 8081}}

    def take() -> socket.socket:
        return socket.create_server((str(addressed.gateway.ip), 8081))

    with (
        inside(addressed.netns, take),
        pytest.raises(MachineError, match=f"proxy.port = 8081.*process {os.getpid()}"),
    ):
        balancer.up(Lab.of(values))
    assert (daemon.pid(balancer_server.server(addressed)) is not None) is running


@pytest.mark.root
def test_balancer_that_lost_its_leader_is_started_anew(addressed: Lab) -> None:
    """Children that outlived a killed parent do not keep the port from a new balancer."""
    balancer.up(addressed)
    leader = daemon.pid(balancer_server.server(addressed))
    assert leader is not None
    os.kill(leader, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while daemon.pid(balancer_server.server(addressed)) is not None:
        assert time.monotonic() < deadline
    result = balancer.up(addressed)
    assert result.changed
    assert daemon.pid(balancer_server.server(addressed)) not in (None, leader)


@pytest.mark.root
def test_balancer_moves_with_the_hosts_namespace(
    addressed: Lab, make_lab: Callable[..., Lab]
) -> None:
    """A lab whose host side was put into another namespace has its balancer there, and only there."""
    balancer.up(addressed)
    other = give_address(make_lab())
    moved = Lab.of({**addressed.model_dump(), "host": {"netns": other.netns}})
    assert balancer.up(moved).changed
    assert fetch.reach(moved, fetch.front(moved), "/configuration").status == 204
    with pytest.raises(FarmError, match="does not answer"):
        fetch.reach(addressed, fetch.front(addressed))


def test_what_is_no_site_has_no_balancer() -> None:
    """A misspelt site is the caller's mistake, told before anything is asked."""
    with pytest.raises(ConfigError, match="site1"):
        balancer_server.members(Lab.of({}), "site11")


@pytest.mark.root
@pytest.mark.parametrize("status", ["Drn", "Stop", "Dis"])
def test_a_worker_that_was_withdrawn_is_put_back_into_service(addressed: Lab, status: str) -> None:
    """By the balancer-manager's own form, as a person may have done it: seen, and mended without a reload."""
    balancer.up(addressed)
    balancer_server.change(addressed, addressed.farm[0], {balancer_server.WITHDRAWN[status]: "1"})
    found = (balancer_server.observed(addressed) or {})["workers"]
    assert addressed.farm[0].name in found
    assert status in found
    assert balancer.up(addressed).changed
    assert balancer_server.observed(addressed) == balancer_server.wanted(addressed)


@pytest.mark.root
def test_an_edited_configuration_is_mended(addressed: Lab) -> None:
    """Whether the balancer has read it or not; its leading process stays."""
    balancer.up(addressed)
    leader = daemon.pid(balancer_server.server(addressed))
    file = balancer_server.server(addressed).config
    before = file.read_text()
    file.write_text(before.replace("byrequests", "bytraffic"))
    assert balancer.up(addressed).changed
    balancer_server.install(
        addressed, before.replace(balancer_config.running_fingerprint(before), "f" * 16)
    )
    file.write_text(before)
    assert (balancer_server.observed(addressed) or {})["served"] == "f" * 16
    assert balancer.up(addressed).changed
    assert balancer_server.observed(addressed) == balancer_server.wanted(addressed)
    assert daemon.pid(balancer_server.server(addressed)) == leader
