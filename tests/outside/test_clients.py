"""curl, wrk and dig ask the sites, in the lab's namespace; none of them follows or repeats anything."""

from __future__ import annotations

import re

import pytest

from labkit import Lab
from tests.outside.asking import needs, said

pytestmark = pytest.mark.root


def curl(lab: Lab, *options: str, site: str = "red", path: str = "/", fails: bool = False) -> str:
    """What curl says of a site, whose name it is told the address of."""
    host = lab.host_name(site)
    known = ("--resolve", f"{host}:80:{lab.gateway.ip}", "--max-time", "20")
    words = ("curl", "--silent", "--show-error", *known, *options, f"http://{host}{path}")
    return said(*words, netns=lab.netns, fails=fails)


@needs("curl")
@pytest.mark.parametrize("site", ["red", "blue"])
def test_curl_gets_each_site(farm: Lab, site: str) -> None:
    """The site's own page, by two replicas, without a redirection."""
    text = "".join(curl(farm, "--fail", "--include", site=site) for _ in range(10))
    assert text.count("HTTP/1.1 200 OK") == 10
    assert {name.lower() for name in re.findall(r"(?i)x-labkit-replica: (\S+)", text)} == {
        f"{site}-1", f"{site}-2",
    }  # fmt: skip
    assert "Location:" not in text


@needs("curl")
def test_a_connection_is_kept(farm: Lab) -> None:
    """By one client for all that it asks."""
    host = farm.host_name("red")
    format_ = ("--output", "/dev/stderr", "--write-out", "made %{num_connects}\n")
    text = curl(farm, *format_, "--next", "--resolve", f"{host}:80:{farm.gateway.ip}", *format_, f"http://{host}/")  # fmt: skip
    assert re.findall(r"made (\d)", text) in (["1", "0"], ["1", "1"])


@needs("curl")
@pytest.mark.parametrize(
    ("options", "path", "wanted"),
    [
        (("--head",), "/", "200"),
        ((), "/nothing%2Fhere?a=b%26c", "404"),
        (("--request", "TRACE"), "/", "40"),
        (("--path-as-is",), "/../../etc/passwd", "400"),
        (("--header", "Host: nobody.example"), "/", "404"),
        ((), "/balancer-manager", "40"),
        ((), "/server-status", "40"),
    ],
)  # fmt: skip
def test_what_curl_is_answered(farm: Lab, options: tuple[str, ...], path: str, wanted: str) -> None:
    """Nothing but pages is served, and every answer is one."""
    got = curl(farm, *options, "--output", "/dev/stderr", "--write-out", "\nstatus %{http_code}\n", path=path)  # fmt: skip
    assert re.search(r"^status (\d+)", got, re.M)[1].startswith(wanted), got  # type: ignore[index]


@needs("wrk")
def test_wrk_counts_no_error(farm: Lab) -> None:
    """Two seconds, sixteen connections."""
    host = ("-H", f"Host: {farm.host_name('red')}")
    text = said("wrk", "-t2", "-c16", "-d2s", *host, f"http://{farm.gateway.ip}/", netns=farm.netns)
    assert int(re.search(r"(\d+) requests in", text)[1]) > 100  # type: ignore[index]
    assert "Non-2xx" not in text
    assert "Socket errors" not in text


@needs("dig")
def test_dig_finds_each_name(farm: Lab) -> None:
    """By UDP and TCP, forwards and back."""
    server = f"@{farm.gateway.ip}"
    for way in ("+notcp", "+tcp"):
        for replica in farm.farm:
            name = farm.host_name(replica.name)
            assert said("dig", "+short", way, server, name, netns=farm.netns).strip() == str(replica.address)  # fmt: skip
            back = said("dig", "+short", way, server, "-x", str(replica.address), netns=farm.netns)
            assert back.strip() == f"{name}."
