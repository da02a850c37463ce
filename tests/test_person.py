"""JupyterLab as the person who called sudo: it is theirs, and its kernels have the rights that the actions need."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from labkit import Lab
from labkit.core import run, undo
from labkit.kernel import netns
from labkit.report.jupyter import broker
from labkit.report.jupyter.broker import Asked, Broker, Person
from tests import proc, stage_notebooks
from tests.conftest import free_port, lab_maker, open_place
from tests.test_run import gone
from tests.waiting import until

#: A user and a group without an account.
UID, GID = 54321, 54322


@dataclass(frozen=True)
class Session:
    """JupyterLab that runs: the process that sudo started, its address, its token, and the person's folder."""

    lab: Lab
    keeper: Popen[str]
    address: str
    token: str
    project: Path

    def ask(self, method: str, path: str, /, **body: Any) -> Any:
        """A request to JupyterLab's own interface; the answer's JSON, None for none."""
        asked = urllib.request.Request(  # noqa: S310 - loopback
            f"{self.address}/api/{path}",
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={"Authorization": f"token {self.token}"},
        )
        with urllib.request.urlopen(asked, timeout=60) as reply:  # noqa: S310 - loopback
            text = reply.read()
        return json.loads(text) if text else None


def uid(pid: int) -> int:
    """Whose a process is; -1 of one that has ended."""
    try:
        return Path(f"/proc/{pid}").stat().st_uid
    except (FileNotFoundError, ProcessLookupError):
        return -1


def connects(port: int) -> bool:
    """Whether somebody listens on that port of loopback."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def session(folder: Path, lab: Lab) -> Iterator[Session]:
    """``sudo labkit notebook``, as sudo calls it, in a project of the person's."""
    file = stage_notebooks.clone(folder / "project", lab)
    for path in (file.parent / "notebooks", *(file.parent / "notebooks").iterdir()):
        os.chown(path, UID, GID)
    log, port = folder / "jupyterlab.log", free_port()
    argv = [sys.executable, "-m", "labkit", "notebook", "--port", str(port), "-c", str(file)]
    caller = {"SUDO_UID": str(UID), "SUDO_GID": str(GID), "PYTHONPATH": str(file.parent)}
    with log.open("wb") as output:
        keeper = run.start(["env", f"--chdir={file.parent}", *argv], env=caller, output=output)
    try:
        address = re.compile(rf"(http://127\.0\.0\.1:{port})/lab\?token=(\w+)")
        until(lambda: address.search(log.read_text()) or keeper.poll() is not None, patience=90)
        found = address.search(log.read_text())
        assert found, log.read_text()
        until(lambda: connects(port), patience=60)
        yield Session(lab, keeper, found[1], found[2], file.parent)
    finally:
        keeper.terminate()
        keeper.wait(60)


@pytest.fixture(scope="module")
def opened() -> Iterator[Session]:
    """One session for the tests that leave it up; nothing of it runs afterwards."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        with session(folder, make(sites=["red"])) as found:
            yield found
        assert proc.command_lines(str(folder)) == {}


@contextmanager
def kernel(opened: Session) -> Iterator[tuple[str, Path]]:
    """A kernel that JupyterLab has started, by its number and its connection file; it is ended afterwards."""
    number = opened.ask("POST", "kernels", name="python3", path="")["id"]
    try:
        place = f"/proc/{server(opened)}/environ"
        home = re.search(r"HOME=([^\0]+)", Path(place).read_text())
        assert home
        yield number, Path(home[1], f".local/share/jupyter/runtime/kernel-{number}.json")
    finally:
        opened.ask("DELETE", f"kernels/{number}")
        until(lambda: not proc.command_lines(number))


def server(opened: Session) -> int:
    """JupyterLab's process."""
    port = opened.address.rpartition(":")[2]
    (found,) = proc.command_lines(f"--ServerApp.port={port}")
    return found


def execute(file: Path, code: str, meanwhile: Callable[[], object] = lambda: None) -> Any:
    """What a kernel answers to a piece of code: the result's text, or the error's name."""
    from jupyter_client.blocking import BlockingKernelClient

    client = BlockingKernelClient(connection_file=str(file))
    client.load_connection_file()
    client.start_channels(hb=False)  # which takes a busy machine for a dead kernel
    said: list[str] = []

    def hear(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "execute_result":
            said.append(content["data"]["text/plain"])
        if message["msg_type"] == "stream" and "begun" in content["text"]:
            meanwhile()

    try:
        client.wait_for_ready(timeout=60)
        reply = client.execute_interactive(code, timeout=60, output_hook=hear, allow_stdin=False)
    finally:
        client.stop_channels()
    return said[0] if said else reply["content"].get("ename", "")


@pytest.mark.root
def test_the_server_is_the_persons_and_the_kernel_roots(opened: Session) -> None:
    """Nothing of JupyterLab's own has any right of root's; what it writes is the person's. An action works in the
    kernel, on the lab that the command was called for, in the notebooks' folder."""
    code = "from labkit import Lab; from labkit.farm.network import host; host.up(Lab.from_parameters(globals())).holds"
    with kernel(opened) as (number, file):
        assert uid(server(opened)) == UID
        status = Path(f"/proc/{server(opened)}/status").read_text()
        assert re.search(rf"^Gid:\t{GID}\t{GID}\t{GID}\t{GID}$", status, re.M)
        assert re.search(r"^CapEff:\t0+$", status, re.M)
        assert re.search(r"^Groups:\t\s*$", status, re.M)
        assert execute(file, "import os; os.geteuid()") == "0"
        assert sorted(map(uid, proc.command_lines(number))) == [0, UID]
        assert (file.stat().st_uid, oct(file.stat().st_mode & 0o777)) == (UID, "0o600")
        assert execute(file, code) == "True"
        assert netns.stands(opened.lab.host.netns)
        assert execute(file, "os.getcwd()") == repr(str(opened.project / "notebooks"))
    saved = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    opened.ask("PUT", "contents/own.ipynb", type="notebook", content=saved)
    assert (opened.project / "notebooks" / "own.ipynb").stat().st_uid == UID


@pytest.mark.root
def test_a_kernel_is_interrupted_and_started_again(opened: Session) -> None:
    """What runs in it is told KeyboardInterrupt and what it knew stays; a new one knows nothing, and is root's.
    JupyterLab sees the end of one that dies, as of any kernel."""
    with kernel(opened) as (number, file):

        def interrupt() -> None:
            opened.ask("POST", f"kernels/{number}/interrupt")

        code = "x = 7; import time; print('begun', flush=True); time.sleep(50)"
        assert execute(file, code, interrupt) == "KeyboardInterrupt"
        assert execute(file, "x") == "7"
        before = execute(file, "import os; os.getpid()")
        opened.ask("POST", f"kernels/{number}/restart")
        assert execute(file, "x") == "NameError"
        second = execute(file, "import os; os.getpid()")
        assert second != before
        assert execute(file, "os.geteuid()") == "0"
        os.kill(int(second), signal.SIGKILL)
        own = lambda: proc.command_lines(number)  # noqa: E731
        until(lambda: any(uid(p) == 0 for p in own()) and int(second) not in own(), patience=30)
        assert execute(file, "import os; os.getpid()") != second


@pytest.mark.root
@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_running(
    make_lab: Callable[..., Lab], open_folder: Path, sig: signal.Signals
) -> None:
    """However the command ends, its server and the kernels end with it."""
    with session(open_folder, make_lab(sites=["red"])) as found:
        number = found.ask("POST", "kernels", name="python3", path="")["id"]
        until(lambda: any(uid(pid) == 0 for pid in proc.command_lines(number)), patience=30)
        own = {server(found), *proc.command_lines(number)}
        os.kill(found.keeper.pid, sig)
        found.keeper.wait(60)
        until(lambda: all(map(gone, own)), patience=30)
        assert undo.unmake_all(found.lab)[1] == ()
        assert [path for path in found.lab.run_dir.rglob("*") if path.is_file()] == []


# -- the broker ---------------------------------------------------------------------------------------


def knock(name: str, *, who: int, text: str = "{}") -> bytes:
    """What a process of another user gets for an answer at the broker."""
    code = (
        "import os, socket, sys\n"
        f"os.setuid({who})\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(chr(0) + sys.argv[1]); s.settimeout(20)\n"
        "try:\n"
        "    socket.send_fds(s, [sys.argv[2].encode()], [1])\n"
        "    print(s.recv(20))\n"
        "except ConnectionError:\n"
        "    print(b'')"
    )
    return run.run([sys.executable, "-c", code, name, text]).stdout.strip().encode()


@pytest.mark.root
@pytest.mark.parametrize("who", [0, UID + 1, UID])
def test_nobody_else_gets_a_kernel(tmp_path: Path, who: int) -> None:
    """Neither another user nor who names a file of somebody else's; and a question that is none is no harm."""
    started: list[Asked] = []

    def start(asked: Asked, output: object) -> Popen[str]:
        started.append(asked)
        return run.start(["sleep", "60"])

    file = tmp_path / "kernel.json"
    file.write_text("{}")
    text = json.dumps({"connection_file": str(file), "folder": "/"})
    own = Broker(UID, start)
    try:
        asking = run.start(["sleep", "2"])
        answers: list[bytes] = []
        thread = threading.Thread(
            target=lambda: answers.extend(
                knock(own.name, who=who, text=t) for t in (text, "no JSON")
            )
        )
        thread.start()
        own.serve(asking)
        thread.join()
        assert answers == [b"b''", b"b''"]
        assert started == []
    finally:
        own.close()


@pytest.mark.parametrize(
    "change",
    [
        {"connection_file": "kernel.json"},
        {"connection_file": "/nowhere/kernel.json"},
        {"connection_file": "LINK"},
        {"connection_file": "FOLDER"},
        {"connection_file": "a\0b"},
        {"folder": "here"},
    ],
    ids=str,
)
def test_what_is_no_connection_file_of_the_persons_is_refused(
    tmp_path: Path, change: dict[str, str]
) -> None:
    """A relative path, none, a link, a folder; and a folder to start in that is relative."""
    file = tmp_path / "kernel.json"
    file.write_text("{}")
    (tmp_path / "link").symlink_to(file)
    values = {"connection_file": str(file), "folder": str(tmp_path)}
    assert broker.is_own(Asked(**values), os.geteuid())
    assert not broker.is_own(Asked(**values), os.geteuid() + 1)
    places = {"LINK": str(tmp_path / "link"), "FOLDER": str(tmp_path)}
    given = {key: places.get(value, value) for key, value in change.items()}
    assert not broker.is_own(Asked(**{**values, **given}), os.geteuid())


@pytest.mark.parametrize(
    ("environment", "euid", "expected"),
    [
        ({}, 0, None),
        ({"SUDO_UID": "54321", "SUDO_GID": "54322"}, 1000, None),
        ({"SUDO_UID": "0", "SUDO_GID": "0"}, 0, None),
        ({"SUDO_UID": "x", "SUDO_GID": "0"}, 0, None),
        ({"SUDO_UID": "54321"}, 0, None),
        ({"SUDO_UID": "54321", "SUDO_GID": "54322"}, 0, Person(uid=54321, gid=54322)),
        ({"SUDO_UID": "65534", "SUDO_GID": "65534"}, 0, Person(uid=65534, gid=65534, name="nobody", home="/nonexistent")),
    ],
)  # fmt: skip
def test_who_called_sudo(environment: dict[str, str], euid: int, expected: Person | None) -> None:
    """By sudo's own variables, and only where sudo made the caller root."""
    assert broker.caller(environment, euid) == expected


def test_a_person_has_their_own_groups_and_nothing_of_roots() -> None:
    """Without an account no group but the one that sudo tells; the variables name no home of root's."""
    nameless, known = Person(uid=5, gid=6), Person(uid=5, gid=6, name="ann", home="/home/ann")
    assert "--clear-groups" in broker.as_person(nameless, ["x"])
    assert "--init-groups" in broker.as_person(known, ["x"])
    assert broker.as_person(known, ["x", "y"])[-3:] == ["--", "x", "y"]
    assert broker.variables(known, known.home)["HOME"] == "/home/ann"
