"""The lab's pages in Chromium: what it shows, and that nothing of it stays."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.core.result import Result, picture
from labkit.errors import ConfigError, FarmError, MachineError
from labkit.farm.services import browser, dns
from labkit.kernel.netns import inside
from labkit.report.page import publication
from tests import proc
from tests.host_side import give_address
from tests.servers import saying, served
from tests.waiting import until
from tests.whole_farm import standing

#: What people write: markup, spaces that ASCII does not have, characters that the page's font does not have.
TITLE = 'R&D <!--#echo var="x" --> «\u00a0Qui\u202f? » 研究室\u3000紹介 کتاب\u200cخانه'


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each, with names and balancer."""
    with standing(sites=[{"name": "red", "title": TITLE}, "blue"]) as lab:
        yield lab


def browsers(lab: Lab) -> list[int]:
    """The processes of Chromium's in the lab's network namespace."""
    wanted, found = Path("/run/netns", lab.host.netns).stat().st_ino, []
    for pid, name in proc.texts("comm"):
        with suppress(OSError):  # it has just ended
            if "chrom" in name and Path(f"/proc/{pid}/ns/net").stat().st_ino == wanted:
                found.append(pid)
    return found


@pytest.mark.parametrize(
    ("urls", "names"),
    [
        (["http://site1.lab.test/"], ["page-site1"]),
        (
            ["http://site1.lab.test:8080/a", "http://site1.lab.test/b"],
            ["page-site1", "page-site1-2"],
        ),
        (["http://10.60.0.11/", "nonsense"], ["page-10", "page-2"]),
    ],
)
def test_screenshots_have_a_name_each(urls: list[str], names: list[str]) -> None:
    """A page's file is named after its host; no two pages share one."""
    assert browser.names(urls) == names


def test_wrapper_ends_with_its_parent_and_takes_its_processes_along() -> None:
    """Parent's death signal, a process namespace of its own, and the lab's names."""
    words = shlex.split(browser.wrapper(Lab.of({"host": {"netns": "box"}}), "chromium"))
    for word in ("--pdeathsig", "--net=/run/netns/box", "--pid", "--kill-child", "--mount"):
        assert word in words
    assert words[-2:] == ["chromium", "$@"]


@pytest.mark.root
def test_browser_shows_sites_and_replicas(farm: Lab) -> None:
    """Each page has its title, its replica and a screenshot; afterwards no process is left. A notebook's cell runs in
    an event loop, where Playwright's own calls would refuse to. Nothing that is recorded and published says where
    labkit is installed."""
    urls = [*(farm.url(site.name) for site in farm.sites), *browser.replicas(farm)]

    async def cell() -> Result[browser.Visits]:
        return browser.visit(farm, urls)

    result = asyncio.run(cell())
    assert failed(result.checks) == ()
    pages = result.value.pages
    assert [page.url for page in pages] == urls
    assert [page.title for page in pages][:2] == [TITLE, "Site 2: blue"]
    assert pages[0].heading == TITLE
    assert [page.replica for page in pages[2:]] == ["red-1", "red-2", "blue-1", "blue-2"]
    for page in pages:
        assert picture(farm, page.screenshot).read_bytes().startswith(b"\x89PNG")
    assert {row for check in result.checks for row in check.rows} == {"R11"}
    text = result.model_dump_json() + str(result._repr_mimebundle_())
    assert "python -P -m labkit.farm.services.browser" in text
    for place in (sys.executable, str(Path(__file__).parents[1])):
        assert place not in text
    assert browsers(farm) == []
    assert list((farm.run_dir / "browser").iterdir()) == []


@pytest.mark.root
def test_page_that_cannot_be_opened_is_a_failed_check(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that does not exist, one outside the zone, a closed port and a server that is silent."""
    monkeypatch.setattr(browser, "PATIENCE", 2.0)

    def listen() -> socket.socket:
        return socket.create_server((str(farm.gateway.ip), 8088))

    urls = [
        f"http://{farm.host_name('no-such')}/",
        "http://example.org/",
        f"http://{farm.host_name('blue')}:8099/",
        f"http://{farm.host_name('red')}:8088/",
    ]
    with inside(farm.netns, listen):
        result = browser.visit(farm, urls)
    seen = [check.seen for check in result.checks]
    assert len(failed(result.checks)) == 4
    for word, text in zip(
        ("NAME_NOT_RESOLVED", "NAME_NOT_RESOLVED", "CONNECTION_REFUSED", "imeout"),
        seen,
        strict=True,
    ):
        assert word in text
    assert browsers(farm) == []


@pytest.mark.root
def test_a_network_that_is_changed_meanwhile_is_no_failed_page(farm: Lab) -> None:
    """The page's address comes to the host while Chromium waits for whoever has it: which ends that wait."""
    address = "10.60.0.50"

    def sought() -> bool:
        return address in run.run(["ip", "neigh", "show", address], netns=farm.netns).stdout

    page = saying(lambda _: "<h1>here now</h1>")
    server = inside(farm.netns, ThreadingHTTPServer, ("", 8099), page)
    with served(server), ThreadPoolExecutor(1) as pool:
        visited = pool.submit(browser.visit, farm, [f"http://{address}:8099/"])
        words = [f"{address}/32", "dev", farm.bridge]
        until(sought, patience=30)
        run.run(["ip", "address", "add", *words], netns=farm.netns)
        try:
            (shown,) = visited.result().value.pages
        finally:
            run.run(["ip", "address", "del", *words], netns=farm.netns)
    assert (shown.status, shown.error, shown.heading) == (200, "", "here now")


@pytest.mark.root
def test_killed_driver_takes_the_browser_along(lab: Lab) -> None:
    """Whoever kills labkit's helper leaves no browser behind, and gets an error that says so. Without a name server no
    browser is started: its absence is told before."""
    named = give_address(lab)
    with pytest.raises(FarmError, match="name server"):
        browser.visit(named, [named.url("site1")])
    dns.up(named)

    def listen() -> socket.socket:
        return socket.create_server((str(named.gateway.ip), 80))

    with inside(named.netns, listen), ThreadPoolExecutor(1) as pool:
        visit = pool.submit(browser.visit, named, [named.url("site1")])
        until(lambda: browsers(named))
        for pid in drivers(named):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(FarmError, match="did not work: signal 9"):
            visit.result(60)
    until(lambda: not browsers(named))
    assert list((named.run_dir / "browser").iterdir()) == []


def drivers(lab: Lab) -> list[int]:
    """labkit's helper processes for this lab's browser, known by their temporary folder."""
    module, environments = "labkit.farm.services.browser", dict(proc.texts("environ"))
    return [
        pid
        for pid, words in proc.command_lines(module).items()
        if module in words and str(lab.run_dir) in environments.get(pid, "")
    ]


def test_what_cannot_be_visited_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address is a mistake of the caller's; a machine without Chromium is told so, and what to do."""
    with pytest.raises(ConfigError, match="nothing to visit"):
        browser.visit(Lab.of({}), [])
    monkeypatch.setattr(browser, "PROGRAM", "no-such-browser")
    with pytest.raises(MachineError, match="no-such-browser"):
        browser.visit(Lab.of({}), ["http://site1.lab.test/"])
    with pytest.raises(MachineError, match="no-such-browser"):
        publication.main_page(Lab.of({}))
