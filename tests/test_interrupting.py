"""Ctrl-C while threads work: they end, the programs that they wait for are gone, and what cleans up is left alone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from labkit import Lab, cancellation
from labkit.core import run
from labkit.core.journal import Journal, lock
from labkit.farm.services import balancer_server
from labkit.kernel import proc
from tests import waiting

#: Longer than any test may take, and than what is interrupted may go on.
LONG = 60.0


def interrupt_when(holds: Callable[[], bool]) -> threading.Thread:
    """Sends this process what Ctrl-C sends, as soon as something holds."""

    def wait() -> None:
        waiting.until(holds)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def sleeper(folder: Path, name: str) -> list[str]:
    """A program that says in a file that it runs, and sleeps."""
    return ["sh", "-c", f'echo $$ > "{folder}/{name}"; exec sleep {LONG:g}']


def all_run(folder: Path, count: int) -> bool:
    """Whether so many of them do."""
    return sum(path.stat().st_size > 0 for path in folder.iterdir()) == count


def none_run(folder: Path) -> bool:
    """Whether none does any more."""
    return not any(Path("/proc", path.read_text().strip()).exists() for path in folder.iterdir())


def ways(folder: Path) -> dict[str, Callable[[], object]]:
    """Four programs side by side: in the caller's threads, in those of a thread, and one in a thread's thread."""
    items = "abcd"

    def four() -> object:
        return run.spread(lambda name: run.run(sleeper(folder, name)), items)

    def one_by_one() -> object:
        return run.spread(lambda name: cancellation.alone(partial(run.run, sleeper(folder, name))), items)  # fmt: skip

    return {
        "threads": four,
        "threads of a thread": lambda: cancellation.alone(four),
        "each in one more": lambda: cancellation.alone(one_by_one),
    }


@pytest.mark.parametrize("way", ["threads", "threads of a thread", "each in one more"])
def test_an_interrupt_ends_what_threads_wait_for(tmp_path: Path, way: str) -> None:
    """No program is left, and none of them was waited for."""
    began = time.monotonic()
    thread = interrupt_when(lambda: all_run(tmp_path, 4))
    with pytest.raises(KeyboardInterrupt):
        ways(tmp_path)[way]()
    thread.join()
    assert time.monotonic() - began < LONG
    assert all_run(tmp_path, 4)
    assert none_run(tmp_path)


def test_an_interrupt_ends_this_work_alone(tmp_path: Path) -> None:
    """Of ten, two at a time, two have run; what comes after it runs as ever."""
    thread = interrupt_when(lambda: all_run(tmp_path, 2))
    with pytest.raises(KeyboardInterrupt):
        run.spread(lambda n: run.run(sleeper(tmp_path, str(n))), range(10), workers=2)
    thread.join()
    assert all_run(tmp_path, 2)
    assert [done.stdout for done in run.spread(lambda n: run.run(["echo", n]), "ab")] == ["a\n", "b\n"]  # fmt: skip


def test_what_cleans_up_is_left_alone(tmp_path: Path) -> None:
    """It may run programs, and threads of its own: it is interrupted once."""
    cleaned: list[str] = []

    def work(name: str) -> None:
        try:
            run.run(sleeper(tmp_path, name))
        finally:
            said = run.spread(lambda n: run.run(["echo", n]).stdout, [name, name])
            cleaned.extend(said)
            cancellation.pause(0)

    thread = interrupt_when(lambda: all_run(tmp_path, 2))
    with pytest.raises(KeyboardInterrupt):
        cancellation.alone(lambda: run.spread(work, "ab"))
    thread.join()
    assert sorted(cleaned) == ["a\n", "a\n", "b\n", "b\n"]


def test_who_waits_for_a_lock_in_a_thread_is_interrupted(tmp_path: Path) -> None:
    """However long it would have waited."""
    began = time.monotonic()

    def wait() -> None:
        (tmp_path / "waits").touch()
        with lock(tmp_path, "farm", wait=LONG):
            raise AssertionError("the lock was got")

    thread = interrupt_when((tmp_path / "waits").exists)
    with lock(tmp_path, "farm"), pytest.raises(KeyboardInterrupt):
        cancellation.alone(wait)
    thread.join()
    assert time.monotonic() - began < LONG


def test_who_waits_for_the_balancers_processes_in_a_thread_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait of a rolling change for an old one that still answers: however long it would have taken."""
    monkeypatch.setattr(balancer_server, "PATIENCE", LONG)
    began, program = time.monotonic(), tmp_path / "apache2"
    program.symlink_to("/bin/sleep")

    def wait() -> None:
        (tmp_path / "waits").touch()
        balancer_server.wait_ended([process.pid])
        raise AssertionError("it has ended")

    with run.start([program, f"{LONG:g}"]) as process:
        waiting.until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "apache2\n")
        thread = interrupt_when((tmp_path / "waits").exists)
        with pytest.raises(KeyboardInterrupt):
            cancellation.alone(wait)
        thread.join()
        process.kill()
    assert time.monotonic() - began < LONG


BUILD = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from labkit import Lab; from labkit.core import run
from labkit.farm.rootfs.cache_entries import building; from labkit.farm.rootfs.sandbox import in_memory, sealed
lab = Lab.model_validate_json(sys.argv[1])
mark = sys.argv[2]
with building(lab, lab.cache_dir / "rootfs" / "x", what="x") as work:
    in_memory(work, 1, lambda shop: run.run(sealed(["sh", "-c", f'echo > {{mark}}; sleep {LONG:g}; :', f"--mark={{mark}}"])))
"""


@pytest.mark.root
@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_build_is_ended(
    make_lab: Callable[..., Lab], tmp_path: Path, sig: signal.Signals
) -> None:
    """By Ctrl-C with its remains; by a signal that is not waited for, whose remains the journal has: the
    program that built is gone as well."""
    lab = make_lab(cache=str(tmp_path / "cache"))
    mark = tmp_path / "mark"
    with run.start([sys.executable, "-c", BUILD, lab.model_dump_json(), str(mark)]) as child:
        waiting.until(lambda: mark.exists() or child.poll() is not None)
        child.send_signal(sig)
        child.wait(LONG / 2)
    left = [path.name for path in (lab.cache_dir / "rootfs").iterdir()]
    assert left == ([] if sig == signal.SIGINT else [".x.part"])
    assert [e.kind for e in Journal.of(lab).standing()] == ([] if not left else ["folder"])
    waiting.until(lambda: not proc.marked(str(mark)))
