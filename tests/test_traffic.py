"""Traffic through the balancer of a real farm: who serves, and what a stopped replica does to it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.errors import ConfigError, FarmError
from labkit.farm import traffic
from labkit.farm.containers import container
from labkit.farm.reconcile import answers
from labkit.farm.services import balancer, balancer_config, balancer_server, dns, fetch
from labkit.farm.traffic import bench, distribution, failover, measurements
from labkit.farm.traffic.load import Load
from labkit.farm.traffic.measurements import Measurement, Share
from labkit.model.config import METHODS
from tests.host_side import give_address
from tests.waiting import until
from tests.whole_farm import send, standing


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """Two sites on two replicas each, with names and balancer; every test leaves it as it was."""
    with standing() as lab:
        yield lab


def balanced(farm: Lab, **changes: object) -> Lab:
    """The farm's balancer as another Lab would have it, until the next :func:`restored`."""
    lab = Lab.of({**farm.model_dump(), **changes})
    balancer.up(lab)
    return lab


@pytest.fixture
def restored(farm: Lab) -> Iterator[Lab]:
    """The farm, whose balancer is the Lab's own again afterwards."""
    yield farm
    balancer.up(farm)


@pytest.mark.root
def test_client_balancer_and_replicas_count_the_same(farm: Lab) -> None:
    """Each site in the Lab's order: the three counts agree request by request, and fit the weights."""
    result = traffic.survey(farm, 40, 4)
    assert failed(result.checks) == ()
    assert [one.target for one in result.value.measurements] == ["red", "blue"]
    assert {check.name for check in result.checks} == {
        "balance.several",
        *(
            f"traffic.{site}.{what}"
            for site in ("red", "blue")
            for what in ("answered", "distribution", "proxy-log", "replica-logs")
        ),
    }
    assert [table.name for table in result.tables] == ["shares", "requests-red", "requests-blue"]
    table = result.table("requests-red")
    assert [column.heading for column in table.columns] == [
        "site", "replica", "status", "start (s)", "took (s)", "error",
    ]  # fmt: skip
    assert len(table.rows) == 40
    assert [part.observed for part in result.value.measurements[0].shares] == [20, 20]
    assert result.changed is False


@pytest.mark.root
def test_request_that_the_balancer_did_not_log_is_a_failed_check(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts that differ are told, with how many requests differ."""
    value, sent, _ = measurements.measure(farm, "red", 40, 4)
    log = balancer_config.logs(farm) / "access.log"
    original = log.read_text()
    lines = original.splitlines(keepends=True)
    log.write_text("".join(line for line in lines if f'"{value.trace}-7"' not in line))
    monkeypatch.setattr(measurements, "PATIENCE", 0.1)
    (check,) = failed(measurements.checks(farm, value, sent))
    log.write_text(original)
    assert check.name == "traffic.red.proxy-log"
    assert check.seen.endswith("; 1 request differs")


@pytest.mark.root
def test_weights_divide_the_requests(restored: Lab) -> None:
    """Weights of 3 and 1 give three quarters to the first; a Lab that expects halves does not hold then."""
    lab = balanced(restored, sites=[{"name": "red", "weights": [3, 1]}, "blue"])
    result = send(lab, "red", 120, 6)
    assert result.holds
    assert [part.observed for part in result.value.shares] == [90, 30]
    against = failed(send(restored, "red", 120, 6).checks)
    assert [check.name for check in against] == ["traffic.red.distribution"]


@pytest.mark.root
@pytest.mark.parametrize("sticky", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_each_method_passes_with_weights_after_an_outage(
    restored: Lab, method: str, sticky: bool
) -> None:
    """What a replica was spared by the balancer meanwhile is not made up for in what is measured next."""
    sites = [{"name": "red", "weights": (30, 1)}, {"name": "blue", "weights": (1, 1)}]
    lab = balanced(restored, sites=sites, proxy={"lbmethod": method, "sticky": sticky})
    balancer_server.stop(lab, lab.farm[0], True)
    assert send(lab, "red", 100, 8).value.shares[0].observed == 0
    balancer_server.stop(lab, lab.farm[0], False)
    assert failed(traffic.stay(lab, "red").checks) == ()
    assert failed(traffic.survey(lab, 200, 16).checks) == ()
    stayed = traffic.stay(lab, "red")
    assert failed(stayed.checks) == ()
    assert len(set(stayed.value.served)) == (1 if sticky else 2)


def measured(method: str, *observed: int, weights: tuple[int, ...]) -> Measurement:
    """A measurement, eight requests at a time, in which the replicas served so many."""
    total = sum(observed)
    parts = tuple(
        Share(
            replica=f"red-{place}",
            weight=weight,
            observed=seen,
            expected=total * weight / sum(weights),
        )
        for place, (seen, weight) in enumerate(zip(observed, weights, strict=True), 1)
    )
    return Measurement(
        target="red", address="", lbmethod=method, trace="", requests=total, concurrency=8, failed=0,
        seconds=1.0, rate=1.0, median=1.0, p95=1.0, shares=parts, fit=measurements.fit(parts),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "observed", "weights", "holds"),
    [
        ("byrequests", (150, 50), (3, 1), True),
        ("byrequests", (100, 100), (3, 1), False),
        ("byrequests", (20, 0), (1, 1), False),
        ("bytraffic", (8, 0), (1, 1), True),
        ("bytraffic", (20, 0), (1, 1), False),
        ("bybusyness", (100, 100), (3, 1), True),
        ("bybusyness", (200, 0), (3, 1), False),
        ("bybusyness", (3, 0), (3, 1), True),
        ("byrequests", (20,), (1,), True),
    ],
)
def test_what_is_expected_of_a_method(
    method: str, observed: tuple[int, ...], weights: tuple[int, ...], holds: bool
) -> None:
    """The weights, as far as the method heeds them, and those under way that it cannot count yet."""
    assert measurements.expectation(measured(method, *observed, weights=weights))[1] is holds


@pytest.mark.root
def test_comparison_goes_through_all_methods_and_restores_the_balancer(farm: Lab) -> None:
    """Six cases; the balancer runs by the Lab's own configuration again."""
    result = traffic.compare(farm, "red", weights=[1, 4], requests=50, concurrency=5)
    assert failed(result.checks) == ()
    assert [case.name for case in result.value.cases] == [
        "byrequests 1:1", "bytraffic 1:1", "bybusyness 1:1",
        "byrequests 1:4", "bytraffic 1:4", "bybusyness 1:4",
    ]  # fmt: skip
    exact = result.value.cases[3].measurement
    assert [part.observed for part in exact.shares] == [10, 40]
    assert balancer.up(farm).changed is False


@pytest.mark.root
def test_comparison_that_fails_restores_the_balancer(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error in the middle leaves the Lab's own configuration behind."""

    def broken(lab: Lab, *_: object) -> None:
        raise FarmError(lab.proxy.lbmethod, "stopped here")

    monkeypatch.setattr(distribution, "measure", broken)
    with pytest.raises(FarmError, match="stopped here"):
        traffic.compare(farm, "red")
    assert balancer.up(farm).changed is False


@pytest.mark.root
def test_weights_that_do_not_fit_change_nothing(farm: Lab) -> None:
    """Three weights for two replicas are refused before the balancer is touched."""
    before = balancer_server.server(farm).config.read_text()
    with pytest.raises(ConfigError, match="2 replicas and 3 weights"):
        traffic.compare(farm, "red", weights=[1, 2, 3])
    assert balancer_server.server(farm).config.read_text() == before


@pytest.mark.root
def test_reload_loses_no_request(restored: Lab) -> None:
    """Requests go on being answered while the balancer takes over new configurations."""
    load = Load(restored, fetch.target(restored, "red"), "reload", concurrency=4, pace=0.002)
    with failover.running(load):
        for method in ("bytraffic", "byrequests", "bytraffic"):
            balanced(restored, proxy={"lbmethod": method})
    assert len(load.sent) > 50
    assert [item for item in load.sent if item.failed] == []


@pytest.mark.root
@pytest.mark.parametrize("how", ["kill", "drain"])
def test_stopped_replica_is_left_out_and_comes_back(farm: Lab, how: str) -> None:
    """The other replica serves meanwhile; the stopped one is in the balancer again afterwards."""
    result = (failover.kill if how == "kill" else failover.drain)(farm, "red-2")
    assert failed(result.checks) == ()
    value = result.value
    assert value.out is not None
    assert value.back is not None
    assert value.stopped <= value.out <= value.started <= value.back
    assert balancer_server.worker(farm, farm.replica("red-2")).usable
    rows = result.table(f"timeline-{how}-red-2").frame()
    down = rows[(rows["time"] > value.out + 0.1) & (rows["time"] < value.started - 0.1)]
    assert down["red-2"].sum() == 0
    assert down["red-1"].sum() > 0
    assert rows["failed"].sum() == value.failed


@pytest.mark.root
def test_a_request_with_a_body_is_never_sent_again(farm: Lab, tmp_path: Path) -> None:
    """A POST that is lost while its body is on the way is answered with an error, once; with no redirection, which
    curl would follow with a GET."""
    body = tmp_path / "body"
    body.write_bytes(bytes(4_000_000))
    words = [
        "curl", "--disable", "--silent", "--location", "--limit-rate", "1M", "--data-binary", f"@{body}",
        "--header", f"Host: {farm.host_name('red')}", "--output", tmp_path / "page",
        "--write-out", "%{http_code} %{num_redirects}", f"http://{farm.gateway.ip}/",
    ]  # fmt: skip
    replicas = farm.replicas_of("red")
    with ThreadPoolExecutor(1) as pool:
        said = pool.submit(run.run, words, netns=farm.netns)
        time.sleep(1.5)  # of the four seconds that the body takes
        for replica in replicas:
            container.kill(farm, replica)
        answer = said.result().stdout
    for replica in replicas:
        container.start(farm, replica)
    until(lambda: all(balancer_server.worker(farm, replica).usable for replica in replicas))
    assert answer.split() in (["502", "0"], ["503", "0"])


@pytest.mark.root
def test_failed_exercise_starts_the_replica_again(
    farm: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the exercise itself breaks, the replica runs afterwards, and its own error is told."""

    def lost(*_: object) -> None:
        raise FarmError("the balancer", "was lost from sight")

    monkeypatch.setattr(failover.balancer_server, "worker", lost)
    with pytest.raises(FarmError, match="lost from sight"):
        failover.kill(farm, "blue-1")
    assert answers.problem(farm, farm.replica("blue-1")) is None
    monkeypatch.undo()
    until(lambda: balancer_server.worker(farm, farm.replica("blue-1")).usable)


@pytest.mark.root
def test_dead_replica_shows_in_the_balancers_checks(farm: Lab) -> None:
    """While a replica is down its worker's check fails, and its site is served by the other one."""
    replica = farm.replica("blue-2")
    container.kill(farm, replica)
    try:
        send(farm, "blue", 10, 2)
        broken = {check.name for check in failed(balancer.checks(farm))}
        served = {fetch.reach(farm, fetch.target(farm, "blue")).replica for _ in range(4)}
    finally:
        container.start(farm, replica)
        until(lambda: balancer_server.worker(farm, replica).usable)
    assert broken == {"proxy.worker.blue-2"}
    assert served == {"blue-1"}


@pytest.mark.root
def test_balancer_manager_is_for_the_host_alone(farm: Lab) -> None:
    """From a container of the farm the balancer, and so its page of workers, cannot be reached."""
    there = fetch.front(farm, "red")
    inside = farm.model_copy(
        update={"host": farm.host.model_copy(update={"netns": farm.replica("red-1").netns})}
    )
    with pytest.raises(FarmError, match="Connection refused"):
        fetch.reach(inside, there, "/balancer-manager", reserved=True)
    assert fetch.reach(farm, there, "/balancer-manager", reserved=True).status == 200


@pytest.mark.root
def test_no_other_user_of_the_host_takes_a_worker_out(farm: Lab) -> None:
    """By curl: root may, from a port below 1024, and another user neither from such a port nor from any other."""
    there, page = fetch.front(farm, "red"), farm.url("red", "/balancer-manager")
    members = balancer_server.members(farm, "red")
    form = f"b=red&w={members.workers[0].url}&nonce={members.nonce}&w_status_D=1"
    ask = ["curl", "--disable", "--noproxy", "*", "--silent", "--referer", page, "--data", form,
           "--resolve", f"{there.host}:{there.port}:{there.address}", "--write-out", "%{http_code}"]  # fmt: skip
    ports = balancer_config.FROM_RESERVED.split()
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    for words in ([*nobody, *ask, page], [*nobody, *ask, *ports, page], [*ask, page]):
        said = run.run(words, netns=farm.netns, ok=range(256)).stdout
        assert said.endswith("403") or said == "000", said
        assert not balancer_server.withdrawn(farm)
    assert run.run([*ask, *ports, page], netns=farm.netns).stdout.endswith("200")
    assert balancer_server.withdrawn(farm)
    assert balancer_server.restore(farm)


@pytest.mark.root
def test_wrk_measures_direct_and_balanced(farm: Lab) -> None:
    """Both paths answer without an error; the first replica stands for the direct one."""
    result = bench.compare(farm, "red", connections=8)
    assert failed(result.checks) == ()
    assert [row[0] for row in result.tables[0].rows] == ["red-1", "red"]
    assert result.value.direct.rate > 0
    assert result.value.balanced.p50 <= result.value.balanced.p99


@pytest.mark.root
@pytest.mark.parametrize("act", [send, bench.compare, traffic.stay])
def test_balancer_that_is_down_is_told(lab: Lab, act: object) -> None:
    """With names but without a balancer there is one error that says who does not answer."""
    dns.up(give_address(lab))
    with pytest.raises(FarmError, match="does not answer: Connection refused"):
        act(lab, "site1")  # type: ignore[operator]


@pytest.mark.root
def test_without_names_there_is_no_traffic(lab: Lab) -> None:
    """Without the name server no site has an address."""
    give_address(lab)
    with pytest.raises(FarmError, match="does not answer"):
        send(lab, "site1")


@pytest.mark.parametrize(
    ("requests", "concurrency", "named"),
    [
        (0, 1, "requests = 0"),
        (100_001, 1, "requests"),
        (5, 65, "concurrency"),
        (5, 0, "concurrency"),
    ],
)
def test_numbers_out_of_range_are_refused(requests: int, concurrency: int, named: str) -> None:
    """The error names the number; nothing was asked."""
    with pytest.raises(ConfigError, match=named):
        send(Lab.of({}), "site1", requests, concurrency)


@pytest.fixture(scope="module")
def alone() -> Iterator[Lab]:
    """One site on one replica."""
    with standing(sites=["lone"], replicas=1, seconds=1.0, requests=60) as lab:
        yield lab


@pytest.mark.root
@pytest.mark.parametrize("how", ["kill", "drain"])
def test_stop_of_the_only_replica_is_an_outage_that_is_measured(alone: Lab, how: str) -> None:
    """Nobody takes over: requests fail between the stop and the return, and the result says so."""
    result = (failover.kill if how == "kill" else failover.drain)(alone)
    assert failed(result.checks) == ()
    assert {check.name.rpartition(".")[2] for check in result.checks} == {
        "outage", "refused", "out", "back",
    }  # fmt: skip
    value = result.value
    assert (value.replica, value.others) == ("lone-1", 0)
    assert 0 < value.refused <= value.failed < value.requests
    assert value.seconds_down > 0
    assert result.summary.startswith("lone has no other replica than lone-1, so nobody could take")
    assert balancer_server.worker(alone, alone.farm[0]).usable


@pytest.mark.root
def test_one_replica_is_told_to_show_no_balancing(alone: Lab) -> None:
    """All that can be measured holds, each method once; the one check that fails says what the lab does not show."""
    result = traffic.survey(alone)
    assert [check.name for check in failed(result.checks)] == ["balance.several"]
    assert "nothing to divide, with one replica: lone" in result.summary
    assert result.table("shares").rows == (("lone", "lone-1", 1, 60, 60.0, None),)
    compared = traffic.compare(alone)
    assert failed(compared.checks) == ()
    assert [case.name for case in compared.value.cases] == [f"{name} 1" for name in METHODS]
    assert "lone has one replica, which no method or weight changes" in compared.summary
    assert traffic.stay(alone).summary.endswith("lone-1 20, as there is no other.")


@pytest.mark.parametrize(
    ("sites", "chosen"),
    [
        (["a", "b"], "a"),
        ([{"name": "a", "replicas": 1}, {"name": "b", "replicas": 2}], "b"),
        ([{"name": "a", "replicas": 1}, {"name": "b", "replicas": 1}], "a"),
    ],
)
def test_balancing_is_shown_where_there_is_some(sites: list[object], chosen: str) -> None:
    """The first site with several replicas is the one; where none has, the first."""
    assert measurements.shared(Lab.of({"sites": sites})) == chosen
