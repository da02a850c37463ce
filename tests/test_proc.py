"""What tests read of processes, while others come and go."""

from __future__ import annotations

import os
import secrets
import sys
import threading
from pathlib import Path

import pytest

from labkit.core import run
from labkit.kernel import cgroups, proc
from tests import proc as every


def test_processes_that_end_while_they_are_looked_at_are_left_out() -> None:
    """Thousands of them end meanwhile; every look is a whole one."""
    done = threading.Event()

    def spawn() -> None:
        while not done.is_set():
            pid = os.posix_spawn("/bin/true", ["true"], {})
            os.waitpid(pid, 0)

    thread = threading.Thread(target=spawn)
    thread.start()
    try:
        for _ in range(200):
            assert os.getpid() in dict(every.texts("cmdline"))
    finally:
        done.set()
        thread.join()


def test_a_process_that_has_ended_has_no_namespace() -> None:
    """Neither as a zombie, whose namespaces Linux refuses to show, nor once its parent knows of its end."""
    own = proc.namespace(os.getpid(), "net")
    with run.start(["sleep", "60"]) as started:
        assert own == proc.namespace(started.pid, "net") != proc.namespace(started.pid, "pid")
        started.kill()
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert proc.namespace(started.pid, "net") is None
    assert proc.namespace(started.pid, "net") is None


def test_a_process_that_never_runs_again_has_ended() -> None:
    """A zombie still has its number, and so has a process that waits for others of its pid namespace while it ends
    (PF_EXITING). A process is known by its number and the time of its start."""
    for stat in ("S 1 7 7 0 -1 4194560", "D 1 7 7 0 -1 4194560"):
        assert proc.runs(stat.split())
    for stat in ("Z 1 7 7 0 -1 4228364", "X 1 7 7 0 -1 4228364", "S 1 7 7 0 -1 4195596"):
        assert not proc.runs(stat.split())
    assert proc.lives(os.getpid())
    assert not proc.lives(os.getpid(), started=1)


@pytest.mark.root
def test_a_process_of_another_process_namespace_is_not_ours_to_end() -> None:
    """In a control group that a container of somebody's shares it has the number 0, and to signal that one
    would end the caller itself: both live on, and what was asked for is refused."""
    path = f"labkit-test-{secrets.token_hex(4)}"
    kinds = {mount.kind: mount.place for mount in proc.mounts(proc.mountinfo())}
    folder = Path(kinds.get("cgroup2") or kinds["cgroup"], path)  # version 1 leaves it out
    folder.mkdir()
    sleeper = run.start(["sleep", "60"])
    try:
        (folder / "cgroup.procs").write_text(str(sleeper.pid))
        code = f"from labkit.kernel import cgroups as groups; print(groups.kill({path!r})); groups.end({path!r})"
        first = [
            "sh",
            "-c",
            '"$@"; exit $?',
            "sh",
        ]  # no signal of its own namespace ends the first process
        argv = [
            "unshare", "--pid", "--fork", "--mount-proc", *first, sys.executable, "-c", code,
        ]  # fmt: skip
        done = run.run(argv, ok=range(256), env={"PYTHONPATH": str(Path(__file__).parents[1])})
        assert done.stdout == "frozenset()\n"
        assert "the cgroup cannot be removed" in done.stderr
        assert sleeper.poll() is None
    finally:
        sleeper.kill()
        sleeper.wait()
        cgroups.remove(path)
