"""Access logs: bounded by rotatelogs, without the health checks, and read whole from their parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab, run
from labkit.checks import failed
from labkit.farm import container, proxy, traffic
from labkit.farm.balancer import accesslog, workers
from labkit.farm.measuring import fetch
from labkit.farm.site import HEALTH_QUERY
from tests.waiting import until
from tests.whole_farm import standing


def test_lines_are_read_from_all_parts(tmp_path: Path) -> None:
    """Whichever part is written now, each whole line with the trace is found, and no other."""
    log = tmp_path / "access.log"
    assert list(accesslog.lines(log)) == []
    log.write_text("a 1\nb 1\n")
    (tmp_path / "access.log.2").write_text("a 2\na is being writ")
    (tmp_path / "access.log.gz").write_text("a 3\n")
    assert list(accesslog.lines(log, "a ")) == ["a 1\n", "a 2\n"]


def test_path_with_a_space_is_one_argument(tmp_path: Path) -> None:
    """Apache starts rotatelogs without a shell; a folder's name does not end its argument."""
    log = tmp_path / "a b" / "access.log"
    log.parent.mkdir()
    assert accesslog.rotated(str(log)) == f"\"|/usr/bin/rotatelogs -n 5 '{log}' 10M\""
    assert accesslog.cut(str(log)) == f"\"|/usr/bin/rotatelogs -t '{log}' 1M\""


def test_rotated_log_stays_within_its_bound(tmp_path: Path) -> None:
    """Many times the bound is written: the newest lines are kept, and no more than the parts hold."""
    log = tmp_path / "access.log"
    words = [accesslog.PROGRAM, "-n", str(accesslog.PARTS), log, "2K"]
    run.run(words, stdin="".join(f"line {number}\n" for number in range(50_000)))
    sizes = [path.stat().st_size for path in accesslog.parts(log)]
    assert len(sizes) == accesslog.PARTS
    assert max(sizes) <= 2048 + 65536  # it reads so much at a time
    assert len(list(tmp_path.iterdir())) == accesslog.PARTS
    assert "line 49999\n" in list(accesslog.lines(log))


@pytest.fixture(scope="module")
def farm() -> Iterator[Lab]:
    """One replica and the balancer, whose logs are full after about a hundred requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accesslog, "SIZE", "20K")
        with standing(sites=["lone"], replicas=1) as lab:
            yield lab


@pytest.mark.root
def test_counts_agree_across_the_parts(farm: Lab) -> None:
    """A measurement that fills several parts is found again request by request, in both logs."""
    result = traffic.send(farm, "lone", 300, 4)
    assert failed(result.checks) == ()
    for log in (container.access_log(farm, farm.farm[0]), proxy.logs(farm) / "access.log"):
        assert len(accesslog.parts(log)) > 2


@pytest.mark.root
def test_logs_of_replica_and_balancer_are_bounded(farm: Lab) -> None:
    """However many requests there are, the logs hold their parts and no more."""
    for _ in range(4):
        traffic.send(farm, "lone", 300, 4)
    for log in (container.access_log(farm, farm.farm[0]), proxy.logs(farm) / "access.log"):
        assert len(accesslog.parts(log)) == accesslog.PARTS
        assert sum(path.stat().st_size for path in accesslog.parts(log)) < 2 * 5 * 20 * 1024


@pytest.mark.root
def test_health_checks_are_not_logged(farm: Lab) -> None:
    """The balancer finds by its checks alone that a replica is gone and back, and the replica's log
    has none of them; a person's HEAD request is in it."""
    (replica,) = farm.farm
    container.kill(farm, replica)
    until(lambda: "HcFl" in workers.worker(farm, replica).status)
    container.start(farm, replica)
    until(lambda: workers.worker(farm, replica).usable)
    fetch.fetch(farm, "lone-1", headers={"X-Labkit-Trace": "last"})
    log = container.access_log(farm, replica)
    until(lambda: list(accesslog.lines(log, '"last"')))
    assert not list(accesslog.lines(log, HEALTH_QUERY))
    address = f"http://{replica.address}/"
    run.run(["curl", "--silent", "--head", address], netns=farm.netns)
    until(lambda: list(accesslog.lines(log, '"HEAD / ')))
