"""Two labs on one machine, and two processes on one lab: who comes second waits or is refused, and nobody's
things are touched."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run, undo
from labkit.core.run import Done
from labkit.farm.containers import runc
from tests.conftest import open_place
from tests.projects import Project, files, listing, project
from tests.test_catalogue import record
from tests.test_standing import inventory, nothing


@dataclass(frozen=True)
class Machine:
    """A host side of the test's own that labkit takes for the machine's, and a lab that is up on it."""

    netns: str
    place: Path
    first: Project

    def labkit(self, own: Project, *words: str) -> Done:
        """Calls the command on that host side."""
        return own.labkit(*words, before=("nsenter", f"--net=/run/netns/{self.netns}", "--"))

    def lab(self, **keys: object) -> Project:
        """Another project, whose lab has its state beside the first one's."""
        folder = self.place / secrets.token_hex(3)
        folder.mkdir()
        shared = {"state": self.first.lab.state, "run": self.first.lab.run, "host.netns": ""}
        return project(folder, 'sites = ["red"]\nreplicas = 1', **{**shared, **keys})

    def seen(self) -> tuple[object, ...]:
        """What there is of the first lab: its processes, its files, links and addresses of the host side."""
        lab = self.first.lab
        own = {name: state.pid for name, state in runc.states(lab).items()}
        found = files(listing(lab.state_dir, lab.run_dir))
        kept = {path for path in found if not path.endswith((".log", ".log.1"))}
        return own, kept, inventory(lab), self.addresses()

    def addresses(self) -> dict[str, list[str]]:
        """The host side's links, each with its IPv4 addresses: the others, and a bridge's state, come by
        themselves in the second after it is up."""
        found = json.loads(run.run(["ip", "-json", "address"], netns=self.netns).stdout)
        return {
            link["ifname"]: [a["local"] for a in link["addr_info"] if a["family"] == "inet"]
            for link in found
        }


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """A network namespace that is nobody's but the test's, with a lab of one replica."""
    netns = f"t{secrets.token_hex(3)}"
    run.run(["ip", "netns", "add", netns])
    run.run(["ip", "link", "set", "lo", "up"], netns=netns)
    try:
        with open_place() as place:
            (place / "first").mkdir()
            first = project(place / "first", 'sites = ["red"]\nreplicas = 1', **{"host.netns": ""})
            made = Machine(netns, place, first)
            try:
                done = made.labkit(first, "apply")
                assert done.status == 0, done.stderr
                yield made
            finally:
                done = made.labkit(first, "down")
                assert done.status == 0, done.stdout + done.stderr
                assert nothing(first.lab)
    finally:
        run.run(["ip", "netns", "del", netns])


@pytest.mark.root
@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        ({}, "machine.subnet-taken", ("is used by lab {name}", "take down lab {name}")),
        ({"network.subnet": "10.60.0.128/26"}, "machine.subnet-taken", ("interface br-{name}, which is lab {name}'s",)),
        ({"name": "{name}", "state": "{place}/state", "run": "{place}/run"}, "state.namespace-taken", ("network namespace {name}-red-1", "another name")),
    ],
    ids=["the same subnet", "a part of it", "the same name"],
)  # fmt: skip
def test_a_second_lab_that_clashes_is_refused(
    machine: Machine, keys: dict[str, str], code: str, words: tuple[str, ...]
) -> None:
    """The error names the first lab, or what is its; the first one is not touched, the second one not begun."""
    names = {"name": machine.first.lab.name, "place": str(machine.place)}
    own = machine.lab(**{key: value.format(**names) for key, value in keys.items()})
    before = machine.seen()
    told = record(machine.labkit(own, "apply", "--json"))
    assert told["code"] == code
    for word in words:
        assert word.format(**names) in "\n".join(told.values())
    assert machine.seen() == before
    assert listing(own.lab.state_dir, own.lab.run_dir) == {} or "name" in keys
    assert "name" not in keys or not own.lab.journal_file.exists()


@pytest.mark.root
def test_two_labs_stand_side_by_side(machine: Machine) -> None:
    """With another subnet the second one comes up, and goes; the first one stays as it is."""
    own, before = machine.lab(**{"network.subnet": "10.61.0.0/24"}), machine.seen()
    done = machine.labkit(own, "apply", "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["changed"]
    assert f"br-{own.lab.name}"[:15] in machine.addresses()
    assert machine.labkit(own, "down").status == 0
    assert machine.seen() == before
    assert nothing(own.lab)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["interface", "namespace", "container"])
def test_somebody_s_things_of_the_lab_s_names_are_not_touched(machine: Machine, kind: str) -> None:
    """A veth pair, a network namespace, a folder of runC's: refused by its name, and as it was afterwards;
    `down` of the lab that was refused leaves it, too."""
    own = machine.lab(**{"network.subnet": "10.61.0.0/24"})
    lab = own.lab
    name = {"interface": lab.farm[0].link, "namespace": lab.farm[0].netns, "container": "red-1"}[
        kind
    ]
    folder = runc.root(lab) / name
    if kind == "interface":
        run.run(["ip", "link", "add", name, "type", "veth", "peer", "x0"], netns=machine.netns)
    elif kind == "namespace":
        run.run(["ip", "netns", "add", name])
    else:
        folder.mkdir(parents=True)
        (folder / "state.json").write_text("mine\n")
    try:
        before = machine.seen(), sorted(Path("/run/netns").glob(f"{lab.name}*"))
        told = record(machine.labkit(own, "apply", "--json"))
        assert told["code"] == f"state.{kind}-taken"
        assert name in told["value"]
        machine.labkit(own, "down")
        assert (machine.seen(), sorted(Path("/run/netns").glob(f"{lab.name}*"))) == before
        assert kind != "container" or (folder / "state.json").read_text() == "mine\n"
    finally:
        if kind == "interface":
            run.run(["ip", "link", "del", name], netns=machine.netns)
        elif kind == "namespace":
            run.run(["ip", "netns", "del", name])


# -- two processes on one lab ------------------------------------------------------------------------------


@pytest.fixture
def own(open_folder: Path) -> Iterator[Project]:
    """A project of one replica, whose host side is a namespace of its own."""
    made = project(open_folder, 'sites = ["red"]\nreplicas = 1')
    yield made
    assert not undo.unmake_all(made.lab)[1]


@pytest.mark.root
def test_two_that_apply_at_once_make_one_farm(own: Project) -> None:
    """One of them waits for the other; both end well, the lab is whole, and a down meanwhile, too, leaves
    either all or nothing."""
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: own.labkit("apply", "--json"), range(2)))
    assert [done.status for done in both] == [0, 0], [done.stderr for done in both]
    assert own.labkit("plan", "--exit-code").status == 0
    with ThreadPoolExecutor(2) as pool:
        down, again = pool.map(lambda word: own.labkit(word, "--json"), ["down", "apply"])
    assert down.status == 0, down.stdout
    assert again.status == 0 or "error" in json.loads(again.stdout), again
    assert own.labkit("down").status == 0
    assert nothing(own.lab)


@pytest.mark.root
def test_who_waits_tells_for_whom(own: Project) -> None:
    """The process that has the lock, and its command, are in the log while the second one waits; then it
    goes on."""
    file, log = own.lab.run_dir / "farm.lock", own.lab.output_dir / "labkit.log"
    file.parent.mkdir(parents=True)
    with file.open("w") as holder, ThreadPoolExecutor(1) as pool:
        holder.write(f"{os.getpid()}\n")
        holder.flush()
        fcntl.flock(holder, fcntl.LOCK_EX)
        waiting = pool.submit(own.labkit, "apply")
        until = time.monotonic() + 60
        said = f"waiting for farm: another labkit (process {os.getpid()}) works on this lab: "
        while not (log.exists() and said in log.read_text()):
            assert time.monotonic() < until
            assert not waiting.done(), waiting.result()
            time.sleep(0.05)
        assert runc.states(own.lab) == {}
        fcntl.flock(holder, fcntl.LOCK_UN)
        assert waiting.result().status == 0


def test_labs_of_other_names_have_nothing_in_common() -> None:
    """Neither folders nor names of things; what they share is the cache alone."""
    one, two = Lab.of({"name": "one"}), Lab.of({"name": "two"})
    for attribute in ("state_dir", "run_dir", "bridge", "domain"):
        assert getattr(one, attribute) != getattr(two, attribute)
    assert one.cache_dir == two.cache_dir
