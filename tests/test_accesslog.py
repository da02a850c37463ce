"""Access logs: the balancer's, bounded by rotatelogs and read whole from its parts; the replicas', bounded by the
kernel; without the health checks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import accesslog, run
from labkit.farm.containers import container, written
from labkit.farm.services import balancer_config, balancer_server, fetch
from labkit.kernel.netns import inside
from labkit.model.sites import HEALTH_QUERY
from tests.waiting import until
from tests.whole_farm import send, standing


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
    """One replica and the balancer, whose logs are full after about a hundred requests, and its own after thousands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accesslog, "SIZE", "20K")
        with standing(sites=["lone"], replicas=1, written_mib=1) as lab:
            yield lab


@pytest.mark.root
def test_the_balancer_s_log_is_bounded(farm: Lab) -> None:
    """However many requests there are, it holds its parts and no more. A measurement that fills several parts is found
    again request by request, in both logs."""
    log = balancer_config.logs(farm) / "access.log"
    for number in range(5):
        result = send(farm, "lone", 300, 4)
        if not number:
            assert failed(result.checks) == ()
            assert len(accesslog.parts(log)) > 2
    assert len(accesslog.parts(log)) == accesslog.PARTS
    assert sum(path.stat().st_size for path in accesslog.parts(log)) < 2 * 5 * 20 * 1024


def refused(lab: Lab, count: int) -> None:
    """Requests that the replica refuses, each a line in both of its logs; every one is answered."""
    address = str(lab.farm[0].address)
    line = f"GET /.htaccess HTTP/1.1\r\nHost: {lab.host_name('lone-1')}\r\n\r\n".encode()
    with socket.create_connection((address, 80), timeout=20) as channel:
        channel.sendall(line * count)
        answered = b""
        while answered.count(b"HTTP/1.1 403") < count:
            data = channel.recv(1 << 20)
            assert data
            answered += data


@pytest.mark.root
def test_a_replica_s_logs_end_where_it_may_write_no_more(farm: Lab) -> None:
    """Full logs are no harm to who asks; with room in them again, a measurement finds all of its requests."""
    for _ in range(60):
        if written.is_full(farm, "lone-1"):
            break
        inside(farm.netns, refused, farm, 100)
    assert written.is_full(farm, "lone-1")
    inside(farm.netns, refused, farm, 100)
    logs_of = [written.log(farm, "lone-1", kind) for kind in ("access", "error")]
    assert 900_000 < sum(log.stat().st_size for log in logs_of) <= 2**20
    assert next(written.lines(logs_of[0]))
    assert failed(send(farm, "lone", 100, 4).checks) == ()
    assert all(log.stat().st_size < 40_000 for log in logs_of)


def test_what_is_no_plain_file_is_no_log(tmp_path: Path) -> None:
    """A container's folder is its own: a link there leads the host nowhere, and a pipe does not make it wait."""
    lab = Lab.of({"state": str(tmp_path)})
    error = written.log(lab, "red-1", "error")
    error.parent.mkdir(parents=True)
    kept = tmp_path / "kept"
    kept.write_text("of the machine\n" * 4_000_000)
    error.symlink_to(kept)
    access = written.log(lab, "red-1", "access")
    os.mkfifo(access)
    written.empty_large_logs(lab, "red-1")
    assert kept.stat().st_size == 60_000_000
    for log in (error, access, access.with_name("none.log"), access.parent):
        assert (list(written.lines(log)), written.end(log)) == ([], "")
    error.unlink()
    kept.rename(error)
    assert written.end(error, 20) == "chine\nof the machine"
    written.empty_large_logs(lab, "red-1")
    assert error.read_text() == ""


@pytest.mark.root
def test_health_checks_are_not_logged(farm: Lab) -> None:
    """The balancer finds by its checks alone that a replica is gone and back, and the replica's log
    has none of them; a person's HEAD request is in it."""
    (replica,) = farm.farm
    container.kill(farm, replica)
    until(lambda: "HcFl" in balancer_server.worker(farm, replica).status)
    container.start(farm, replica)
    until(lambda: balancer_server.worker(farm, replica).usable)
    fetch.reach(farm, fetch.target(farm, "lone-1"), headers={"X-Labkit-Trace": "last"})
    log = written.log(farm, replica.name, "access")
    until(lambda: list(accesslog.lines(log, '"last"')))
    assert not list(accesslog.lines(log, HEALTH_QUERY))
    address = f"http://{replica.address}/"
    run.run(["curl", "--silent", "--head", address], netns=farm.netns)
    until(lambda: list(accesslog.lines(log, '"HEAD / ')))
