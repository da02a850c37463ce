"""Killed in the middle of what is done many at a time: whatever was made by then is found and unmade."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run, undo
from labkit.core.journal import Journal
from labkit.farm.containers import runc
from labkit.farm.images import layout as images
from labkit.farm.reconcile import up
from labkit.kernel import cgroups, netns
from tests.conftest import lab_maker, open_place

#: Counts the calls of one function and kills the process before or after one of them.
KILLED = f"""
import importlib, itertools, os, signal, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from labkit import Lab
from labkit.farm.reconcile import up
from labkit.report import status as standing
lab = Lab.model_validate_json(sys.argv[1])
act, (module, _, path), number, when = sys.argv[2], sys.argv[3].partition(":"), int(sys.argv[4]), sys.argv[5]
owner = importlib.import_module(module)
*outer, name = path.split(".")
for part in outer:
    owner = getattr(owner, part)
function, numbers = getattr(owner, name), itertools.count(1)
def counted(*given, **named):
    own = next(numbers)  # several threads call it
    if own == number and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    done = function(*given, **named)
    if own == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return done
setattr(owner, name, counted)
(up.replicas if act == "up" else standing.down)(lab)
"""
#: What is done, the function, which call of it, and whether the kill comes before or after.
MADE = [
    ("up", "labkit.core.journal:Journal._append", 3, "after"),
    ("up", "labkit.kernel.calls:unshare", 4, "after"),
    ("up", "labkit.kernel.netns:_create", 2, "before"),
    ("up", "labkit.kernel.links:Netlink.try_all", 6, "after"),
    ("up", "labkit.farm.network.links:socket.if_nametoindex", 2, "before"),
    ("up", "labkit.farm.containers.overlay:put", 1, "before"),
    ("up", "labkit.farm.containers.overlay:_lay", 2, "before"),
    ("up", "labkit.farm.containers.overlay:mount_all", 1, "after"),
    ("up", "labkit.kernel.calls:mount_shifted", 2, "before"),
    ("up", "labkit.farm.containers.container:intend", 1, "after"),
    ("up", "labkit.farm.containers.container:launch", 2, "after"),
]
UNMADE = [
    ("down", "labkit.kernel.cgroups:kill_most", 2, "before"),
    ("down", "labkit.kernel.cgroups:end", 2, "after"),
    ("down", "labkit.kernel.calls:unmount", 2, "after"),
    ("down", "labkit.core.undo:shutil.rmtree", 4, "before"),
    ("down", "labkit.core.network_removal:_cut", 1, "after"),
    ("down", "labkit.kernel.netns:remove", 2, "before"),
    ("down", "labkit.core.journal:Journal.forget_all", 4, "before"),
    ("down", "labkit.core.journal:Journal._append", 5, "after"),
]


@pytest.fixture(scope="module")
def cold() -> Iterator[Lab]:
    """A lab of one site on two replicas, nothing of which is up."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        yield make(sites=["red"])


def killed(lab: Lab, act: str, where: str, number: int, when: str) -> None:
    """The action in a process that kills itself there."""
    images.unpack_all(lab)
    argv = [sys.executable, "-c", KILLED, lab.model_dump_json(), act, where, str(number), when]
    run.run(argv, ok=(-signal.SIGKILL,))


def left(lab: Lab) -> list[str]:
    """What of a lab is still on the machine: names, mounts, groups, processes."""
    folders = (f"{lab.state_dir}/", f"{lab.run_dir}/")
    names = (lab.host.netns, *(replica.netns for replica in lab.farm))
    return [
        *(name for name in names if netns.path(name).exists()),
        *(point for point in undo.mount_points() if point.startswith(folders)),
        *map(str, cgroups.folders(runc.cgroup(lab))),
        *(entry.kind for entry in Journal.of(lab).standing()),
        *(str(path) for path in (lab.state_dir / "containers").glob("*")),
    ]


@pytest.mark.root
@pytest.mark.parametrize(
    ("act", "where", "number", "when"), MADE, ids=lambda v: str(v).rpartition(":")[2]
)
def test_what_a_killed_labkit_made_is_found(
    cold: Lab, act: str, where: str, number: int, when: str
) -> None:
    """By the journal alone: nothing is left."""
    killed(cold, act, where, number, when)
    assert undo.unmake_all(cold)[1] == ()
    assert left(cold) == []


@pytest.mark.root
@pytest.mark.parametrize(
    ("act", "where", "number", "when"), UNMADE, ids=lambda v: str(v).rpartition(":")[2]
)
def test_what_a_killed_labkit_had_not_unmade_is_found(
    cold: Lab, act: str, where: str, number: int, when: str
) -> None:
    """By the next one, to which what is gone already is no error."""
    assert up.replicas(cold).holds
    killed(cold, act, where, number, when)
    assert undo.unmake_all(cold)[1] == ()
    assert left(cold) == []


@pytest.mark.root
def test_what_a_killed_labkit_made_is_gone_on_with(make_lab: Callable[..., Lab]) -> None:
    """Half of the links are there, and half of the roots: the rest is made, and all answer."""
    lab = make_lab(sites=["red"])
    for where, number in (
        ("labkit.kernel.links:Netlink.try_all", 6),
        ("labkit.farm.containers.overlay:_lay", 1),
    ):
        killed(lab, "up", where, number, "after")
    result = up.replicas(lab)
    assert result.changed
    assert result.holds
    assert not up.replicas(lab).changed
