"""JupyterLab and its kernels: the server as the person who called sudo, kernels as root, through the door."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING

from labkit.core import run
from labkit.core.journal import Journal
from labkit.core.run import labkit_variables
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.jupyter.door import Asked, Door

if TYPE_CHECKING:
    from subprocess import Popen

#: How long JupyterLab may take to end, in seconds.
PATIENCE = 15.0


class Person(Record):
    """Who called sudo: the user's and the group's number, the name and the home ('' each without an account)."""

    uid: int
    gid: int
    name: str = ""
    home: str = ""


class _Told(BaseException):
    """SIGTERM, SIGHUP or Ctrl-C: the session is to end."""


def caller(environment: Mapping[str, str], euid: int) -> Person | None:
    """The person who called sudo; None for who is not root, or has not become it by sudo."""
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if euid or not (uid.isdigit() and gid.isdigit()) or not int(uid):
        return None
    try:
        known = pwd.getpwuid(int(uid))
    except KeyError:
        return Person(uid=int(uid), gid=int(gid))
    return Person(uid=int(uid), gid=int(gid), name=known.pw_name, home=known.pw_dir)


def serve(lab: Lab, person: Person, server: Sequence[str], settings: Mapping[str, str]) -> int:
    """JupyterLab (``server``) has run as the person, and ended; its exit status. Its kernels, which had the
    variables ``settings``, have ended with it."""
    before = {number: signal.signal(number, _stop) for number in _STOPS}
    door = Door(person.uid, partial(_kernel, settings))
    try:
        with _home(lab, person) as home:
            env = {**variables(person, home), "LABKIT_DOOR": door.name}
            return _served(door, run.start(as_person(person, server), env=env, output=_terminal()))
    except _Told:
        return 0
    finally:
        door.close()
        for number, handler in before.items():
            signal.signal(number, handler)


_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Told


def _served(door: Door, process: Popen[str]) -> int:
    try:
        return door.serve(process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except Exception:  # it does not end by itself
                process.kill()
                process.wait()


def as_person(person: Person, argv: Sequence[str]) -> list[str]:
    """The argument list that runs a program as the person, which ends with its starter (setpriv(1)). Pure."""
    groups = "--init-groups" if person.name else "--clear-groups"
    who = [f"--reuid={person.uid}", f"--regid={person.gid}", groups]
    return ["setpriv", *who, "--inh-caps=-all", "--pdeathsig=TERM", "--", *argv]


@contextmanager
def _home(lab: Lab, person: Person) -> Iterator[str]:
    """The person's home; one for the session for who has none, which is in the journal."""
    home = Path(person.home or "/nonexistent")
    if home.is_dir() and home.stat().st_uid == person.uid:
        yield str(home)
        return
    own = lab.run_dir / "notebook" / str(os.getpid())
    Journal.of(lab).intend("folder", path=str(own))
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chown(own, person.uid, person.gid)
    try:
        yield str(own)
    finally:
        shutil.rmtree(own, ignore_errors=True)
        Journal.of(lab).forget("folder", path=str(own))


def variables(person: Person, home: str) -> dict[str, str]:
    """What JupyterLab has of an environment beside what every program has: none of root's. Pure."""
    return {
        "HOME": home,
        "USER": person.name,
        "LOGNAME": person.name,
        "JUPYTER_PATH": str(Path(__file__).with_name("share")),
    }


def _kernel(settings: Mapping[str, str], asked: Asked, output: IO[bytes]) -> Popen[str]:
    """A kernel of root's; what IPython keeps of it is in root's home, nothing in the person's."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", asked.connection_file]
    env = {
        **labkit_variables(),
        **settings,
        "HOME": pwd.getpwuid(0).pw_dir,
        "JPY_SESSION_NAME": asked.session,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }
    start = ["env", f"--chdir={asked.folder}", "setpriv", "--pdeathsig=KILL", "--", *argv]
    return run.start(start, env=env, output=output)


def _terminal() -> IO[bytes]:
    sys.stderr.flush()
    return sys.stderr.buffer
