"""What to do with a lab that is up: where its report is, how to log in, how to see its sites, what comes next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labkit.farm.links import endpoint
from labkit.farm.names import resolver
from labkit.lab import Lab
from labkit.report import record as records
from labkit.wiki import server


def lines(lab: Lab, site: Path) -> tuple[tuple[str, str], ...]:
    """Heads and what is said of each; ``site`` is the review site's index. No password is in it."""
    return (*_report(lab), *_sites(lab), ("Review site", str(site)), *_next(lab))


def address(lab: Lab) -> str:
    """Where the report was published last, '' when it never was."""
    found = (result for record in records.latest(lab) for result in record.results)
    return next((item.subject for item in found if item.action == "report.publish"), "")


def _report(lab: Lab) -> Iterator[tuple[str, str]]:
    if there := address(lab):
        yield "Report", there
    if not lab.wiki.url:
        login = server.login_page(lab)
        yield "Log in", f"{login.url} as {' or '.join(login.accounts)}; root reads the passwords:"
        yield "", f"sudo cat {login.passwords}"


def _sites(lab: Lab) -> Iterator[tuple[str, str]]:
    """The sites' names are known to the lab's own name server alone: each command says where they lead."""
    name, url = lab.host_name(lab.sites[0].name), lab.url(lab.sites[0].name)
    rules = f"--no-proxy-server --host-resolver-rules='MAP *.{lab.domain} {lab.gateway.ip}'"
    chromium = f"chromium --no-sandbox {rules}" if lab.netns else f"chromium {rules}"
    yield "Sites", ", ".join(lab.url(site.name) for site in lab.sites)
    yield "", "the names are in the lab's own DNS; what it says of one, and two ways to open one:"
    yield "", f"sudo {resolver.with_dns(lab)} getent hosts {name}"
    for command in (
        f"curl --noproxy '*' --resolve {name}:{lab.proxy.port}:{lab.gateway.ip} {url}",
        f"{chromium} {url}",
    ):
        yield "", endpoint.again(lab, command)


def _next(lab: Lab) -> Iterator[tuple[str, str]]:
    yield (
        "Next",
        "write a line that begins with REX> on the report's page: labkit remarks lists them",
    )
    yield "", "labkit notebook opens the stages in JupyterLab; labkit down takes the lab down"
