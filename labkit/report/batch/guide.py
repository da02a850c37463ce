"""What to do with a lab that is up: where its report is, how to log in, how to see its sites, what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labkit.display import curl
from labkit.errors import StateError
from labkit.farm.network import host
from labkit.farm.services import dns_config
from labkit.model.lab import Lab
from labkit.report.stages import record as records
from labkit.wiki import server


def lines(lab: Lab, site: Path, *, whole: bool = True) -> tuple[tuple[str, str], ...]:
    """Headings with their texts, without any password: the review site (``site`` is its index) and, for the
    ``whole`` lab once its report was published, how to use it."""
    review = ("Review site", str(site))
    if not whole or not address(lab):
        return (review,)
    return (*_report(lab), *_sites(lab), review, *_next())


def address(lab: Lab) -> str:
    """Where the report was published last, '' when it never was, or when that cannot be read any more."""
    try:
        found = [result for record in records.latest(lab) for result in record.results]
    except StateError:
        return ""
    return next((item.subject for item in found if item.action == "report.publish"), "")


def _report(lab: Lab) -> Iterator[tuple[str, str]]:
    yield "Report", address(lab)
    if not lab.wiki.url:
        login = server.login_page(lab)
        yield (
            "Log in",
            f"{login.url} as {', '.join(login.accounts[:-1])} or {login.accounts[-1]}; the passwords:",
        )
        yield "", f"sudo cat {login.passwords}"


def _sites(lab: Lab) -> Iterator[tuple[str, str]]:
    """The commands bring the address along: only the lab's own name server has the sites' names."""
    name, url, ip = lab.host_name(lab.sites[0].name), lab.url(lab.sites[0].name), lab.gateway.ip
    rules = f"--no-proxy-server --host-resolver-rules='MAP *.{lab.domain} {ip}'"
    within = "sudo " if lab.netns else ""
    chromium = "chromium --no-sandbox" if lab.netns else "chromium"
    asked = curl(url, options=f"--resolve {name}:{lab.proxy.port}:{ip}")
    yield "Sites", ", ".join(lab.url(site.name) for site in lab.sites)
    yield "", "only the lab's DNS has these names; this looks one up, asks it, and opens it:"
    yield "", f"sudo {dns_config.with_dns(lab)} getent hosts {name}"
    yield "", within + host.again(lab, asked)
    yield "", within + host.again(lab, f"{chromium} {rules} {url}")


def _next() -> Iterator[tuple[str, str]]:
    yield (
        "Next",
        "write a line that begins with REX> on the report's page; ./lab remarks lists them",
    )
    yield "", "./lab notebook opens the stages in JupyterLab; sudo ./lab down takes the lab down"
