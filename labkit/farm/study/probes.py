"""The probes of a root file system that serves: what containers on it are asked, and what each has to answer."""

from __future__ import annotations

import contextvars
import html
import http.client
import re
import secrets
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from labkit import cancellation
from labkit.core import run
from labkit.core.daemon import tail
from labkit.core.files import write_atomically
from labkit.core.journal import lock
from labkit.display import counted, quoted
from labkit.errors import FarmError, LabkitError
from labkit.farm import images
from labkit.farm.containers import container, lifecycle, runc, written
from labkit.farm.containers.overlay import WWW_DATA
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.services import fetch
from labkit.farm.study.probe_containers import (
    BROKEN,
    LARGE,
    LARGE_SIZE,
    PAGES,
    Container,
    Setup,
    prepared,
)
from labkit.kernel import cgroups
from labkit.kernel.netns import inside
from labkit.kernel.users import inner as inner_user
from labkit.model.lab import Lab
from labkit.model.sites import TRACE_HEADER
from labkit.records import Record

#: How long a server may take to begin to answer, or to do what it was told (seconds).
PATIENCE = 10.0
#: Between two looks (seconds).
PAUSE = 0.02
#: How long a container may live that is started to be stopped (seconds).
LIFE = 20.0
#: Apache's signals (stopping.html of its manual): a graceful restart, a graceful stop.
RELOAD, STOP = "USR1", "WINCH"
#: Pages that no site has: one that stays so, and one whose error is told anew after a reload.
NOWHERE, CHANGING = "/survival/nowhere", "/survival/changing"
#: What is asked by ssh: the question of the farm's own check.
QUESTION = "hostname; id -un"
#: What the server writes when it goes on after a reload (AH00489: "... configured -- resuming ...").
STARTED = "configured"
#: By what each of two names is resolved, and the address in the container's network that it stands for.
NAMES: Mapping[str, str] = {"dns": "127.0.0.2", "hosts": "127.0.0.3"}
#: What the server says at each of those addresses, when it knows them.
NAMED = "/name.txt"

REREAD = "the new configuration is served, and no request failed meanwhile"
ROTATED = "the new access log has the next request, the new error log the server's start"
REFUSED = "refused: Permission denied (publickey)"
STOPPED = "the answer under way came whole, later requests are refused, exit status 0"
TERMINATED = "exit status 0"
USERS = {
    False: f"every process is user {WWW_DATA}'s",
    True: f"the first process is user 0's, the others user {WWW_DATA}'s",
}
UNWRITTEN = "nothing outside the folders in memory and the logs"


class Probe(Record):
    """One question to a container: what a server that does its job answers, and what this one did."""

    name: str
    expected: str
    seen: str

    @property
    def holds(self) -> bool:
        """Whether it answered as it has to."""
        return self.seen == self.expected


@dataclass(frozen=True)
class Question:
    """What a container (or a root folder) is asked, and the answer of one that does its job, for which '' stands, too."""

    name: str
    expected: str
    ask: Callable[[Any], str]


@dataclass(frozen=True)
class Role:
    """A container and the questions to it, in their order; ``around`` is what runs beside it."""

    setup: Setup
    questions: tuple[Question, ...]
    around: Callable[[Container], AbstractContextManager[object]] = lambda _: nullcontext()


def probe(lab: Lab, image: Unpacked | str) -> tuple[Probe, ...]:
    """Puts every question to throw-away containers on an image and removes them.

    The sites' own files are laid over the image. A question that fails keeps no other from being asked.
    Waits for the lab's ``farm`` lock.

    :param image: an unpacked image, or its tag; raises for a tag what
        :func:`labkit.farm.images.unpacked` raises.
    """
    unpacked = images.unpacked(lab, image) if isinstance(image, str) else image
    parts = roles(lab)
    container.keys(lab)
    setups = [role.setup for role in parts]
    with lock(lab.run_dir, "farm"), prepared(lab, unpacked, setups) as made:
        pairs = list(zip(parts, made, strict=True))  # they wait more than they work
        answers = run.spread(lambda pair: _play(*pair), pairs, workers=len(pairs))
        last = put(Question("writes", UNWRITTEN, lambda _: files_written(made)), made[0])
    return (*(item for part in answers for item in part), last)


def roles(lab: Lab) -> tuple[Role, ...]:
    """The containers that are needed: one a site, and those that are named, privileged or stopped. Pure."""
    names = [site.name for site in lab.sites]
    setups = [Setup(name=f"page-{number}", site=name) for number, name in enumerate(names, 1)]
    asked = [[Question(f"page.{one.site}", _expected_page(lab, one), page)] for one in setups]
    serving = [
        Question("not-found", "404 Not Found, and then 200", lambda one: _error(one, NOWHERE)),
        Question("failing", "500 Internal Server Error, and then 200", lambda one: _error(one, BROKEN)),
        Question("users.www-data", USERS[False], users),
        Question("reload", REREAD, reread),
    ]  # fmt: skip
    rotation = [Question("rotation", ROTATED, rotated)]
    login_site = setups[2 % len(setups)]
    login = [
        Question("ssh", f"trial-{login_site.name} root", session),
        Question("ssh.stranger", REFUSED, stranger),
    ]
    for place, questions in enumerate((serving, rotation, login)):
        asked[place % len(asked)] += questions
    first = names[0]
    return (
        *(Role(one, tuple(questions)) for one, questions in zip(setups, asked, strict=True)),
        Role(
            Setup(name="named", site=first, files=naming_files(lab)),
            tuple(
                Question(f"names.{by}", f"{host_name(lab, by)} is resolved", partial(named, by=by))
                for by in NAMES
            ),
            name_server,
        ),
        Role(
            Setup(name="privileged", site=first, privileged=True),
            (Question("users.root", USERS[True], users),),
        ),
        Role(
            Setup(name="stopped", site=first, foreground=True),
            (Question("stop", STOPPED, stopped),),
        ),
        Role(
            Setup(name="terminated", site=first, foreground=True),
            (Question("terminate", TERMINATED, terminated),),
        ),
    )


def _play(role: Role, one: Container) -> list[Probe]:
    """The role's questions, one after the other; of a container that cannot begin, its error for each."""
    with role.around(one):
        try:
            one.begin()
        except LabkitError as error:
            seen = error.reason
            return [Probe(name=q.name, expected=q.expected, seen=seen) for q in role.questions]
        return [put(question, one) for question in role.questions]


def put(question: Question, to: Container | Path) -> Probe:
    """The question with the answer, or with why there is none."""
    try:
        seen = question.ask(to) or question.expected
    except LabkitError as error:
        seen = " ".join(error.reason.split())
    except fetch.ERRORS as error:
        seen = f"{type(error).__name__}: {error}"
    return Probe(name=question.name, expected=question.expected, seen=seen)


# -- pages -----------------------------------------------------------------------------------------


def ask(
    one: Container, path: str = "/", *, address: str = "127.0.0.1", trace: str = "-"
) -> fetch.Reply:
    """The answer to one request over a new connection, from within the container's network."""
    return inside(one.replica.netns, get, path, address, trace)


def get(path: str, address: str = "127.0.0.1", trace: str = "-") -> fetch.Reply:
    """The same from the caller's network; raises one of :data:`labkit.farm.services.fetch.ERRORS` without an answer."""
    there = fetch.Target(label="", host=address, address=IPv4Address(address), port=80)
    return fetch.get(there, path, headers={TRACE_HEADER: trace}, patience=PATIENCE)


def title(reply: fetch.Reply) -> str:
    """The page's title."""
    found = re.search(r"<title>(.*?)</title>", reply.body, re.DOTALL)
    return html.unescape(found[1]).strip() if found else ""


def until(holds: Callable[[], bool]) -> bool:
    """Whether it holds within the patience."""
    return cancellation.until(holds, PATIENCE)


def first(one: Container) -> fetch.Reply:
    """The answer of a server that may just have begun; :class:`FarmError` when it ends or is silent."""
    replies: list[fetch.Reply] = []

    def answers() -> bool:
        with suppress(*fetch.ERRORS):
            replies.append(ask(one))
            return True
        one.require()
        return False

    if not until(answers):
        silent = f"no answer on port 80 within {PATIENCE:g} s"
        raise FarmError(one.name, silent, code="farm.replica-silent")
    return replies[0]


def page(one: Container) -> str:
    """The site's page, in which mod_include has put the replica's name, and the header with that name."""
    reply = first(one)
    shown = f'id="replica">{one.name}<' in reply.body
    return f"{reply.status} {quoted(title(reply))}, header {reply.replica}, {'its' if shown else 'no'} name in it"


def _expected_page(lab: Lab, setup: Setup) -> str:
    expected = quoted(lab.title(lab.site(setup.site)))
    return f"200 {expected}, header trial-{setup.name}, its name in it"


def _error(one: Container, path: str) -> str:
    first(one)
    said = title(ask(one, path))
    return f"{said}, and then {ask(one).status}"


# -- names -----------------------------------------------------------------------------------------


def host_name(lab: Lab, by: str) -> str:
    """The name that is resolved ``by`` dns or hosts."""
    return f"by-{by}.survival.{lab.domain}"


def naming_files(lab: Lab) -> dict[str, str]:
    """What a server needs that is reached by names: virtual hosts that are known by name alone.

    Apache looks a virtual host's name up when it reads its configuration (dns-caveats.html of its manual).
    """
    hosts = "".join(
        f"<VirtualHost {host_name(lab, by)}:80>\n    ServerName {by}\n"
        f"    DocumentRoot /{PAGES}/{by}\n</VirtualHost>\n"
        for by in NAMES
    )
    return {
        "etc/apache2/sites-enabled/zz-names.conf": hosts,
        "etc/resolv.conf": "nameserver 127.0.0.1\noptions timeout:1 attempts:2\n",
        "etc/hosts": f"127.0.0.1 localhost\n{NAMES['hosts']} {host_name(lab, 'hosts')}\n",
        **{f"{PAGES}/{by}{NAMED}": f"{by}\n" for by in NAMES},
    }


def named(one: Container, by: str) -> str:
    """Whether the address that a virtual host's name stands for serves that host."""
    first(one)
    reply = ask(one, NAMED, address=NAMES[by])
    known = (reply.status, reply.body) == (200, f"{by}\n")
    return f"{host_name(one.lab, by)} {'is' if known else 'is not'} resolved"


@contextmanager
def name_server(one: Container) -> Iterator[None]:
    """A name server at 127.0.0.1 of the container's network that knows the name resolved by dns."""
    known = {host_name(one.lab, "dns"): NAMES["dns"]}

    class Answer(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            question, channel = self.request
            channel.sendto(name_answer(question, known), self.client_address)

    server = inside(one.replica.netns, socketserver.UDPServer, ("127.0.0.1", 53), Answer)
    thread = threading.Thread(target=server.serve_forever, args=(PAUSE,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def name_answer(question: bytes, known: Mapping[str, str]) -> bytes:
    """The answer to a question: the address, none of another type, or that there is no such name. Pure."""
    query = dns.message.from_wire(question)
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.AA
    asked = query.question[0]
    address = known.get(asked.name.to_text(omit_final_dot=True).lower())
    if address is None:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif asked.rdtype == dns.rdatatype.A:
        answer.answer.append(dns.rrset.from_text(asked.name, 60, "IN", "A", address))
    return answer.to_wire()


# -- rights ----------------------------------------------------------------------------------------


def users(one: Container) -> str:
    """Whose the server's processes are, once it has answered."""
    first(one)
    until(lambda: _users(one) in USERS.values())  # a new process may not have given its rights away
    return _users(one)


def _users(one: Container) -> str:
    path = f"{runc.cgroup(one.lab)}/{one.name}"
    found = [server for pid in sorted(cgroups.processes(path)) if (server := _server(pid))]
    first_one = [user for inner, user in found if inner == 1]
    others = sorted({user for inner, user in found if inner != 1})
    if first_one == others == [WWW_DATA]:
        return USERS[False]
    if (first_one, others) == ([0], [WWW_DATA]):
        return USERS[True]
    return f"the first process is user {first_one}'s, the others users {others}'s"


def _server(pid: int) -> tuple[int, int] | None:
    """The number within its container, and the effective user there, of one of apache2's processes (proc(5))."""
    with suppress(OSError):
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
        if fields["Name"] == "apache2":
            user = inner_user(pid, int(fields["Uid"].split()[1]))
            return int(fields["NSpid"].split()[-1]), user
    return None


def files_written(made: Sequence[Container]) -> str:
    """What the containers wrote into their own layers, all questions asked."""
    if all(one.error for one in made if not one.setup.foreground):
        return "no container began"
    found = sorted({path for one in made if not one.error for path in one.written()})
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{', '.join(found[:5])}{more}" if found else UNWRITTEN


# -- reloading -------------------------------------------------------------------------------------


def reread(one: Container) -> str:
    """``apachectl graceful`` in the container while requests go on: whether it then serves the new configuration."""
    first(one)
    word = f"read-again-{secrets.token_hex(3)}"
    with ThreadPoolExecutor(1) as pool:
        done = threading.Event()
        load = pool.submit(inside, one.replica.netns, _load, done)
        try:
            write_atomically(one.conf / "reload.conf", f'ErrorDocument 404 "{word}"\n')
            container.execute(one.lab, one.name, "apachectl", "graceful")
            seen = until(lambda: ask(one, CHANGING).body == word)
        finally:
            done.set()
        failed, asked = load.result()
    if not seen:
        return "the old configuration is still served"
    if failed or not asked:
        return f"{failed} of {counted(asked, 'request')} failed meanwhile"
    return REREAD


def _load(done: threading.Event) -> tuple[int, int]:
    """Requests one after the other until ``done``: how many failed, and how many there were."""
    failed = asked = 0
    while not done.is_set():
        asked += 1
        try:
            failed += get("/").status != 200
        except fetch.ERRORS:
            failed += 1
    return failed, asked


def rotated(one: Container) -> str:
    """Whether the server opens its logs again after they were renamed, as a rotation does it."""
    first(one)
    trace = f"rotation-{secrets.token_hex(4)}"
    if not until(lambda: all(_text(one, kind) for kind in written.KINDS)):
        empty = " or the ".join(kind for kind in written.KINDS if not _text(one, kind))
        return f"nothing in the {empty} log"
    for kind in written.KINDS:
        log = one.log(kind)
        log.rename(log.with_suffix(".old"))
    one.signal(RELOAD)
    if not until(lambda: bool(ask(one, trace=trace)) and trace in _text(one, "access")):
        return "nothing in the new access log"
    if not until(lambda: STARTED in _text(one, "error")):
        return "nothing in the new error log"
    return ROTATED


def _text(one: Container, kind: written.Kind) -> str:
    log = one.log(kind)
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


# -- ssh -------------------------------------------------------------------------------------------


def session(one: Container) -> str:
    """What a command said that ssh ran in the container, with the lab's key."""
    done = _ssh(one, container.keys(one.lab).folder / "student")
    return _ssh_failure(one, done) if done.status else " ".join(done.stdout.split())


def stranger(one: Container) -> str:
    """What the ssh server says to another key."""
    key = one.folder / "stranger"
    if not key.exists():
        run.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    done = _ssh(one, key)
    if "Permission denied (publickey)" in done.stderr:
        return REFUSED
    return _ssh_failure(one, done) if done.status else "let in"


def _ssh_failure(one: Container, done: run.Done) -> str:
    said = " ".join(done.stderr.split()) or f"status {done.status}"
    return f"{said}; sshd: {tail(written.sshd_log(one.lab, one.name))}"


def _ssh(one: Container, key: Path) -> run.Done:
    """ssh as root with that key, whatever its exit status; sshd is started before the first."""
    one.require()
    if not one.programs:
        _start_sshd(one)
    kind, host = container.keys(one.lab).host.split()[:2]
    known = one.folder / "known_hosts"
    write_atomically(known, f"{one.replica.address} {kind} {host}\n")
    words: list[str | Path] = [
        "ssh", "-F", "none", "-i", key, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
        "-o", "ConnectTimeout=5", "-o", "ConnectionAttempts=3", "-o", "IdentitiesOnly=yes",
        "-o", f"UserKnownHostsFile={known}", f"root@{one.replica.address}", QUESTION,
    ]  # fmt: skip
    return run.run(words, netns=one.replica.netns, timeout=20, ok=range(256))


def _start_sshd(one: Container) -> None:
    """Starts sshd and waits until it listens; :class:`FarmError` when it ends.

    It stays a child of labkit's, so that it is gone at once when the container is.
    """
    caps = [word for name in container.SSH_CAPABILITIES for word in ("--cap", name)]
    server = (one.name, *container.ssh_server(one.root))
    words = runc.command(one.lab, "exec", "--user", "0:0", *caps, *server)
    log = written.sshd_log(one.lab, one.name)
    with log.open("ab") as sink:
        process = run.start(words, output=sink)
    one.programs.append(process.wait)
    until(lambda: process.poll() is not None or inside(one.replica.netns, _listens))
    if process.poll() is not None:
        raise FarmError("sshd", f"does not start: {tail(log)}", code="farm.ssh")


def _listens() -> bool:
    with socket.socket() as channel:
        return channel.connect_ex(("127.0.0.1", 22)) == 0


# -- ending ----------------------------------------------------------------------------------------


def stopped(one: Container) -> str:
    """Apache's graceful stop while it sends a long answer (stopping.html of its manual)."""
    with _foreground(one) as end:
        whole, refused = inside(one.replica.netns, _interrupted, lambda: one.signal(STOP))
    said = (
        f"the answer under way came {'whole' if whole else 'cut off'}",
        f"later requests are {'refused' if refused else 'answered'}",
        f"exit status {end.result().status}",
    )
    return ", ".join(said)


def terminated(one: Container) -> str:
    """The signal that a container's runtime sends by default."""
    with _foreground(one) as end:
        one.signal("TERM")
    return f"exit status {end.result().status}"


@contextmanager
def _foreground(one: Container) -> Iterator[Future[run.Done]]:
    """Runs the container; within the block its server answers, and after it the container has ended."""
    with ThreadPoolExecutor(1) as pool:
        work = partial(lifecycle.foreground, one.lab, one.name, LIFE)
        one.foreground = end = pool.submit(contextvars.copy_context().run, work)
        try:
            first(one)
            yield end
        except BaseException:
            if not end.done():
                run.run(runc.command(one.lab, "kill", one.name, "KILL"), ok=range(256))
            raise


def _interrupted(interrupt: Callable[[], None]) -> tuple[bool, bool]:
    """Whether a long answer comes whole whose sender is told to stop meanwhile; whether it then refuses
    other requests."""
    with socket.socket() as channel:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        channel.settimeout(PATIENCE)
        channel.connect(("127.0.0.1", 80))
        channel.sendall(f"GET {LARGE} HTTP/1.0\r\n\r\n".encode())
        with closing(http.client.HTTPResponse(channel)) as answer:
            answer.begin()
            received = len(answer.read(1000))
            interrupt()
            refused = until(_refuses)
            while part := answer.read1(2**20):
                received += len(part)
    return received == LARGE_SIZE, refused


def _refuses() -> bool:
    try:
        socket.create_connection(("127.0.0.1", 80), timeout=1).close()
    except (
        ConnectionRefusedError,
        ConnectionResetError,
    ):  # reset: the server's socket closed just then
        return True
    return False
