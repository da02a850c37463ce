"""Bad input, each kind of it by the real command: what is said, how it exits, and that nothing was changed."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run, undo
from labkit.core.journal import Journal
from labkit.core.run import Done
from labkit.errors import ConfigError, LabkitError, MachineError
from labkit.farm import traffic
from labkit.farm.containers import lifecycle
from labkit.farm.images import layout as image
from labkit.farm.network import host
from labkit.kernel.netns import inside
from labkit.report.stages import signing
from labkit.wiki.client.session import origin
from tests.archives import Mirror
from tests.breakages import on_overlay
from tests.conftest import CACHE, free_port
from tests.host_side import give_address
from tests.projects import ROOT, Listing, Project, files, listing, project
from tests.test_host import add_link
from tests.test_lists import SUITE, mirror
from tests.test_standing import inventory

__all__ = ["mirror"]  # a fixture of that module

#: Runs the command as somebody who may read everything and change nothing.
NOBODY = (
    "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
    "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "--",
)  # fmt: skip


def refused(done: Done, *said: str) -> bool:
    """Whether a command was refused as it should be: status 1, the error on standard error alone, with a
    remedy, and without a word about Python."""
    assert done.status == 1, done
    assert done.stderr.startswith("labkit: ")
    assert "\n  remedy: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "a fault in labkit" not in done.stderr
    assert not done.stdout
    for words in said:
        assert words in done.stderr
    return True


# -- notebooks and their parameters (what lab.toml says: test_catalogue.py) ------------------------------


def test_a_notebook_that_is_none_is_not_run(tmp_path: Path) -> None:
    """One that was cut short, and one whose parameters are no Python, are told from one that is missing."""
    own = project(tmp_path)
    source = json.loads((ROOT / "notebooks" / "04-network.ipynb").read_text())
    (tmp_path / "notebooks").unlink()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    file = folder / "04-network.ipynb"
    assert refused(own.labkit("run", "04-network"), str(file), "there is no notebook here")
    file.write_text(json.dumps(source)[:500])
    assert refused(own.labkit("run", "04-network"), str(file), "is damaged", "git restore")
    (tagged,) = (c for c in source["cells"] if "parameters" in c["metadata"].get("tags", ()))
    tagged["source"] = "replicas: Optional[int] = = 3"
    file.write_text(json.dumps(source))
    assert refused(own.labkit("run", "04-network"), "is not valid Python", "in line 1: replicas:")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab", "lab.toml", "notebooks"]


NUMBERS = {
    "no instances": (lambda lab: lifecycle.instances(lab, 0), "instances = 0", "from 1 to 60"),
    "too many": (lambda lab: lifecycle.instances(lab, 1_000_000), "instances = 1000000", "from 1 to 60"),
    "no number": (lambda lab: lifecycle.instances(lab, "six"), "instances = 'six'", "from 1 to 60"),
    "half a minute": (lambda lab: lifecycle.instances(lab, 6, 0.5), "minutes = 0.5", "from 1 to 60"),
    "one weight": (lambda lab: traffic.compare(lab, "site1", weights=[3]), "sites", "one weight for each replica"),
    "no list": (lambda lab: traffic.compare(lab, "site1", weights=3), "weights = 3", "is not a list of numbers"),
    "no weight": (lambda lab: traffic.compare(lab, "site1", weights=[3, 0]), "sites.0.weights.1 = 0", "greater than"),
    "no site": (lambda lab: traffic.compare(lab, "site", weights=[3, 1]), "'site'", "did you mean 'site"),
}  # fmt: skip


@pytest.fixture
def own(open_folder: Path) -> Project:
    """A project that every account may enter."""
    return project(open_folder)


@pytest.mark.parametrize("case", NUMBERS)
def test_a_wrong_parameter_of_a_notebook_s_own_is_refused_first(tmp_path: Path, case: str) -> None:
    """Before anything of the farm is looked at: there is none."""
    act, value, said = NUMBERS[case]
    lab = project(tmp_path).lab
    with pytest.raises(ConfigError) as caught:
        act(lab)
    assert caught.value.value.startswith(value)
    assert said in str(caught.value)
    assert caught.value.remedy
    assert listing(lab.state_dir, lab.run_dir) == {}


# -- what the machine says, by the real notebooks ------------------------------------------------------


def seen(lab: Lab) -> tuple[Listing, dict[str, list[str]]]:
    """The files in the lab's own folders, but for the memory of the rebuild and the key, and what the machine has of it."""
    own = (lab.cache_dir,) if lab.cache != CACHE else ()
    found = files(listing(lab.state_dir, lab.run_dir, *own))
    for name in ("rebuild.json", signing.KEY, signing.PUBLIC):  # a failed run's record is signed
        found.pop(str(lab.state_dir / name), None)
    found.pop(str(lab.journal_file), None)  # what stands by it is in the inventory
    return found, inventory(lab)


@pytest.mark.root
def test_a_notebook_that_the_machine_refuses(own: Project) -> None:
    """A misspelt parameter, of which papermill itself only warns, is refused by the notebook's first cell. The record of
    a stage's run says value, reason and remedy. The exit status is 1, and nothing was made."""
    before = seen(own.lab)
    argv = [sys.executable, "-m", "papermill", ROOT / "notebooks/04-network.ipynb", own.folder / "done.ipynb",
            "-p", "replcas", "3", "--no-progress-bar"]  # fmt: skip
    env = {"LABKIT_FILE": str(own.file), "PYTHONPATH": str(ROOT)}
    done = run.run(argv, env=env, cwd=own.folder, ok=(1,), timeout=120)
    assert "'replcas': is not a parameter of this notebook" in done.stderr
    assert "did you mean 'replicas'" in done.stderr
    assert seen(own.lab) == before
    try:
        host.up(own.lab)
        add_link(own.lab.netns, "other7", "10.60.0.9/24")
        before = seen(own.lab)
        done = own.labkit("run", "04-network", "--json")
        (stage,) = json.loads(done.stdout)["value"]["stages"]
        assert (done.status, stage["state"]) == (1, "failed")
        for words in (
            "MachineError: network.subnet = 10.60.0.0/24", "already routes 10.60.0.0/24 through interface other7",
            "set network.subnet",
        ):  # fmt: skip
            assert words in "; ".join(stage["reasons"])
        assert seen(own.lab) == before
    finally:
        assert not undo.unmake_all(own.lab)[1]


@pytest.mark.root
@pytest.mark.parametrize(
    ("suite", "error", "said"),
    [
        ("", MachineError, r"(?s)the mirror http://127\.0\.0\.1:\d+/debian: does not answer: .*Connection refused.*set rootfs\.mirror"),
        (f"{SUITE}x", ConfigError, rf"(?s)rootfs\.suite = '{SUITE}x': the lab's own mirror has no such suite.*it has {SUITE}"),
    ],
    ids=["silent mirror", "unknown suite"],
)  # fmt: skip
def test_a_mirror_that_cannot_serve_leaves_nothing(
    tmp_path: Path, mirror: Mirror, suite: str, error: type[LabkitError], said: str
) -> None:
    """Neither in the cache nor in the lab's folders, where an image was to be built."""
    address = mirror.address if suite else f"http://127.0.0.1:{free_port()}/debian"
    keys = {"cache": f"{tmp_path}/cache", "rootfs.mirror": address, "rootfs.suite": suite}
    lab = project(tmp_path, **keys).lab
    with pytest.raises(error) as caught:
        image.build(lab)
    assert re.match(said, str(caught.value))
    assert listing(lab.state_dir, lab.run_dir, lab.cache_dir) == {}


# -- a machine that lacks something --------------------------------------------------------------------


@pytest.mark.root
@pytest.mark.parametrize("whose", [0, 65534], ids=["root's outputs", "outputs of one's own"])
@pytest.mark.parametrize("command", ["rebuild", "down"])
def test_who_is_not_root_changes_nothing(own: Project, command: str, whose: int) -> None:
    """The file that could not be written, who asked, and sudo; all that is left is a log in one's own outputs."""
    lab = own.lab
    Journal.of(lab).intend("netns", name=lab.host.netns)  # what `down` would act on
    lab.output_dir.mkdir(parents=True)
    os.chown(lab.output_dir, whose, whose)
    before = listing(own.folder)
    done = own.labkit(command, before=NOBODY)
    assert refused(done, "cannot be changed by user 65534: provisioning needs root", "sudo")
    after = listing(own.folder)
    log = after.pop(str(lab.output_dir / "labkit.log"), None)
    assert (log is None) is (whose == 0)
    assert files(after) == files(before)
    Journal.of(lab).forget("netns", name=lab.host.netns)


# -- ports, and the wiki ---------------------------------------------------------------------------------


@pytest.mark.root
def test_all_that_keeps_a_machine_from_running_the_lab_is_told_at_once(
    own: Project, mirror: Mirror
) -> None:
    """Ports with the process that has them, the mirror, the suite, a file system that no overlay can stand on: by the
    command, which changes nothing."""
    lab = own.lab
    with on_overlay(own):
        said = blockers(own)["doctor.overlayfs"]["seen"]
        assert f"cannot be mounted at {own.folder / 'state'}" in said
    host.up(lab)
    give_address(lab)
    before = seen(lab)
    silent = f"http://127.0.0.1:{free_port()}/debian"
    with inside(lab.netns, listener, lab, 80), inside(lab.netns, listener, lab, 53):
        found = blockers(own, "-p", "mirror", silent)
    me = f"(process {os.getpid()})"
    assert me in found["doctor.ports.proxy"]["seen"]
    assert me in found["doctor.ports.dns"]["seen"]
    assert "end that process" in found["doctor.ports.dns"]["remedy"]
    assert f"the mirror {silent}: does not answer" in found["doctor.mirror"]["seen"]
    wrong = blockers(own, "-p", "mirror", mirror.address, "-p", "suite", f"{SUITE}x")[
        "doctor.mirror"
    ]
    assert f"rootfs.suite = '{SUITE}x'" in wrong["seen"]
    assert f"it has {SUITE}" in wrong["remedy"]
    assert seen(lab) == before
    assert not undo.unmake_all(lab)[1]


def blockers(own: Project, *words: str) -> dict[str, dict[str, str]]:
    """What the command says keeps the lab from running, by the checks."""
    done = own.labkit("doctor", "--json", *words)
    assert done.status == 1
    return {item["check"]: item for item in json.loads(done.stdout)["value"]["blockers"]}


def listener(lab: Lab, port: int) -> socket.socket:
    """A listener on the bridge's address."""
    return socket.create_server((str(lab.gateway.ip), port))


@pytest.mark.root
def test_an_existing_wiki_that_lets_nobody_in(own: Project, wiki_lab: Lab) -> None:
    """Without a password: the variables that are missing, and where their content is made. With a wrong one: the
    account and the variables to correct, the password nowhere."""
    # a page that no other test has written: for one that is as it should be nobody logs in
    own.file.write_text(own.file.read_text() + 'wiki.page = "Unwritten"\n')
    address, password = f"{origin(wiki_lab)}/w/api.php", secrets.token_hex(16)
    done = own.labkit("publish", "-p", "wiki_url", address)
    assert refused(done, "no LABKIT_WIKI_USER and no LABKIT_WIKI_PASSWORD", "Special:BotPasswords")
    assert listing(own.lab.state_dir, own.lab.run_dir) == {}
    env = {"LABKIT_WIKI_USER": "Labkit@publish", "LABKIT_WIKI_PASSWORD": password}
    done = own.labkit("publish", "-p", "wiki_url", address, **env)
    assert refused(done, f"Labkit@publish at {address}", "refuses the bot password", "LABKIT_WIKI_")
    assert password not in done.stderr
    assert all(password.encode() not in Path(p).read_bytes() for p in files(listing(own.folder)))


# -- nothing to take down --------------------------------------------------------------------------------


def test_down_when_nothing_is_up(tmp_path: Path) -> None:
    """It says so, exits with 0, and leaves nothing of having been asked; a second time, too."""
    own = project(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for _ in range(2):
        done = own.labkit("down", "--json")
        record = json.loads(done.stdout)
        assert (done.status, record["changed"], record["value"]["unmade"]) == (0, False, 0)
        assert "nothing was up" in record["summary"]
    assert sorted(tmp_path.rglob("*")) == before
