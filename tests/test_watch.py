"""A farm that is watched: what breaks is mended by itself, and told in a line each time."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from labkit import Lab
from labkit.core import run
from labkit.core.journal import Journal, lock
from labkit.core.result import Result
from labkit.farm.containers import runc
from labkit.farm.reconcile import observe, upkeep
from labkit.farm.reconcile.upkeep import Mend
from labkit.report import status
from tests.test_run import wait_until_gone
from tests.test_upkeep import delete_link, kill_container, kill_names, processes
from tests.waiting import until
from tests.whole_farm import standing as whole_farm

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One site on two replicas, all up; every test leaves it whole."""
    with whole_farm(sites=["red"]) as lab:
        upkeep.apply(lab)
        yield lab


@contextmanager
def watched(lab: Lab) -> Iterator[list[Mend]]:
    """A watch of the lab while the block runs; it has looked once when the block begins."""
    over, told, begun = Event(), list[Mend](), Event()
    keeper = upkeep.Keeper(lab, told.append)

    def work() -> None:
        while not over.is_set() and not keeper.is_down():
            keeper.look()
            begun.set()
            over.wait(0.05)

    thread = Thread(target=work)
    thread.start()
    try:
        assert begun.wait(60)
        yield told
    finally:
        over.set()
        thread.join()


@pytest.mark.root
def test_what_breaks_is_mended_and_told(farm: Lab) -> None:
    """One mend for each harm, with its steps; who was not harmed keeps the process."""
    before = processes(farm)
    with watched(farm) as told:
        for number, harm in enumerate((kill_container, delete_link, kill_names), 1):
            harm(farm)
            until(lambda number=number: len(told) == number)  # type: ignore[misc]
    assert [[step.id for step in mend.steps] for mend in told] == [
        ["container red-1"],
        ["link red-1"],
        [f"names {farm.domain}"],
    ]
    assert "restart container red-1 (process: wanted running, seen stopped): mended in" in str(
        told[0]
    )
    after = processes(farm)
    assert {name for name in before if before[name] != after[name]} == {"red-1", "names"}
    assert upkeep.plan(farm).value.empty


@pytest.mark.root
def test_nothing_is_mended_while_a_rebuild_works_on_the_lab(farm: Lab) -> None:
    """Its notebooks stop containers on purpose; afterwards what is left broken is mended."""
    with lock(farm.run_dir, "session"), watched(farm) as told:
        kill_container(farm)
        until(lambda: not upkeep.plan(farm).value.empty)
        assert told == []
    with watched(farm) as told:
        until(lambda: told)
    assert upkeep.plan(farm).value.empty


@pytest.mark.root
def test_a_lab_that_is_taken_down_stays_down(make_lab: Callable[..., Lab]) -> None:
    """The watch ends with it, and makes nothing anew."""
    lab = make_lab(sites=["red"], replicas=1)
    upkeep.apply(lab)
    kill_container(lab)
    over, told, results = Event(), list[Mend](), list[Result[upkeep.Watched]]()

    def work() -> None:
        results.append(upkeep.watch(lab, over=over, tell=told.append, every=0.05))

    thread = Thread(target=work)
    thread.start()
    try:
        until(lambda: told)  # it has begun
        assert status.down(lab).holds
        thread.join(20)
        assert [result.value.ended for result in results] == ["the lab was taken down"]
        assert Journal.of(lab).standing() == ()
        assert runc.states(lab) == {}
    finally:
        over.set()
        thread.join()


@pytest.mark.root
def test_a_lab_that_is_taken_down_while_it_is_first_looked_at_stays_down(
    make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nothing of it is left by the time of the second look."""
    lab = make_lab(sites=["red"], replicas=1)
    upkeep.apply(lab)

    def taken_down(lab: Lab) -> observe.Observation:
        assert status.down(lab).holds
        return observe.observe(lab)

    monkeypatch.setattr(upkeep, "observe", taken_down)
    watched = upkeep.watch(lab, over=Event(), seconds=20).value
    assert (watched.looks, watched.mends, watched.ended) == (1, 0, "the lab was taken down")
    assert Journal.of(lab).standing() == ()


@pytest.mark.root
@pytest.mark.parametrize("look", [upkeep.plan, status.status])
def test_who_looks_while_a_lab_comes_and_goes_sees_one_or_the_other(
    look: Callable[[Lab], object], make_lab: Callable[..., Lab]
) -> None:
    """And no error about what the other took away between two of the look's questions."""
    lab = make_lab(sites=["red"], replicas=1)
    over = Event()
    seen: list[object] = []

    def work() -> None:
        while not over.is_set():
            seen.append(look(lab))

    with ThreadPoolExecutor() as pool:
        done = [pool.submit(work) for _ in range(2)]
        try:
            for _ in range(3):
                upkeep.apply(lab)
                status.down(lab)
        finally:
            over.set()
        assert [future.exception() for future in done] == [None, None]
    assert len(seen) > 20


def test_what_cannot_be_mended_is_told_once_and_tried_again(
    make_lab: Callable[..., Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later each time; a damaged journal is such a thing."""
    lab = make_lab()
    lab.journal_file.parent.mkdir(parents=True)
    lab.journal_file.write_text("no journal\n")
    told: list[Mend] = []
    keeper = upkeep.Keeper(lab, told.append)
    pauses = []
    for _ in range(7):
        keeper.look()
        pauses.append(keeper.pause)
        assert not keeper.is_down()
    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert (keeper.failures, len(told)) == (7, 1)
    assert "is not an entry of labkit's journal" in str(told[0])
    lab.journal_file.unlink()


def options(lab: Lab, folder: Path) -> list[str]:
    """The command line's options for a lab of the tests."""
    values = {
        "name": lab.name, "replicas": lab.replicas, "state": lab.state, "run": lab.run,
        "cache": lab.cache, "outputs": str(folder / "outputs"),
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    sites = json.dumps([site.name for site in lab.sites])
    text = "\n".join([*lines, f"sites = {sites}", "[host]", f"netns = {json.dumps(lab.netns)}", ""])
    (folder / "lab.toml").write_text(text)
    return ["--config", str(folder / "lab.toml")]


@pytest.mark.root
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT], ids=lambda sign: sign.name)
def test_the_command_ends_cleanly_on_a_signal(
    farm: Lab, tmp_path: Path, sign: signal.Signals
) -> None:
    """A line for the mend, a sentence at the end, status 0."""
    words = [
        sys.executable,
        "-m",
        "labkit",
        "watch",
        "--every",
        "0.1",
        *options(farm, tmp_path),
    ]
    env = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    kill_container(farm)
    with (tmp_path / "said").open("wb") as out, run.start(words, env=env, output=out) as process:
        until(lambda: "mended in" in (tmp_path / "said").read_text())
        process.send_signal(sign)
        assert process.wait(20) == 0
    lines = (tmp_path / "said").read_text().splitlines()
    assert "restart container red-1" in lines[0]
    assert lines[-1].startswith(f"Watched lab {farm.name}: ")
    assert lines[-1].endswith("1 mend, 0 failures; it was told to end.")
    assert wait_until_gone(process.pid)
    assert upkeep.plan(farm).value.empty


@pytest.mark.root
def test_plan_exits_with_three_when_something_would_change(farm: Lab, tmp_path: Path) -> None:
    """With --exit-code alone; the record can be read by a program."""
    words = [sys.executable, "-m", "labkit", "plan", "--json", *options(farm, tmp_path)]
    env = {"PYTHONPATH": str(ROOT)}
    assert run.run([*words, "--exit-code"], env=env).status == 0
    more = [*words, "--set", "replicas=3"]
    said = run.run(more, env=env)
    assert [step["kind"] for step in json.loads(said.stdout)["value"]["steps"]] == [
        "firewall", "namespace", "link", "root", "container", "names", "balancer",
    ]  # fmt: skip
    assert run.run([*more, "--exit-code"], env=env, ok=(3,)).status == 3


@pytest.mark.root
def test_watch_ends_by_itself_after_its_time(farm: Lab, tmp_path: Path) -> None:
    """And prints what it has done as a record."""
    words = [
        sys.executable,
        "-m",
        "labkit",
        "watch",
        "--for",
        "0.3",
        "--every",
        "0.1",
        "--json",
    ]
    said = run.run([*words, *options(farm, tmp_path)], env={"PYTHONPATH": str(ROOT)})
    value = json.loads(said.stdout)["value"]
    assert (value["mends"], value["failures"], value["ended"]) == (0, 0, "its time was over")
    assert value["looks"] >= 1
