"""Who the lab's servers are, and what they may do, as the kernel has it of each of their processes."""

from __future__ import annotations

import pwd
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import daemon
from labkit.core.daemon import Daemon
from labkit.farm.services import balancer_server, dns_server
from labkit.wiki import server
from tests.whole_farm import standing as whole_farm

pytestmark = pytest.mark.root

#: linux/capability.h, the numbers of :data:`labkit.core.daemon.RIGHTS`.
NUMBERS = {"kill": 5, "setgid": 6, "setuid": 7, "net_bind_service": 10}
ALLOWED = sum(1 << number for number in NUMBERS.values())


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """A farm with its name server and its balancer, on ports that only root may bind."""
    with whole_farm(sites=["red"]) as lab:
        yield lab


def family(server: Daemon) -> list[int]:
    """A server's processes: the first, its children, and theirs."""
    first = daemon.pid(server)
    assert first
    found = [first]
    for pid in found:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def status(pid: int) -> dict[str, str]:
    """The kernel's words on a process (proc(5), /proc/pid/status)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def users(server: Daemon) -> dict[str, set[str]]:
    """The accounts of a server's processes, by their programs' names."""
    found: dict[str, set[str]] = {}
    for pid in family(server):
        seen = status(pid)
        found.setdefault(seen["Name"], set()).add(pwd.getpwuid(int(seen["Uid"].split()[1])).pw_name)
    return found


def require_bounded(server: Daemon) -> None:
    """No process of a server can get more rights than its first one had, and only root's have any."""
    for pid in family(server):
        seen = status(pid)
        assert seen["NoNewPrivs"] == "1"
        assert int(seen["CapBnd"], 16) & ~ALLOWED == 0
        assert int(seen["CapEff"], 16) & ~ALLOWED == 0
        if int(seen["Uid"].split()[1]):
            assert int(seen["CapEff"], 16) & ~(1 << NUMBERS["net_bind_service"]) == 0


def test_the_rights_are_those_that_the_kernel_knows_by_these_numbers() -> None:
    """What the tests below allow is what a server is started with."""
    assert set(NUMBERS) == set(daemon.RIGHTS)


def require_www_data(server: Daemon) -> None:
    """Requests are answered by processes that are www-data for good, and nothing gets more rights."""
    workers = [pid for pid in family(server)[1:] if status(pid)["Name"] == "apache2"]
    assert workers
    assert {status(pid)["Uid"] for pid in workers} == {"33\t33\t33\t33"}
    assert {int(status(pid)["CapPrm"], 16) for pid in workers} == {0}
    require_bounded(server)


def test_the_balancer_answers_as_www_data(farm: Lab) -> None:
    """Root's are only the process that bound the port and those that write the logs; they may do next to nothing.
    Names are answered as nobody, by one process, which has given up all but the port."""
    found = users(balancer_server.server(farm))
    assert found["apache2"] == {"root", "www-data"}
    assert {name for name, who in found.items() if "root" in who} <= {"apache2", "rotatelogs", "sh"}
    require_www_data(balancer_server.server(farm))
    assert users(dns_server.server(farm)) == {"dnsmasq": {"nobody"}}
    require_bounded(dns_server.server(farm))


def test_the_wiki_is_served_as_www_data(mariadb_wiki_lab: Lab) -> None:
    """Pages and PHP, and the database."""
    web, database = server.daemons(mariadb_wiki_lab)
    require_www_data(web)
    assert users(database) == {"mariadbd": {"www-data"}}
    assert {status(pid)["CapEff"] for pid in family(database)} == {"0" * 16}
    require_bounded(database)
