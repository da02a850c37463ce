"""How the lab's balancer is configured: the text of its apache2 configuration. Pure.

Directives and parameters are those of Apache 2.4's mod_proxy, mod_proxy_balancer and
mod_proxy_hcheck; times without a unit are seconds.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from labkit import accesslog
from labkit.farm.site import AT_ONCE, HEALTH_QUERY, TRACE_HEADER
from labkit.lab import Lab, Replica, Site

#: Where Debian's apache2-bin keeps its modules.
MODULES = Path("/usr/lib/apache2/modules")
LOADED = (
    "mpm_event", "authz_core", "authz_host", "alias", "headers", "slotmem_shm",
    "proxy", "proxy_http", "proxy_balancer", "proxy_hcheck", "reqtimeout",
    "lbmethod_byrequests", "lbmethod_bytraffic", "lbmethod_bybusyness",
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
#: One JSON object a request; ``replica`` is the route of the worker that answered, '-' for none.
LOG_FORMAT = (
    '{"time":"%{%Y-%m-%dT%H:%M:%S}t.%{usec_frac}t%{%z}t","site":"%v",'
    '"replica":"%{BALANCER_WORKER_ROUTE}e","client":"%a","request":"%r","status":%>s,'
    f'"microseconds":%D,"trace":"%{{{TRACE_HEADER}}}i"}}'
)
#: Threads of the balancer, one for each request that it has in hand: with more clients at a time it closes kept
#: connections, as a replica does. The health checks and the balancer's own pages need some, too. A client that
#: sends its request slowly keeps one, for :data:`PATIENCE` at most: several hundred leave some for the others.
THREADS = 512
#: How long a client may take to send a request's header, and its body (mod_reqtimeout; seconds, and bytes a second
#: for which it gets more). Clients cannot be told apart by their addresses: all of them are on the host.
PATIENCE = "header=2-5,MinRate=2000 body=5-10,MinRate=2000"
#: The status by which the balancer asks a client to send a GET or a HEAD again (an ErrorDocument that is
#: an address answers so): the replica ended while it answered, and the next try goes elsewhere. Clients
#: make another request a GET without its body, so that one is answered with its 502.
RETRY = 302
#: How a worker is watched. A replica that refuses a connection is left out at once, and the
#: request goes to another one; the health check lets it in again. An idle connection is closed
#: (``ttl``) before the replica would close it, at Apache's KeepAliveTimeout of 5 s. It gets no more
#: requests at a time (``max``) than it has threads for: the others wait here, at most as long as for
#: an answer (``acquire``, in milliseconds), and then go to another replica.
WORKER = (
    f"connectiontimeout=500ms timeout=10 retry=60 ttl=3 max={AT_ONCE} acquire=10000 "
    f"hcmethod=HEAD hcuri=/?{HEALTH_QUERY} hcinterval=1 hcpasses=1 hcfails=1"
)


def config(lab: Lab, folder: Path, logs: Path) -> str:
    """The whole configuration; it names its own fingerprint, which a change of anything changes."""
    sites = "\n".join(_site(lab, site) for site in lab.sites)
    text = f"{_server(lab, folder, logs)}\n{_front(lab)}\n{sites}"
    return text.replace("FINGERPRINT", fingerprint(text))


def identity(lab: Lab) -> str:
    """What only this lab's balancer says of itself: the lab's name and a hash of its own folder."""
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


def told(text: str) -> dict[str, str]:
    """What a configuration says in words: ``sites``, and of each its workers with their weights and how one
    is chosen (``site red``: ``red-1 ×3, red-2 ×1 byrequests``)."""
    found: dict[str, str] = {}
    for block in text.split("<VirtualHost ")[1:]:
        members = re.findall(r" route=(\S+) loadfactor=(\d+)", block)
        method = re.search(r"ProxySet lbmethod=(.*)", block)
        if members and method:
            site = members[0][0].rpartition("-")[0]
            workers = ", ".join(f"{route} ×{weight}" for route, weight in members)
            found[f"site {site}"] = f"{workers} {method[1]}"
    names = (name.removeprefix("site ") for name in found)
    return {"sites": ", ".join(sorted(names)) or "none", **found}


def between(old: str, new: str) -> str:
    """A configuration by which the new one is served where it says and where the old one listens, too; the
    new one where that is the same. Its fingerprint is its own."""
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


def _server(lab: Lab, folder: Path, logs: Path) -> str:
    modules = "\n".join(f'LoadModule {name}_module "{MODULES}/mod_{name}.so"' for name in LOADED)
    log_format = LOG_FORMAT.replace('"', '\\"')
    return f"""\
# The balancer of lab {lab.name}.
ServerRoot "{folder}"
DefaultRuntimeDir "{folder}"
PidFile "{folder}/apache2.pid"
Listen {lab.gateway.ip}:{lab.proxy.port}
ServerName {lab.host_name("balancer")}
ServerTokens Prod
User www-data
Group www-data
{modules}
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
ErrorLog {accesslog.cut(f"{logs}/error.log")}
LogLevel warn
LogFormat "{log_format}" labkit
CustomLog {accesslog.rotated(f"{logs}/access.log")} labkit
ProxyRequests Off
BalancerInherit Off
"""


def _front(lab: Lab) -> str:
    """What answers to any name that is no site's: the first virtual host."""
    return f"""\
<VirtualHost *:{lab.proxy.port}>
    ServerName {lab.host_name("balancer")}
    Header always set {FINGERPRINT_HEADER} "FINGERPRINT"
    Header always set {LAB_HEADER} "{identity(lab)}"
    Redirect 204 "{FINGERPRINT_PATH}"
    Redirect 404 "/"
</VirtualHost>
"""


def _site(lab: Lab, site: Site) -> str:
    members = "\n".join(_member(item) for item in lab.replicas_of(site.name))
    balancer = f"balancer://{balancer_name(site)}"
    address = lab.url(site.name, "")
    sticky = f" stickysession={STICKY_COOKIE}" if lab.proxy.sticky else ""
    return f"""\
<VirtualHost *:{lab.proxy.port}>
    ServerName {lab.host_name(site.name)}
    <Proxy "{balancer}">
{members}
        ProxySet lbmethod={lab.proxy.lbmethod}{sticky}
    </Proxy>
    <Location "{STATUS_PATH}">
        SetHandler balancer-manager
        <RequireAll>
            Require local
            Require expr "%{{REMOTE_PORT}} -lt 1024"
        </RequireAll>
    </Location>
    <If "%{{REQUEST_METHOD}} in {{'GET', 'HEAD'}}">
        ErrorDocument 502 "{address}%{{REQUEST_URI}}?%{{QUERY_STRING}}"
    </If>
    ProxyPreserveHost On
    ProxyPass "{STATUS_PATH}" "!"
    ProxyPass "/" "{balancer}/"
{_stick(lab)}</VirtualHost>
"""


def _member(replica: Replica) -> str:
    return (
        f'        BalancerMember "http://{replica.address}:80" route={replica.name} '
        f"loadfactor={replica.weight} {WORKER}"
    )


def _stick(lab: Lab) -> str:
    if not lab.proxy.sticky:
        return ""
    cookie = f"{STICKY_COOKIE}=.%{{BALANCER_WORKER_ROUTE}}e; path=/"
    return f'    Header add Set-Cookie "{cookie}" env=BALANCER_ROUTE_CHANGED\n'


def balancer_name(site: Site) -> str:
    """The site's name, shortened to what Apache takes (63 characters with ``balancer://``)."""
    return site.name[:48].rstrip("-")
