"""The web sites: the files in each one's image, from the templates in this package; and access logs. Pure.

A site's page shows the site (title, colour, a large numeral) and the replica that served it, which is also in the
response header :data:`REPLICA_HEADER`.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from string import Template
from typing import Annotated

from pydantic import Field

from labkit import reading
from labkit.display import ink_on
from labkit.model.config import Site
from labkit.model.lab import Lab
from labkit.records import Record

#: The response header that names the replica.
REPLICA_HEADER = "X-Labkit-Replica"
#: The request header whose value the logs keep, so that a measurement finds its own requests.
TRACE_HEADER = "X-Labkit-Trace"
#: The query of the balancer's health checks (HEAD requests), which the logs leave out.
HEALTH_QUERY = "labkit-health"
#: Where a container's apache2 writes its logs.
LOGS = "/var/log/apache2"
#: The environment variable of a container that holds its replica's name.
REPLICA_VARIABLE = "LABKIT_REPLICA"
#: One JSON object a request (Apache's mod_log_config). ``%{…}t`` without a prefix: the request's start.
LOG_FORMAT = (
    '{"time":"%{%Y-%m-%dT%H:%M:%S}t.%{usec_frac}t%{%z}t","replica":"%{LABKIT_REPLICA}e",'
    '"client":"%a","request":"%r","status":%>s,"microseconds":%D,'
    '"trace":"%{X-Labkit-Trace}i","agent":"%{User-Agent}i"}'
)
#: Where the site's files lie in its image: the page, its virtual host, and the server's main configuration.
PAGE, CONFIGURATION = "var/www/html/index.html", "etc/apache2/sites-enabled/000-default.conf"
SERVER = "etc/apache2/apache2.conf"
#: The modules that the page needs: a third of those that Debian turns on, and of their memory.
MODULES = ("mpm_event", "authz_core", "dir", "env", "filter", "headers", "include", "mime")
#: The types of files that a site may have: Debian's list of a thousand others is memory in each replica.
TYPES = {
    "text/html": ".html .htm", "text/plain": ".txt", "text/css": ".css", "text/javascript": ".js",
    "application/json": ".json", "image/png": ".png", "image/jpeg": ".jpg .jpeg", "image/svg+xml": ".svg",
}  # fmt: skip
#: Requests that the balancer sends to a replica at a time: more bring no more answers, the rest waits with it.
AT_ONCE = 16
#: Threads that answer in a replica: enough for two processes of the balancer (one that ends after a reload), the
#: health checks, and a measurement's clients. With more requests at a time than threads the server closes kept
#: connections (event_mpm: "All workers busy"), some with a request on its way; each thread is 8 KiB of memory.
THREADS = 40
#: Ranges of numbers in an access log, whose lines may be forged.
Status = Annotated[int, Field(ge=0, le=999)]
Microseconds = Annotated[int, Field(ge=0, le=10**12)]


class Request(Record):
    """One line of a replica's access log."""

    time: datetime
    replica: str
    client: str
    request: str
    status: Status
    microseconds: Microseconds
    trace: str
    agent: str


def files(lab: Lab, site: Site) -> dict[str, str]:
    """The files of the site's layer: path below the root (without a leading slash) -> text."""
    return {
        PAGE: page(lab, site),
        CONFIGURATION: virtual_host(lab, site),
        SERVER: server(),
    }


def server() -> str:
    """The main configuration of a container's apache2, in the place of Debian's, with only what the page needs."""
    return _template("apache2.conf").substitute(
        errors=f"{LOGS}/error.log",
        modules="\n".join(
            f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in MODULES
        ),
        types="\n".join(f"AddType {kind} {names}" for kind, names in TYPES.items()),
    )


def virtual_host(lab: Lab, site: Site) -> str:
    """The configuration of the site in its container's apache2 (Debian's layout around it)."""
    return _template("site.conf").substitute(
        name=lab.host_name(site.name),
        threads=THREADS,
        variable=REPLICA_VARIABLE,
        header=REPLICA_HEADER,
        log=f"{LOGS}/access.log",
        health=HEALTH_QUERY,
        format=LOG_FORMAT.replace('"', '\\"'),
    )


def page(lab: Lab, site: Site) -> str:
    """The site's page; Apache's mod_include puts the replica's name and address in."""
    return _template("index.html").substitute(
        title=html.escape(lab.title(site)),
        name=html.escape(lab.host_name(site.name)),
        numeral=lab.numbers[site.name],
        colour=lab.colour(site),
        ink=ink_on(lab.colour(site)),
        variable=REPLICA_VARIABLE,
    )


def parse_log(lines: Iterable[str]) -> tuple[list[Request], Counter[str]]:
    """The requests of a replica's access log, and the number of other lines by their fault; Apache's ``\\xhh`` escapes are
    kept."""
    return reading.records((as_json(line) for line in lines if line.strip()), Request)


def as_json(line: str) -> str:
    """A line of Apache's log as JSON: its escapes that JSON does not have (``\\xhh``, ``\\v``) keep
    their backslash. Read from the left: a client's own backslash, ``\\\\``, escapes nothing after it."""
    return re.sub(
        r"\\(.)", lambda found: found[0] if found[1] in '"\\/bfnrt' else f"\\{found[0]}", line
    )


@cache
def _template(name: str) -> Template:
    """One of the package's templates."""
    return Template((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))
