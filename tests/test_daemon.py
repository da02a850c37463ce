"""The lab's own servers: started once, healthy or an error, ended without harming anybody else."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest

from labkit import Lab
from labkit.core import daemon, run, undo
from labkit.core.daemon import Daemon, Listener, parse_ss
from labkit.core.journal import Journal
from labkit.errors import FarmError, MachineError
from tests.waiting import until

#: A server that knows its configuration by an option, writes its pid, and ends by SIGTERM or not at all.
SERVER = """
import os, signal, sys, time
_, option, config, pidfile, *words = sys.argv
if "fail" in words:
    print("cannot read my configuration", flush=True)
    sys.exit(1)
if "stubborn" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, lambda *_: open(config + ".again", "w").close())
if "silent" not in words:
    with open(pidfile + ".part", "w") as file:
        file.write(str(os.getpid()))
    os.rename(pidfile + ".part", pidfile)
while True:
    time.sleep(60)
"""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Lab]:
    """A lab whose folders are the test's; its daemons are ended afterwards."""
    folders = {name: str(tmp_path / name) for name in ("state", "run", "outputs", "cache")}
    lab = Lab.load(None, lab_name="mine", **folders)
    lab.run_dir.mkdir(parents=True)
    (lab.run_dir / "server.py").write_text(SERVER)
    (lab.run_dir / "config").touch()
    yield lab
    _, failed = undo.unmake_all(lab)
    assert not failed


def server(lab: Lab, *words: str) -> Daemon:
    """The server as a daemon of the lab."""
    folder = lab.run_dir
    argv = (
        sys.executable,
        f"{folder}/server.py",
        "-f",
        f"{folder}/config",
        f"{folder}/pid",
        *words,
    )
    return Daemon(
        name="server",
        argv=argv,
        config=folder / "config",
        pidfile=folder / "pid",
        log=folder / "log",
        foreground=True,
    )


def started(lab: Lab, *words: str) -> Daemon:
    """The server, running."""
    made = server(lab, *words)
    assert daemon.start(lab, made, lambda: None if made.pidfile.exists() else "no pid file")
    return made


def test_a_daemon_is_started_once(own: Lab) -> None:
    """The second start finds it; it stands in the journal until it is stopped."""
    made = started(own)
    first = daemon.pid(made)
    assert not daemon.start(own, made, lambda: None)
    assert daemon.pid(made) == first
    assert [entry.kind for entry in Journal.of(own).standing()] == ["daemon"]
    assert daemon.stop(own, made)
    assert (daemon.pid(made), made.pidfile.exists()) == (None, False)
    assert not daemon.stop(own, made)
    assert Journal.of(own).standing() == ()


def test_a_daemon_that_fails_is_an_error_and_can_be_undone(own: Lab) -> None:
    """One that ends: its output and the log's place are in the error. One that does not answer as it should: it runs, and
    the journal has it."""
    made = server(own, "fail")
    with pytest.raises(FarmError, match="cannot read my configuration") as caught:
        daemon.start(own, made, lambda: "not healthy", patience=1)
    assert caught.value.again == f"tail {made.log}"
    made = server(own)
    with pytest.raises(FarmError, match=r"no answer after 0\.2 s; its log ends: "):
        daemon.start(own, made, lambda: "no answer", patience=0.2)
    undo.unmake_all(own)
    assert daemon.pid(made) is None


def test_a_daemon_that_was_killed_is_started_again(own: Lab) -> None:
    """A stale pid file is no running daemon."""
    made = started(own)
    first = daemon.pid(made)
    assert first
    os.kill(first, signal.SIGKILL)
    daemon.wait(made, lambda: None if daemon.pid(made) is None else "runs", 5)
    assert made.pidfile.exists()
    assert daemon.start(own, made, lambda: None if made.pidfile.exists() else "no pid file")
    assert daemon.pid(made) not in (None, first)


@pytest.fixture
def bystander() -> Iterator[Popen[str]]:
    """Somebody else's process."""
    process = run.start(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_a_stale_pid_file_of_somebody_elses_process_harms_nobody(
    own: Lab, bystander: Popen[str]
) -> None:
    """The pid may be anybody's by now: the process lives, the file is gone."""
    made = server(own)
    made.pidfile.write_text(str(bystander.pid))
    assert daemon.pid(made) is None
    assert not daemon.stop(own, made)
    assert bystander.poll() is None
    assert not made.pidfile.exists()


@pytest.mark.parametrize("options", [["-n", "1", "-f"], ["--follow"]])
def test_who_looks_at_the_configuration_is_no_daemon(own: Lab, options: list[str]) -> None:
    """A person's program on a terminal that names the same file is left alone."""
    made = server(own)
    screen, terminal = os.openpty()
    person = Popen(["setsid", "--ctty", "tail", *options, str(made.config)], stdin=terminal)
    try:
        daemon.wait(made, lambda: None if named(person.pid, str(made.config)) else "not yet", 5)
        daemon.stop(own, made)
        assert person.poll() is None
    finally:
        person.kill()
        person.wait()
        os.close(screen)
        os.close(terminal)


def named(pid: int, path: str) -> bool:
    """Whether a process has a path among its arguments."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return words[0] == b"tail" and path.encode() in words


@pytest.mark.parametrize("word", ["silent", "stubborn"])
def test_a_daemon_is_ended_whatever_it_does(
    own: Lab, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Killed before it wrote its pid, it is known by its configuration; after some patience SIGKILL follows SIGTERM."""
    monkeypatch.setattr(undo, "PATIENCE", 0.3)
    made = server(own, word)
    daemon.start(own, made, lambda: None if daemon.pid(made) else "not yet")
    assert daemon.stop(own, made)
    assert undo.daemon_pids(str(made.config)) == ()


def test_a_signal_reaches_the_daemon(own: Lab) -> None:
    """SIGHUP makes it read its files again; without a daemon it is an error."""
    made = started(own)
    daemon.send(made, signal.SIGHUP)
    again = Path(f"{made.config}.again")
    daemon.wait(made, lambda: None if again.exists() else "not yet", 5)
    daemon.stop(own, made)
    with pytest.raises(FarmError, match="is not running"):
        daemon.send(made, signal.SIGHUP)


LISTENERS = [
    ("", []),
    (
        'tcp LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("apache2",pid=12,fd=4),("apache2",pid=13,fd=4))\n',
        [Listener("0.0.0.0", "apache2", (12, 13))],  # noqa: S104 - read, not bound
    ),
    ("tcp LISTEN 0 511 *:80 *:*\n", [Listener("*")]),
    (
        'udp UNCONN 0 0 10.60.0.1%br-lab:53 0.0.0.0:* users:(("dnsmasq",pid=7,fd=4))\n',
        [Listener("10.60.0.1", "dnsmasq", (7,))],
    ),
    (
        'tcp LISTEN 0 5 [::1]:8060 [::]:* users:(("python3",pid=9,fd=3))\n',
        [Listener("::1", "python3", (9,))],
    ),
]


@pytest.mark.parametrize(("text", "found"), LISTENERS)
def test_the_listeners_are_read_from_ss(text: str, found: list[Listener]) -> None:
    """Address without interface and brackets; all processes, the first one by its name."""
    assert parse_ss(text) == found


def test_a_listener_is_told_by_its_first_process() -> None:
    """By name and number, as far as both can be seen."""
    assert str(Listener("::1", "apache2", (12, 13))) == "apache2 (process 12)"
    assert str(Listener("::1")) == "a process of another user"


#: A server with a child that has its socket, too.
FORK = """
import os, socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(60)
"""


def test_a_taken_port_names_its_process(port: int, tmp_path: Path) -> None:
    """The error names key, process and remedy. The lab's server takes no port from it, whichever of its processes is
    known; a listener on another address takes none, either."""
    log = tmp_path / "log"
    with log.open("wb") as sink:
        process = run.start([sys.executable, "-c", FORK, str(port)], output=sink)
    try:
        until(log.read_text)
        for known in (process.pid, int(log.read_text())):
            daemon.require_free(port, netns=None, address="127.0.0.1", key="k", own=(known,))
        daemon.require_free(port, netns=None, address="127.0.0.2", key="k")
        with pytest.raises(MachineError, match=r"the port is .* python.*process \d+") as caught:
            daemon.require_free(port, netns=None, address="127.0.0.1", key="wiki.port", own=(1,))
        assert "set wiki.port to another port" in caught.value.remedy
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    daemon.require_free(port, netns=None, address="127.0.0.1", key="wiki.port")
