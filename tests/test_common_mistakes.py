"""The mistakes in a model of the network: named and told without one, then made for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import undo
from labkit.core.journal import Journal, lock
from labkit.core.result import Result
from labkit.farm import network
from labkit.farm.containers import lab_namespaces
from labkit.farm.network import common_mistakes, links
from labkit.farm.network.common_mistakes import Mistake, Tried
from labkit.farm.network.pings import Echo
from tests.conftest import lab_maker, open_place
from tests.netlink import netlink
from tests.test_host import add_link
from tests.test_network import indexes

#: Every mistake, and the check that has to tell it.
CAUGHT = {
    "eth0-in-bridge": "network.ports",
    "not-in-bridge": "network.ports",
    "bridge-down": "network.bridge",
    "bridge-no-address": "network.one-network",
    "no-address": "network.targets",
    "same-as-bridge": "network.addresses",
    "same-twice": "network.addresses",
    "wrong-prefix": "network.one-network",
    "other-network": "network.one-network",
    "peer-not-moved": "network.peers",
    "eth0-down": "network.peers",
    "link-down": "network.peers",
    "no-route": "network.routes",
    "loopback": "network.ping.model-1.out",
}


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """A lab with its network up, as it is while the mistakes are made elsewhere."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make(sites=["red"])
        network.connect(lab)
        yield lab


@pytest.fixture(scope="module")
def tried(farm: Lab) -> Result[tuple[Tried, ...]]:
    """All mistakes, made and mended once."""
    before = indexes(farm)
    result = network.mistakes(farm)
    assert indexes(farm) == before
    return result


def test_a_model_is_a_small_farm_with_the_lab_s_own_journal() -> None:
    """Two replicas in a namespace of their own, with the farm's addresses, and room for both."""
    lab = Lab.load(None, lab_name="shop", sites=["red"], replicas=3)
    small = common_mistakes.describe(lab)
    assert small.namespaces == ("shop-model", "shop-model-1", "shop-model-2", "shop-model-far")
    assert Journal.of(small.lab).path == Journal.of(lab).path
    assert (small.lab.bridge, small.lab.gateway) == (lab.bridge, lab.gateway)
    lab = Lab.load(None, sites=["red"], replicas=1, subnet="10.60.0.64/28")
    assert str(common_mistakes.describe(lab).lab.subnet) == "10.60.0.64/27"


@pytest.mark.parametrize(
    ("given", "netns"),
    [
        ({"sites": ["model", "red"]}, "shop-modelx"),
        ({"sites": ["model", "modelx"]}, "shop-modelxx"),
        ({"netns": "shop-model"}, "shop-modelx"),
        ({"netns": "shop-model-1"}, "shop-modelx"),
        ({"netns": "other"}, "shop-model"),
    ],
)
def test_a_model_takes_no_name_of_the_lab_s(given: dict[str, object], netns: str) -> None:
    """Neither a site's nor that of the namespace in which the real farm lives."""
    lab = Lab.load(None, **{"lab_name": "shop", **given})
    found = common_mistakes.describe(lab).namespaces
    assert found[0] == netns
    assert not {lab.host.netns, *(replica.netns for replica in lab.farm)} & set(found)


def test_every_mistake_has_a_name_and_a_remedy() -> None:
    """And each command is on a namespace of the model."""
    small = common_mistakes.describe(Lab.load(None, lab_name="shop"))
    found = common_mistakes.known(small)
    assert {item.name: item.check for item in found} == CAUGHT
    for item in found:
        assert item.made
        assert item.mended
        for command in (*item.made, *item.mended):
            assert command.split()[:2] == ["ip", "-n"]
            assert command.split()[2] in small.namespaces


def an_echo(**changes: object) -> Echo:
    """A ping without an answer."""
    lost = {
        "source": "host", "target": "red-1", "address": "10.60.0.11", "sent": 1, "answered": 0,
        "counted": 0, "fastest": None, "said": "",
    }  # fmt: skip
    return Echo.model_validate({**lost, **changes})


@pytest.mark.parametrize(
    ("symptoms", "words"),
    [
        ([], ""),
        ([an_echo()], "host → red-1: no answer (red-1 saw no request)"),
        ([an_echo(counted=1)], "host → red-1: no answer (red-1 saw the request)"),
        (
            [an_echo(said="lost"), an_echo(source="red-2", said="lost")],
            "host → red-1, red-2 → red-1: lost",
        ),
        (
            [an_echo(answered=1, fastest=0.1, address="127.0.0.1")],
            "host → red-1: an answer from 127.0.0.1, and red-1 saw no request",
        ),
    ],
)
def test_symptoms_are_told_in_ping_s_words(symptoms: list[Echo], words: str) -> None:
    """Each once, after all who were told it."""
    assert common_mistakes.told(symptoms) == words


@pytest.mark.root
@pytest.mark.parametrize("name", CAUGHT)
def test_a_mistake_is_caught_felt_and_mended(tried: Result[tuple[Tried, ...]], name: str) -> None:
    """By its own check, in a ping that fails, and without a trace after its remedy."""
    (found,) = (item for item in tried.value if item.mistake.name == name)
    assert CAUGHT[name] in {check.name for check in found.caught}
    assert found.symptoms
    assert found.left == ()


@pytest.mark.root
def test_every_mistake_has_a_check_and_a_row(tried: Result[tuple[Tried, ...]]) -> None:
    """And one says that the network was sound before. 127.0.0.1 answers, though the container's link is down; with
    its eth0 in the bridge the machine is cut off, too."""
    assert tried.holds
    names = [check.name.removeprefix("network.mistake.") for check in tried.checks]
    assert names == ["none", *CAUGHT]
    assert len(tried.table("mistakes").rows) == len(tried.table("made").rows) == len(CAUGHT)
    found = {item.mistake.name: item.symptoms for item in tried.value}
    (own,) = found["loopback"]
    assert (own.address, own.answered, own.counted) == ("127.0.0.1", 1, 0)
    assert {"host → model-1", "host → the outside"} <= {e.path for e in found["eth0-in-bridge"]}


@pytest.mark.root
def test_nothing_is_left_and_the_farm_is_as_it_was(
    farm: Lab, tried: Result[tuple[Tried, ...]]
) -> None:
    """No namespace of the model, no line of it in the journal, and nothing to put right."""
    small = common_mistakes.describe(farm)
    assert [name for name in small.namespaces if Path("/run/netns", name).exists()] == []
    written = {value for entry in Journal.of(farm).standing() for value in entry.what.values()}
    assert not written & set(small.namespaces)
    assert network.connect(farm).changed is False


def only(monkeypatch: pytest.MonkeyPatch, change: Callable[[Mistake], Mistake]) -> None:
    """Leaves one mistake, changed."""
    every = common_mistakes.known

    def known(small: common_mistakes.Model) -> tuple[Mistake, ...]:
        return tuple(change(item) for item in every(small) if item.name == "link-down")

    monkeypatch.setattr(common_mistakes, "known", known)
    monkeypatch.setattr(common_mistakes, "PATIENCE", 0.0)


@pytest.mark.root
@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        (
            {"made": ("true",), "mended": ("true",)},
            "failed: no check, and no pings; after the remedy none",
        ),
        ({"check": "network.ports"}, "failed: network.peers, and 3 pings; "),
        ({"mended": ("true",)}, "after the remedy network.peers: model-1's link is down"),
    ],
    ids=["harmless", "caught by another", "not mended"],
)
def test_a_mistake_that_goes_otherwise_is_told(
    farm: Lab, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], seen: str
) -> None:
    """One that does no harm, one that its check does not tell, one that its remedy does not mend."""
    only(monkeypatch, lambda item: item.model_copy(update=changes))
    (check,) = failed(network.mistakes(farm).checks)
    assert check.name == "network.mistake.link-down"
    assert seen in check.seen


@pytest.mark.root
def test_a_network_that_is_wrong_from_the_start_is_told(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails then is not the mistake's."""
    only(monkeypatch, lambda item: item)
    wire = links.wire

    def half(lab: Lab) -> bool:
        made = wire(lab)
        with netlink(lab.netns) as ipr:
            ipr.link("set", index=ipr.link_lookup(ifname=lab.farm[1].link)[0], state="down")
        return made

    monkeypatch.setattr(links, "wire", half)
    found = {check.name: check for check in network.mistakes(farm).checks}
    assert not found["network.mistake.none"].holds
    assert "network.peers: model-2's link is down" in found["network.mistake.none"].seen


@pytest.mark.root
def test_a_model_that_was_left_behind_is_taken_down(make_lab: Callable[..., Lab]) -> None:
    """By the next one, and by what takes the lab down, which finds it in the lab's own journal."""
    lab = make_lab(sites=["red"])
    small = common_mistakes.describe(lab)

    def leave() -> None:
        for name in small.namespaces:
            lab_namespaces.create_namespace(small.lab, name)
        links.wire(small.lab)

    leave()
    add_link(small.lab.netns, "mark7", "192.168.77.1/24")
    with lock(lab.run_dir, "farm"), common_mistakes.standing(lab):
        assert "mark7" not in indexes(small.lab)
    leave()
    assert undo.unmake_all(lab)[1] == ()
    assert [name for name in small.namespaces if Path("/run/netns", name).exists()] == []
