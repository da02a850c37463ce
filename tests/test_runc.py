"""A process as the kernel shows it, on real processes of the test's own; no container is needed."""

from __future__ import annotations

import os
import pty
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.core import run
from labkit.errors import FarmError
from labkit.farm.containers import runc


def loaded(pid: int) -> int:
    """The process once it is its own program, and not the copy of its parent that it began as."""
    while not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0"):
        time.sleep(0.001)
    return pid


@pytest.fixture
def quiet() -> Iterator[int]:
    """A process whose input and outputs are /dev/null."""
    with run.start(["sleep", "60"], env={"WHO": "a=b"}) as started:
        yield loaded(started.pid)
        started.kill()


@pytest.fixture
def typed() -> Iterator[int]:
    """A process that somebody has started from a terminal."""
    pid, master = pty.fork()
    if not pid:
        os.execvp("sleep", ["sleep", "60"])  # noqa: S606 - nobody may stand between it and its terminal
    yield loaded(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(master)


def test_words_and_variables_are_read_from_the_kernel_s_files() -> None:
    """An empty word is one, and the last NUL is none; the value follows the first equals sign."""
    assert runc.words(b"") == ()
    assert runc.words(b"a b\x00\x00c\x00") == ("a b", "", "c")
    assert runc.words(b"runc\x00init\x00") == runc.INIT
    assert runc.variables(b"A=b=c\x00ODD\x00B=\x00") == {"A": "b=c", "ODD": "", "B": ""}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("7 (sleep) S 1 7 7 0 -1 4194560 0", False),
        ("7 (sleep) S 1 7 7 34816 -1 4194560 0", True),
        ("7 (a) S 0 (b) S 1 7 7 34816 -1 4194560 0", True),
    ],
)
def test_controlling_terminal_is_field_seven(text: str, wanted: bool) -> None:
    """Whatever the program calls itself."""
    assert runc.has_controlling_terminal(text) is wanted


def test_a_process_without_a_terminal_holds_none(quiet: int) -> None:
    """Its command, its variables, and what its streams are open on."""
    seen = runc.first_process(quiet)
    assert (seen.command, seen.environment["WHO"]) == (("sleep", "60"), "a=b")
    assert seen.streams == ("/dev/null", "/dev/null", "/dev/null")
    assert (seen.terminals, seen.control, seen.held) == ((), False, "no terminal")
    assert seen.model_copy(update={"control": True}).held == "terminal (controlling)"


def test_a_process_on_a_terminal_holds_it(typed: int) -> None:
    """By all three streams, and as its controlling terminal."""
    seen = runc.first_process(typed)
    assert len(seen.terminals) == 3
    assert seen.control
    assert seen.held == f"terminal {seen.streams[0]}"
    assert seen.streams[0].startswith("/dev/pts/")


def test_a_process_that_has_ended_is_an_error(quiet: int) -> None:
    """It is not taken for one without a terminal, not even before its parent has asked for it."""
    os.kill(quiet, signal.SIGKILL)
    os.waitid(os.P_PID, quiet, os.WEXITED | os.WNOWAIT)
    with pytest.raises(FarmError, match="has ended"):
        runc.first_process(quiet)
