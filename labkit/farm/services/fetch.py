"""One HTTP request on the host's side of the lab; no redirection is followed, nothing is sent twice."""

from __future__ import annotations

import errno
import http.client
import random
import time
from collections.abc import Mapping
from contextlib import closing
from ipaddress import IPv4Address
from urllib.parse import urlencode

from labkit.display import curl
from labkit.errors import FarmError
from labkit.farm.services import dns
from labkit.farm.services.balancer_config import FINGERPRINT_HEADER, LAB_HEADER, RESERVED
from labkit.farm.services.dns_server import with_dns
from labkit.kernel.netns import inside
from labkit.model.lab import Lab
from labkit.model.sites import REPLICA_HEADER
from labkit.records import Record

#: What goes wrong on the way to an answer; each has a readable text (:func:`reason`).
ERRORS = (OSError, http.client.HTTPException)
#: The largest body of an answer in bytes, how long it may take in seconds, and the longest name of a replica: whoever
#: broke into one may answer anything.
LARGEST, LONGEST, NAME = 1 << 24, 60.0, 100


class Target(Record):
    """Where requests go: the name that is asked for, and the address and port that answer."""

    label: str
    host: str
    address: IPv4Address
    port: int


class Reply(Record):
    """An HTTP response: ``replica``, ``configuration`` and ``lab`` as its headers name them ('' for none),
    ``seconds`` to its end."""

    status: int
    replica: str
    cookie: str
    configuration: str
    lab: str
    body: str
    seconds: float


def target(lab: Lab, label: str) -> Target:
    """A site (through the balancer) or a replica (directly), its address asked from the lab's DNS.

    Raises :class:`ConfigError` for a label of neither, :class:`FarmError` without an address.
    """
    host, replicas = lab.host_name(label), {item.name for item in lab.farm}
    port = 80 if label in replicas else front(lab, label).port
    return Target(label=label, host=host, address=dns.address(lab, label), port=port)


def front(lab: Lab, label: str = "balancer") -> Target:
    """A site, or the balancer itself, where the Lab puts it: no name server is asked."""
    if label != "balancer":
        lab.site(label)
    host, port = lab.host_name(label), lab.proxy.port
    return Target(label=label, host=host, address=lab.gateway.ip, port=port)


def get(
    there: Target,
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    reserved: bool = False,
    patience: float = 5.0,
) -> Reply:
    """The response to a GET (with ``form``: to a POST), in the calling thread's network namespace; asked from a
    ``reserved`` port, it is known that root asks.

    Raises one of :data:`ERRORS` when there is none within ``patience`` seconds of silence.
    """
    started = time.monotonic()
    sent = {"Connection": "close", **(headers or {})}
    if form is not None:
        sent["Content-Type"] = "application/x-www-form-urlencoded"
    method, body = ("GET", None) if form is None else ("POST", urlencode(form))
    with closing(connection(there, patience, reserved=reserved)) as channel:
        reply = answered(channel, there, method, path, headers=sent, body=body)
    return reply.model_copy(update={"seconds": time.monotonic() - started})


def connection(
    there: Target, patience: float = 5.0, *, reserved: bool = False
) -> http.client.HTTPConnection:
    """A connection to a target, which the first request opens; a ``reserved`` one is open, from a port that only root
    can have (ip(7): ip_unprivileged_port_start)."""
    address = str(there.address)
    if not reserved:
        return http.client.HTTPConnection(address, there.port, timeout=patience)
    for port in random.sample(RESERVED, len(RESERVED)):
        made = http.client.HTTPConnection(
            address, there.port, timeout=patience, source_address=("", port)
        )
        try:
            made.connect()
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL}:
                raise
        else:
            return made
    raise OSError(errno.EADDRINUSE, f"no port of {RESERVED[0]} to {RESERVED[-1]} is free")


def answered(
    channel: http.client.HTTPConnection,
    there: Target,
    method: str,
    path: str = "/",
    *,
    headers: Mapping[str, str],
    body: str | None = None,
) -> Reply:
    """The response to one request on a connection, which is opened when it is not open."""
    started = time.monotonic()
    channel.request(method, path, body, {"Host": _host(there), **headers})
    with channel.getresponse() as response:
        text = _body(response, started + LONGEST)
    return Reply(
        status=response.status,
        replica=response.getheader(REPLICA_HEADER, "")[:NAME],
        cookie=response.getheader("Set-Cookie", "").partition(";")[0],
        configuration=response.getheader(FINGERPRINT_HEADER, ""),
        lab=response.getheader(LAB_HEADER, ""),
        body=text.decode(errors="replace"),
        seconds=time.monotonic() - started,
    )


def _body(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The whole body; an error when it is larger, or drips in for longer, than that of any page."""
    asked, body = response.length or 0, bytearray()
    while part := response.read1(1 << 16):
        body += part
        if len(body) > LARGEST:
            raise http.client.HTTPException(f"more than {LARGEST} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no end within {LONGEST:g} s")
    if len(body) < asked:
        raise http.client.IncompleteRead(bytes(body))
    return bytes(body)


def reach(
    lab: Lab,
    there: Target,
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    form: Mapping[str, str] | None = None,
    reserved: bool = False,
) -> Reply:
    """The response of a target, asked from the host's side; :class:`FarmError` when none comes."""
    try:
        return inside(lab.netns, get, there, path, headers=headers, form=form, reserved=reserved)
    except ERRORS as error:
        raise down(lab, there, error) from None


def down(lab: Lab, there: Target, error: Exception) -> FarmError:
    """The error for a target that does not answer."""
    what = "replica" if there.label in {item.name for item in lab.farm} else "balancer"
    return FarmError(
        f"http://{_host(there)}/ at {there.address}",
        f"the {what} does not answer: {reason(error)}",
        "start it: `./lab run 06-balancer`",
        f"{with_dns(lab)} {curl(f'http://{_host(there)}/', options='--head')}",
        code="farm.no-answer",
    )


def reason(error: Exception) -> str:
    """An error in a few words: ``Connection refused``, ``timed out``, ``RemoteDisconnected``."""
    text = error.strerror if isinstance(error, OSError) else ""
    return text or str(error) or type(error).__name__


def _host(there: Target) -> str:
    return there.host if there.port == 80 else f"{there.host}:{there.port}"
