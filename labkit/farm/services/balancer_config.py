"""The balancer's apache2 configuration: its text, and the facts that are read back from it. Pure.

Directives and parameters are those of Apache 2.4's mod_proxy, mod_proxy_balancer,
mod_proxy_hcheck and mod_lua; times without a unit are seconds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from labkit.core import accesslog
from labkit.model.config import METHODS, Site
from labkit.model.lab import Lab, Replica
from labkit.model.sites import AT_ONCE, HEALTH_QUERY, TRACE_HEADER

#: Where Debian's apache2-bin keeps its modules.
MODULES = Path("/usr/lib/apache2/modules")
LOADED = (
    "mpm_event", "authz_core", "authz_host", "alias", "headers", "slotmem_shm",
    "proxy", "proxy_http", "proxy_balancer", "proxy_hcheck", "lua", "reqtimeout",
    *(f"lbmethod_{method}" for method in METHODS),
)  # fmt: skip
#: The path below a site at which Apache's balancer-manager answers: to root on the host, who alone can ask from a
#: port below 1024.
STATUS_PATH = "/balancer-manager"
#: Such ports, without those of well-known services, and curl's option for one of them.
RESERVED = range(600, 1024)
FROM_RESERVED = f"--local-port {RESERVED[0]}-{RESERVED[-1]}"
#: The path at the name ``balancer`` at which the running configuration tells its fingerprint.
FINGERPRINT_PATH = "/configuration"
FINGERPRINT_HEADER = "X-Labkit-Configuration"
#: The header by which the balancer says whose it is (:func:`identity`), whatever its configuration.
LAB_HEADER = "X-Labkit-Lab"
#: The cookie that names a client's replica when the balancer is sticky.
STICKY_COOKIE = "ROUTEID"
#: One JSON object a request; ``replica`` is the route of the worker that answered, '-' for none, and ``lost``
#: that of one that had lost the request before.
LOG_FORMAT = (
    '{"time":"%{%Y-%m-%dT%H:%M:%S}t.%{usec_frac}t%{%z}t","site":"%v",'
    '"replica":"%{BALANCER_WORKER_ROUTE}e","lost":"%{REDIRECT_BALANCER_WORKER_ROUTE}e",'
    '"client":"%a","request":"%r","status":%>s,'
    f'"microseconds":%D,"trace":"%{{{TRACE_HEADER}}}i"}}'
)
#: Threads of the balancer, one for each request that it has in hand: with more clients at a time it closes kept
#: connections, as a replica does. The health checks and the balancer's own pages need some, too. A client that
#: sends its request slowly keeps one, for :data:`PATIENCE` at most: several hundred leave some for the others.
THREADS = 512
#: How long a client may take to send a request's header, and its body (mod_reqtimeout; seconds, and bytes a second
#: for which it gets more). Clients cannot be told apart by their addresses: all of them are on the host.
PATIENCE = "header=2-5,MinRate=2000 body=5-10,MinRate=2000"
#: How each request is passed on (mod_lua), after ProxyPass has named the balancer. Path and query stay as the
#: client wrote them. ``proxyreq`` is that of a forward proxy: for a reverse proxy, mod_proxy_http closes a client's
#: kept connection without an answer when a replica is lost. As a forward proxy it fails with 502 (504 for no answer
#: in time), and Apache serves the ErrorDocument: an internal request, which has the variables of the first one as
#: ``REDIRECT_…``. It goes to the half of the replicas to which the lost one does not belong. When it fails as well,
#: the client gets the error: Apache serves no ErrorDocument for an ErrorDocument. What may change something, or has a
#: body (which can be read only once), gets it at once. Apache makes it a GET; after a HEAD, whose answer's body is
#: not read, the connection to the replica is not used again.
SCRIPT = """\
function forward(r)
    local balancer = (r.filename or ""):match("^proxy:(balancer://[^/]+)/")
    if not balancer then return apache2.DECLINED end
    local method, path = r.the_request:match("^(%S+) (%S+)")
    path = path:gsub("^%a[%w+.-]*://[^/?]*", "")
    local env = r.subprocess_env
    local lost = env["REDIRECT_BALANCER_WORKER_ROUTE"]
    if lost then
        local length = r.headers_in["Content-Length"] or "0"
        if not (method == "GET" or method == "HEAD") or length ~= "0" or r.headers_in["Transfer-Encoding"] then
            return tonumber(env["REDIRECT_STATUS"])
        end
        balancer = balancer .. (lost:find("[13579]$") and "-even" or "-odd")
        if method == "HEAD" then env["proxy-nokeepalive"] = "1" end
    else
        local before = r.headers_in["X-Forwarded-For"]
        r.headers_in["X-Forwarded-For"] = (before and before .. ", " or "") .. r.useragent_ip
    end
    r.filename = "proxy:" .. balancer .. (path:find("^/") and "" or "/") .. path
    r.proxyreq = 1  -- PROXYREQ_PROXY
    return apache2.DECLINED
end
"""
#: Its file beside the configuration: Apache 2.4.71 (Debian 13) cannot load Lua that is written within its configuration.
SCRIPT_FILE = "forward.lua"
#: How a worker is asked. An idle connection is closed (``ttl``) before the replica would close it, at
#: Apache's KeepAliveTimeout of 5 s. It gets no more requests at a time (``max``) than it has threads for:
#: the others wait here, at most as long as for an answer (``acquire``, in milliseconds), and then go to
#: another replica.
ASKED = f"connectiontimeout=500ms timeout=10 ttl=3 max={AT_ONCE} acquire=10000"
#: The balancer looks once a second; within so many seconds it has noticed that a worker answers (again).
SETTLES = 2.0
#: How a worker is watched. A replica that refuses a connection is left out at once, and the
#: request goes to another one; the health check lets it in again.
WATCHED = f"retry=60 hcmethod=HEAD hcuri=/?{HEALTH_QUERY} hcinterval=1 hcpasses=1 hcfails=1"


def folder(lab: Lab) -> Path:
    """The folder of the balancer's configuration and its pid file."""
    return lab.run_dir / "proxy"


def logs(lab: Lab) -> Path:
    """The folder of the balancer's logs: ``access.log`` (in parts) and ``error.log``."""
    return lab.state_dir / "proxy"


@dataclass(frozen=True)
class Place:
    """Where a balancer runs: its own folder and the file of :data:`SCRIPT`, what it listens on (``ADDRESS:PORT``), where
    its logs go (Apache's words), by what address it finds a replica and with which further parameters of a worker; by which
    status Apache says that a replica was ``lost``; ``user`` '' leaves it who it is."""

    folder: str
    script: str
    listen: str
    error_log: str
    access_log: str
    address: Callable[[Replica], str]
    more: str = ""
    lost: tuple[int, ...] = (502, 504)
    user: str = "www-data"


def here(lab: Lab) -> Place:
    """The place of the lab's own balancer on this machine."""
    return Place(
        folder=str(folder(lab)),
        script=str(folder(lab) / SCRIPT_FILE),
        listen=f"{lab.gateway.ip}:{lab.proxy.port}",
        error_log=accesslog.cut(f"{logs(lab)}/error.log"),
        access_log=accesslog.rotated(f"{logs(lab)}/access.log"),
        address=lambda replica: str(replica.address),
    )


def config(lab: Lab, place: Place | None = None) -> str:
    """The whole configuration, for this machine or another place; it names its fingerprint, which a change of anything
    changes."""
    place = place or here(lab)
    sites = "\n".join(_site(lab, site, place) for site in lab.sites)
    text = f"{_server(lab, place)}\n{_front(lab)}\n{sites}"
    return text.replace("FINGERPRINT", fingerprint(text))


def identity(lab: Lab) -> str:
    """The words by which this lab's balancer is known: the lab's name and a hash of its run folder."""
    return f"{lab.name}-{fingerprint(str(lab.run_dir))}"


def fingerprint(text: str) -> str:
    """16 hexadecimal digits of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def running_fingerprint(text: str) -> str:
    """The fingerprint that a configuration names, '' when it names none."""
    _, _, rest = text.partition(f"Header always set {FINGERPRINT_HEADER} ")
    return rest.split("\n", 1)[0].strip('"')


def listens(text: str) -> str:
    """The address and port on which a configuration listens, '' when it says none."""
    lines = (line.split() for line in text.splitlines())
    return next((words[1] for words in lines if words[:1] == ["Listen"]), "")


def facts(text: str) -> dict[str, str]:
    """A configuration in words: ``sites``, and of each its workers with their weights and the method (``site red``: ``red-1 ×3, red-2 ×1 byrequests``)."""
    found: dict[str, str] = {}
    for host in text.split("<VirtualHost ")[1:]:
        block = host.partition("</Proxy>")[0]
        members = re.findall(r" route=(\S+) loadfactor=(\d+)", block)
        method = re.search(r"ProxySet lbmethod=(.*)", block)
        if members and method:
            site = members[0][0].rpartition("-")[0]
            workers = ", ".join(f"{route} ×{weight}" for route, weight in members)
            found[f"site {site}"] = f"{workers} {method[1]}"
    names = (name.removeprefix("site ") for name in found)
    return {"sites": ", ".join(sorted(names)) or "none", **found}


def between(old: str, new: str) -> str:
    """The new configuration, which also listens where the old one does, with a fingerprint that only it has;
    the new one itself where both listen at the same address and port."""
    there, here = listens(old), listens(new)
    if not there or there == here:
        return new
    ports = [address.rpartition(":")[2] for address in (here, there)]
    text = new.replace(f"Listen {here}\n", f"Listen {here}\nListen {there}\n")
    if ports[0] != ports[1]:
        text = text.replace(
            f"<VirtualHost *:{ports[0]}>", f"<VirtualHost *:{ports[0]} *:{ports[1]}>"
        )
    return text.replace(running_fingerprint(new), fingerprint(text))


def _server(lab: Lab, place: Place) -> str:
    modules = "\n".join(f'LoadModule {name}_module "{MODULES}/mod_{name}.so"' for name in LOADED)
    log_format = LOG_FORMAT.replace('"', '\\"')
    user = f"User {place.user}\nGroup {place.user}\n" if place.user else ""
    return f"""\
# The balancer of lab {lab.name}.
ServerRoot "{place.folder}"
DefaultRuntimeDir "{place.folder}"
PidFile "{place.folder}/apache2.pid"
Listen {place.listen}
ServerName {lab.host_name("balancer")}
ServerTokens Prod
{user}{modules}
# One process at a time: its threads share one view of the workers. The other slots are for
# processes that finish their requests after a graceful reload.
StartServers 1
ServerLimit 4
ThreadsPerChild {THREADS}
ThreadLimit {THREADS}
MaxRequestWorkers {THREADS}
MinSpareThreads 1
MaxSpareThreads {THREADS}
Timeout 30
RequestReadTimeout {PATIENCE}
KeepAliveTimeout 5
MaxKeepAliveRequests 0
ErrorLog {place.error_log}
LogLevel warn
LogFormat "{log_format}" labkit
CustomLog {place.access_log} labkit
ProxyRequests Off
BalancerInherit Off
# {fingerprint(SCRIPT)}
LuaScope thread
LuaHookFixups "{place.script}" forward
"""


def _front(lab: Lab) -> str:
    """The first virtual host, which answers to any name that is not a site's."""
    return f"""\
<VirtualHost *:{lab.proxy.port}>
    ServerName {lab.host_name("balancer")}
    Header always set {FINGERPRINT_HEADER} "FINGERPRINT"
    Header always set {LAB_HEADER} "{identity(lab)}"
    Redirect 204 "{FINGERPRINT_PATH}"
    Redirect 404 "/"
</VirtualHost>
"""


def _site(lab: Lab, site: Site, place: Place) -> str:
    balancer, own = f"balancer://{_balancer_name(site)}", lab.replicas_of(site.name)
    lost = "\n".join(f"    ErrorDocument {status} /again" for status in place.lost)
    odd = [item for item in own if item.index % 2]
    even = [item for item in own if not item.index % 2] or odd
    return f"""\
<VirtualHost *:{lab.proxy.port}>
    ServerName {lab.host_name(site.name)}
{_balancer(lab, place, balancer, own, WATCHED)}
    # The two halves, for requests that a replica of the other half has lost.
{_balancer(lab, place, f"{balancer}-odd", odd, "retry=0")}
{_balancer(lab, place, f"{balancer}-even", even, "retry=0")}
    <Location "{STATUS_PATH}">
        SetHandler balancer-manager
        <RequireAll>
            Require local
            Require expr "%{{REMOTE_PORT}} -lt 1024"
        </RequireAll>
    </Location>
{lost}
    ProxyPreserveHost On
    ProxyPass "{STATUS_PATH}" "!"
    ProxyPass "/" "{balancer}/"
{_stick(lab)}</VirtualHost>
"""


def _balancer(lab: Lab, place: Place, name: str, replicas: Sequence[Replica], how: str) -> str:
    more = f" {place.more}" if place.more else ""
    members = "\n".join(
        f'        BalancerMember "http://{place.address(item)}:80" route={item.name} '
        f"loadfactor={item.weight} {ASKED}{more} {how}"
        for item in replicas
    )
    sticky = f" stickysession={STICKY_COOKIE}" if lab.proxy.sticky else ""
    return f"""\
    <Proxy "{name}">
{members}
        ProxySet lbmethod={lab.proxy.lbmethod}{sticky}
    </Proxy>"""


def _stick(lab: Lab) -> str:
    if not lab.proxy.sticky:
        return ""
    cookie = f"{STICKY_COOKIE}=.%{{BALANCER_WORKER_ROUTE}}e; path=/"
    return f'    Header add Set-Cookie "{cookie}" env=BALANCER_ROUTE_CHANGED\n'


def _balancer_name(site: Site) -> str:
    """The site's name, shortened to what Apache takes (63 characters with ``balancer://``)."""
    return site.name[:48].rstrip("-")
