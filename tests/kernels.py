"""Jupyter's kernels cut off in the midst of an apply: interrupted as by the notebook's stop button, or restarted.

Run on a machine of its own (:mod:`tests.own_machine`): ``python -m tests.kernels interrupted|restarted [--all]``.
In the kernel, :func:`hold` makes the work that labkit does wait at one point (:mod:`tests.killing`) and tell it
by a file: that is where it is cut off.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from labkit import Lab, cancellation
from labkit.core import daemon
from labkit.farm.containers import runc
from labkit.farm.services import balancer_server, dns_server
from labkit.report.batch import notebook
from tests import inventory, killing
from tests.benchmarks.killed import CHANGED, FIRST, down, forgotten, lab_of, taken, up
from tests.waiting import until

#: What the kernels themselves keep; it is not looked at.
OWN = Path("/run/kernels")
#: How long a cell, or a kernel's start, may take at most, in seconds.
LONG = 60.0


class Held:
    """At the ``number``-th point whose name begins so, what works waits: until it is interrupted (of which it is
    told later, as ever), or for ever. Points of the kernel's own threads are none."""

    def __init__(self, point: str, number: int, *, interrupted: bool, file: str) -> None:
        self.point, self.left = point, number
        self.interrupted, self.file = interrupted, Path(file)
        self._counting = threading.Lock()

    def __call__(self, point: str, part: Callable[[], object] | None = None) -> None:
        work = cancellation._work.get()
        if work is None or not point.startswith(self.point):
            return
        with self._counting:
            self.left -= 1
            if self.left:
                return
        if part is not None:
            part()
        self.file.touch()
        over = work.over if self.interrupted else threading.Event()
        over.wait(LONG)


_held: list[Held] = []


def hold(point: str, number: int, *, interrupted: bool, file: str) -> None:
    """In a kernel: the work is held there from now on, and nowhere else."""
    if not _held:
        killing.install(_strike)
    _held.append(Held(point, number, interrupted=interrupted, file=file))


def _strike(point: str, part: Callable[[], object] | None = None) -> None:
    _held[-1](point, part)


def at_work() -> list[str]:
    """In a kernel: the threads that labkit's work is done in, and the programs that they have started."""
    threads = [item.name for item in threading.enumerate() if "ThreadPool" in item.name]
    return threads + [
        path.read_text() for path in Path("/proc/self/task").glob("*/children") if path.read_text()
    ]


class Kernel:
    """A kernel as the notebooks have it, and a client of it."""

    def __init__(self, lab: Lab) -> None:
        from jupyter_client.manager import KernelManager

        self.lab = lab
        env = notebook.environment(notebook.write_lab_file(lab), "", OWN)
        self.keeper = KernelManager(kernel_name="python3", connection_file=str(OWN / "kernel.json"))
        self.keeper.start_kernel(env={**os.environ, **env})
        self.connect()

    def connect(self) -> None:
        """The kernel, a new one perhaps, answers."""
        self.client = self.keeper.blocking_client()
        self.client.start_channels(hb=False)
        self.client.wait_for_ready(timeout=LONG)

    def end(self) -> None:
        """It has ended."""
        self.client.stop_channels()
        self.keeper.shutdown_kernel(now=True)

    def begin(self, code: str) -> str:
        """A cell begins; its number."""
        said: str = self.client.execute(code)
        return said

    def ended(self, number: str) -> str:
        """How a cell has ended: '' well, or the error's name and text."""
        while True:
            message = self.client.get_shell_msg(timeout=LONG)
            if message["parent_header"]["msg_id"] == number:
                content = message["content"]
                return " ".join([content.get("ename", ""), content.get("evalue", "")]).strip()

    def cell(self, code: str) -> None:
        """A cell that must end well."""
        said = self.ended(self.begin(code))
        assert not said, f"{code}: {said}"

    def at_work(self) -> bool:
        """Whether a thread of labkit's work, or a program that it has started, goes on."""
        number = self.client.execute("", user_expressions={"found": "kernels.at_work()"})
        while (message := self.client.get_shell_msg(timeout=LONG))["parent_header"][
            "msg_id"
        ] != number:
            pass
        said = message["content"]["user_expressions"]["found"]["data"]["text/plain"]
        return bool(said != "[]")

    def ready(self) -> None:
        """The kernel knows the lab and what is done with it."""
        self.cell(
            "from labkit import Lab; from labkit.farm.reconcile import upkeep; from labkit.report import status as standing\n"
            f"from tests import kernels; lab = Lab.model_validate_json({self.lab.model_dump_json()!r})"
        )

    def held(self, point: str, number: int, *, interrupted: bool) -> str:
        """A cell applies the lab, and its work is now at that point; the cell's number."""
        file = OWN / "held"
        file.unlink(missing_ok=True)
        self.cell(
            f"kernels.hold({point!r}, {number}, interrupted={interrupted}, file={str(file)!r})"
        )
        begun = self.begin("upkeep.apply(lab)")
        until(file.exists)
        return begun

    def applied(self) -> None:
        """Another cell applies the lab: it converges, and then there is nothing to do."""
        self.cell("result = upkeep.apply(lab); assert result.holds, result.checks")
        self.cell("result = upkeep.apply(lab); assert not result.changed, result.summary")

    def down(self) -> None:
        """Another one takes it down."""
        self.cell("result = standing.down(lab); assert result.holds, result.value.failed")


@contextmanager
def kernel(lab: Lab) -> Iterator[Kernel]:
    """A kernel that knows the lab; it has ended afterwards."""
    OWN.mkdir(exist_ok=True)
    found = Kernel(lab)
    try:
        found.ready()
        yield found
    finally:
        found.end()


def wanted(sites: list[dict[str, object]]) -> Lab:
    """The lab with these sites; what people read of it is looked at as little as the kernels' own."""
    return lab_of(sites=sites, outputs=str(OWN / "outputs"))


def serving(lab: Lab) -> dict[str, int | None]:
    """The processes that serve, by what they are: replicas' first ones, and the two servers' in front of them."""
    return {
        **{name: state.pid for name, state in runc.states(lab).items()},
        "names": daemon.pid(dns_server.server(lab)),
        "balancer": daemon.pid(balancer_server.server(lab)),
    }


def interrupted(lab: Lab, found: Kernel, point: str, number: int) -> None:
    """An apply is interrupted there: its cell ends so, nobody works on, and the kernel goes on as ever."""
    begun = found.held(point, number, interrupted=True)
    found.keeper.interrupt_kernel()
    assert found.ended(begun).startswith("KeyboardInterrupt")
    assert not found.at_work()
    found.applied()


def interrupted_twice(lab: Lab, found: Kernel, point: str, number: int) -> None:
    """Somebody presses the button once more while it ends: who still cleans up is not cut off."""
    begun = found.held(point, number, interrupted=True)
    found.keeper.interrupt_kernel()
    found.keeper.interrupt_kernel()
    assert found.ended(begun).startswith("KeyboardInterrupt")
    until(lambda: not found.at_work())
    found.applied()


def restarted(lab: Lab, found: Kernel, point: str, number: int, *, now: bool) -> None:
    """The kernel is restarted while an apply is there: a new one goes on from what the old one has left."""
    found.held(point, number, interrupted=not now)
    found.client.stop_channels()
    found.keeper.restart_kernel(now=now)
    found.connect()
    found.ready()
    found.applied()


Cut = Callable[[Lab, Kernel, str, int], None]


def making(cut: Cut, point: str, number: int) -> None:
    """Cut off while it makes a farm from nothing."""
    lab = wanted(FIRST)
    with kernel(lab) as found:
        cut(lab, found, point, number)
        found.down()


def changing(cut: Cut, point: str, number: int) -> None:
    """Cut off while it adds a site, and takes a replica away: who served before serves on."""
    first, changed = wanted(FIRST), wanted(CHANGED)
    up(first)
    before = serving(first)
    with kernel(changed) as found:
        cut(changed, found, point, number)
        after = serving(changed)
        gone = {item.name for item in first.farm} - {item.name for item in changed.farm}
        stays = before.keys() - gone
        assert {name: after[name] for name in stays} == {name: before[name] for name in stays}
        found.down()


KILLED, ASKED = partial(restarted, now=True), partial(restarted, now=False)
#: The beginning of a point's name, and the how manieth of them: while a farm is made, and while it is changed.
MADE = (("within journal: ", 2), ("started runc", 2), ("within netlink: ", 1), ("after journal: daemon", 1))  # fmt: skip
CHANGES = (("started runc", 1), ("write /run/own/run", 3))
#: What is cut off where, of each kind: a sample.
SAMPLES: dict[str, tuple[tuple[Callable[..., None], Cut, str, int], ...]] = {
    "interrupted": (
        (making, interrupted, *MADE[0]),
        (making, interrupted_twice, *MADE[1]),
        (changing, interrupted, *CHANGES[0]),
    ),
    "restarted": (
        (changing, KILLED, *CHANGES[0]),
        (changing, ASKED, *CHANGES[1]),
    ),
}
ALL: dict[str, tuple[Cut, ...]] = {
    "interrupted": (interrupted, interrupted_twice),
    "restarted": (KILLED, ASKED),
}


def rounds(kind: str) -> Iterator[tuple[Callable[..., None], Cut, str, int]]:
    """Every cut of that kind at every point."""
    for cut in ALL[kind]:
        yield from ((making, cut, *point) for point in MADE)
        yield from ((changing, cut, *point) for point in CHANGES)


def main() -> None:
    """After each cut of this kind the machine is as it was after an apply and a down without one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=SAMPLES)
    parser.add_argument("--all", action="store_true")
    given = parser.parse_args()
    lab = wanted(CHANGED)
    try:
        up(wanted(FIRST))
        up(lab)
        down(lab)
        before = taken(lab)
        for act, cut, point, number in rounds(given.kind) if given.all else SAMPLES[given.kind]:
            began = time.monotonic()
            act(cut, point, number)
            left = inventory.settled(before, lambda: taken(lab))
            assert not left, f"{act.__name__}, {point}: {left}"
            print(f"{act.__name__}, {point}: {time.monotonic() - began:.1f} s", flush=True)
    finally:
        forgotten()
    print("nothing is left")


if __name__ == "__main__":
    main()
