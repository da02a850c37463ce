"""What tests read of processes, while others come and go."""

from __future__ import annotations

import os
import threading

from labkit import run
from labkit.kernel import processes
from tests import proc


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
            assert os.getpid() in dict(proc.texts("cmdline"))
    finally:
        done.set()
        thread.join()


def test_a_process_that_has_ended_has_no_namespace() -> None:
    """Neither as a zombie, whose namespaces Linux refuses to show, nor once its parent knows of its end."""
    own = processes.namespace(os.getpid(), "net")
    with run.start(["sleep", "60"]) as started:
        assert (
            own
            == processes.namespace(started.pid, "net")
            != processes.namespace(started.pid, "pid")
        )
        started.kill()
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert processes.namespace(started.pid, "net") is None
    assert processes.namespace(started.pid, "net") is None
