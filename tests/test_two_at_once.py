"""Two labkits on one lab: the second waits, or is told who works there; what was killed is cleared away."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.errors import LabkitError
from labkit.farm.reconcile import up
from labkit.farm.services import balancer, dns, ssh
from labkit.report import status
from tests import proc, stage_notebooks
from tests.projects import ROOT, Project, listing, project
from tests.test_bad_input import refused
from tests.test_rebuild import WAITS
from tests.test_run import wait_until_gone
from tests.test_standing import nothing
from tests.waiting import until


@contextmanager
def running(own: Project) -> Iterator[tuple[Popen[str], int]]:
    """A `labkit run` whose notebook waits, and the number of the program that it waits for."""
    (own.folder / "notebooks").unlink()
    stage_notebooks.write(own.folder / "notebooks", "01-wiki", WAITS, "PROBE")
    argv = [sys.executable, "-m", "labkit", "run", "01-wiki", "--config", str(own.file)]
    with (own.folder / "said").open("wb") as said:
        first = run.start(
            ["env", "-C", str(own.folder), *argv], env={"PYTHONPATH": str(ROOT)}, output=said
        )
        mark = own.lab.run_dir / "waits"
        try:
            until(lambda: mark.exists() or first.poll() is not None, 300)
            yield first, int(mark.read_text())
        finally:
            first.kill()
            first.wait()


def test_a_second_rebuild_and_down_are_refused_while_one_runs(tmp_path: Path) -> None:
    """Both are told the process that works there, and change nothing; it goes on, and when it was killed,
    down ends what it has left."""
    own = project(tmp_path)
    with running(own) as (first, sleeper):
        before = listing(own.lab.state_dir, own.lab.run_dir)
        for words in (["run", "01-wiki"], ["down"]):
            done = own.labkit(*words)
            assert refused(
                done,
                "session.lock",
                f"another labkit (process {first.pid})",
                "wait until it has ended",
            )
        assert listing(own.lab.state_dir, own.lab.run_dir) == before
        assert Path(f"/proc/{sleeper}").exists()
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert Path(f"/proc/{sleeper}").exists()
        done = own.labkit("down", "--json")
        assert done.status == 0
        assert wait_until_gone(sleeper)
        assert _papermills(own) == []
        assert not (own.lab.run_dir / "rebuild").exists()


def _papermills(own: Project) -> list[str]:
    """The command lines of processes that work on the project's notebooks."""
    lines = [" ".join(words) for words in proc.command_lines(str(own.folder)).values()]
    return [line for line in lines if "papermill" in line]


@pytest.mark.root
def test_actions_of_a_farm_side_by_side(make_lab: Callable[..., Lab]) -> None:
    """Names, balancer, ssh and the farm itself: each waits for the other, and all is up."""
    lab = make_lab(sites=["red"], replicas=1)
    up.replicas(lab)
    acts: tuple[Callable[[Lab], object], ...] = (dns.up, balancer.up, ssh.login, up.replicas)
    with ThreadPoolExecutor(len(acts)) as pool:
        list(pool.map(lambda act: act(lab), acts))
    for act in acts:
        again = act(lab)
        assert not again.changed  # type: ignore[attr-defined]
    assert failed(ssh.login(lab).checks) == ()


@pytest.mark.root
def test_down_while_a_farm_comes_up(make_lab: Callable[..., Lab]) -> None:
    """Whoever comes first: up ends well or says that something was taken away, and a last down leaves nothing."""
    lab = make_lab(sites=["red"], replicas=1)
    up.replicas(lab)
    status.down(lab)
    with ThreadPoolExecutor(2) as pool:
        rising = pool.submit(up.replicas, lab)
        for _ in range(3):
            assert status.down(lab).value.failed == ()
        error = rising.exception()
    assert error is None or isinstance(error, LabkitError), error
    assert status.down(lab).value.failed == ()
    assert nothing(lab)
