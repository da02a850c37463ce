"""Down by the journal alone, whatever has become of the lab's description, its processes or the journal itself."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import daemon, run
from labkit.core.journal import Journal
from labkit.errors import StateError
from labkit.farm.containers import runc
from labkit.farm.reconcile import up
from labkit.farm.services import balancer_server, dns_server
from labkit.report import status
from tests.test_standing import nothing, sleeper_in
from tests.whole_farm import standing as whole_farm

LABKIT = Path(sys.executable).with_name("labkit")


@pytest.fixture
def farm() -> Iterator[Lab]:
    """A site on one replica, its names and its balancer, up."""
    with whole_farm(sites=["red"], replicas=1) as lab:
        yield lab


def described_otherwise(lab: Lab) -> Lab:
    """The lab after its file was edited: other sites, another subnet, other ports."""
    changed = {"sites": ["green", "blue"], "subnet": "10.77.0.0/24", "proxy_port": 8088}
    same = {"lab_name": lab.name, "netns": lab.host.netns, "state": lab.state, "run": lab.run}
    return Lab.load(None, **{**same, "cache": lab.cache, "outputs": lab.outputs, **changed})


def lines(lab: Lab) -> list[str]:
    """The journal's lines."""
    return lab.journal_file.read_text().splitlines(keepends=True)


@pytest.mark.root
def test_an_edited_description_and_a_torn_last_line_change_nothing(farm: Lab) -> None:
    """Everything that was made is unmade; what the file says now has no part in it, and what the torn line was about
    was not made."""
    text = farm.journal_file.read_text()
    last = text.splitlines()[-1]
    farm.journal_file.write_text(f"{text}{last[: len(last) // 2]}")
    result = status.down(described_otherwise(farm))
    assert result.holds, result.value.failed
    assert nothing(farm)


@pytest.mark.root
def test_without_its_file_a_lab_is_known_by_its_name(farm: Lab, tmp_path: Path) -> None:
    """``labkit down`` where no lab.toml is any more."""
    given = [f"--set={key}={value}" for key, value in (
        ("state", farm.state), ("run", farm.run), ("outputs", farm.outputs), ("cache", farm.cache),
    )]  # fmt: skip
    words = [LABKIT, "down", "--lab-name", farm.name, "--netns", farm.host.netns, *given]
    done = run.run(words, cwd=tmp_path)
    assert "things were unmade" in done.stdout
    assert nothing(farm)


@pytest.mark.root
def test_what_is_dead_or_busy_is_no_error(farm: Lab) -> None:
    """Daemons and a container that somebody has ended; a mount in which somebody's shell has its folder is detached."""
    pids = [daemon.pid(dns_server.server(farm)), daemon.pid(balancer_server.server(farm))]
    pids += [state.pid for state in runc.states(farm).values()]
    for pid in pids:
        assert pid
        os.kill(pid, signal.SIGKILL)
    with sleeper_in(runc.bundle(farm, "red-1") / "rootfs" / "etc") as pid:
        result = status.down(farm)
        assert Path("/proc", str(pid)).exists()
        os.kill(pid, signal.SIGKILL)
    assert result.holds, result.value.failed
    assert nothing(farm)


@pytest.mark.root
def test_after_a_reboot_folders_are_all_that_is_left(farm: Lab) -> None:
    """Entries of another boot: what that boot had ended is not looked for, its folders are removed."""
    kept = farm.journal_file.read_text()
    folders = [Path(e.what["path"]) for e in Journal.of(farm).standing() if e.kind == "folder"]
    assert status.down(farm).holds
    for folder in folders:
        (folder / "x").mkdir(parents=True)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    farm.journal_file.write_text(kept.replace(boot, "0" * len(boot)))
    result = status.down(farm)
    assert result.holds, result.value.failed
    assert not any(folder.exists() for folder in folders)
    assert not farm.journal_file.exists()
    assert up.replicas(farm).holds


@pytest.mark.root
@pytest.mark.parametrize("line", ["\0\0\0\0\n", "null\n", '{"seq": 5}\n'])
def test_a_line_that_cannot_be_read_keeps_nothing_else(farm: Lab, line: str) -> None:
    """What the others say is unmade; the line is told, with its number, until somebody removes it, and nothing
    new is made meanwhile."""
    whole = lines(farm)
    place = next(n for n, text in enumerate(whole) if '"kind": "mount"' in text)
    farm.journal_file.write_text("".join([*whole[:place], line, *whole[place:]]))
    for _ in range(2):
        result = status.down(farm)
        assert not result.holds
        assert f"{farm.journal_file}, line {place + 1} is no entry" in result.value.failed[0]
    with pytest.raises(StateError, match=f"line {place + 1}"):
        up.replicas(farm)
    rest = [text for text in lines(farm) if text not in line]
    farm.journal_file.write_text("".join(rest))
    assert status.down(farm).holds
    assert nothing(farm)
