"""Bad input, each kind of it by the real command: what is said, how it exits, and that nothing was changed."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from labkit.farm.network.netns import inside
from labkit.report.stages import signing
from labkit.wiki.client.session import origin
from tests.archives import Mirror
from tests.conftest import CACHE, free_port, open_place
from tests.host_side import give_address
from tests.projects import ROOT, Listing, Project, files, listing, project
from tests.test_host import add_link
from tests.test_lists import SUITE, mirror
from tests.test_standing import inventory, nothing

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
    assert "a fault of labkit" not in done.stderr
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
    assert refused(own.labkit("run", "04-network"), "is no Python", "in line 1: replicas:")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab", "lab.toml", "notebooks"]


NUMBERS = {
    "no instances": (lambda lab: lifecycle.instances(lab, 0), "instances = 0", "from 1 to 60"),
    "too many": (lambda lab: lifecycle.instances(lab, 1_000_000), "instances = 1000000", "from 1 to 60"),
    "no number": (lambda lab: lifecycle.instances(lab, "six"), "instances = 'six'", "from 1 to 60"),
    "half a minute": (lambda lab: lifecycle.instances(lab, 6, 0.5), "minutes = 0.5", "from 1 to 60"),
    "one weight": (lambda lab: traffic.compare(lab, "site1", weights=[3]), "sites", "one weight for each replica"),
    "no list": (lambda lab: traffic.compare(lab, "site1", weights=3), "weights = 3", "is no list of numbers"),
    "no weight": (lambda lab: traffic.compare(lab, "site1", weights=[3, 0]), "sites.0.weights.1 = 0", "greater than"),
    "no site": (lambda lab: traffic.compare(lab, "site", weights=[3, 1]), "'site'", "did you mean 'site"),
}  # fmt: skip


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


def by_papermill(own: Project) -> Done:
    """A misspelt parameter, of which papermill itself only warns."""
    argv = [sys.executable, "-m", "papermill", ROOT / "notebooks/04-network.ipynb", own.folder / "done.ipynb",
            "-p", "replcas", "3", "--no-progress-bar"]  # fmt: skip
    env = {"LABKIT_FILE": str(own.file), "PYTHONPATH": str(ROOT)}
    return run.run(argv, env=env, cwd=own.folder, ok=range(256), timeout=120)


def of_stage(stage: str, *words: str) -> Callable[[Project], Done]:
    """A stage by the command, which tells the record of its run."""
    return lambda own: own.labkit("run", stage, "--json", *words)


@dataclass(frozen=True)
class Refusal:
    """A stage that had to fail: what its command said; before it and after it, what lay in the lab's
    folders and what the machine had of the lab."""

    done: Done
    before: tuple[Listing, dict[str, list[str]]]
    after: tuple[Listing, dict[str, list[str]]]

    @property
    def reasons(self) -> str:
        """Why the stage failed, by the command's record."""
        (stage,) = json.loads(self.done.stdout)["value"]["stages"]
        assert stage["state"] == "failed"
        return "; ".join(stage["reasons"])


@pytest.fixture(scope="module")
def refusals() -> Iterator[dict[str, Refusal]]:
    """Real notebooks, each in a project of its own in which it must fail; two at a time."""
    with open_place() as place, tmpfs(place / "small"):
        cases: dict[str, tuple[Callable[[Project], Done], dict[str, object]]] = {
            "parameter": (by_papermill, {}),
            "subnet": (of_stage("04-network"), {}),
            "disk": (of_stage("03-containers"), {"cache": str(place / "small")}),
        }
        projects = {}
        for name, (_, keys) in cases.items():
            (place / name).mkdir()
            projects[name] = project(place / name, **keys)
        try:
            host.up(projects["subnet"].lab)
            add_link(projects["subnet"].lab.netns, "other7", "10.60.0.9/24")
            acts = [(act, projects[name]) for name, (act, _) in cases.items()]
            done = run.spread(lambda item: refusal(*item), acts, workers=2)
            yield dict(zip(cases, done, strict=True))
        finally:
            for own in projects.values():
                assert not undo.unmake_all(own.lab)[1]


def refusal(act: Callable[[Project], Done], own: Project) -> Refusal:
    """How one came out."""
    before = seen(own.lab)
    return Refusal(act(own), before, seen(own.lab))


def seen(lab: Lab) -> tuple[Listing, dict[str, list[str]]]:
    """The files in the lab's own folders, but for the memory of the rebuild and the key, and what the machine has of it."""
    own = (lab.cache_dir,) if lab.cache != CACHE else ()
    found = files(listing(lab.state_dir, lab.run_dir, *own))
    for name in ("rebuild.json", signing.KEY, signing.PUBLIC):  # a failed run's record is signed
        found.pop(str(lab.state_dir / name), None)
    found.pop(str(lab.journal_file), None)  # what stands by it is in the inventory
    return found, inventory(lab)


@contextmanager
def tmpfs(folder: Path, size: str = "20m") -> Iterator[None]:
    """A small file system of the test's own."""
    folder.mkdir()
    run.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "labkit-test", folder])
    try:
        yield
    finally:
        run.run(["umount", folder])


@pytest.mark.root
def test_a_misspelt_parameter_of_a_notebook_by_papermill(refusals: dict[str, Refusal]) -> None:
    """papermill only warns of it; the notebook's first cell refuses it, and nothing was made."""
    refused = refusals["parameter"]
    assert refused.done.status == 1
    assert "'replcas': is not a parameter of this notebook" in refused.done.stderr
    assert "did you mean 'replicas'" in refused.done.stderr
    assert refused.after == refused.before


REASONS = {
    "subnet": ("MachineError: network.subnet = 10.60.0.0/24", "already routes 10.60.0.0/24 through interface other7", "set network.subnet"),
    "disk": ("BuildError: root file system essential", "needs 900.0 MB while it is made", "MB free", "make room, or set `cache`"),
}  # fmt: skip


@pytest.mark.root
@pytest.mark.parametrize("case", REASONS)
def test_a_stage_that_the_machine_refuses(refusals: dict[str, Refusal], case: str) -> None:
    """The run's record says value, reason and remedy, the exit status is 1, and nothing was made."""
    refused = refusals[case]
    assert refused.done.status == 1
    for words in REASONS[case]:
        assert words in refused.reasons
    assert refused.after == refused.before


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

#: In a mount namespace of its own: lays /dev/null over a program, so that it is none, and goes on.
HIDE = 'mount --bind /dev/null "$(readlink -f "$(command -v "$0")")" && exec "$@"'


def without(program: str) -> tuple[str, ...]:
    """The words that call a command on a machine that lacks a program."""
    return ("unshare", "--mount", "--", "sh", "-c", HIDE, program)


ACT = """
import sys
from pathlib import Path
from labkit import Lab
from labkit.errors import LabkitError
from labkit.farm.services import dns; from labkit.farm.services import balancer; from labkit.farm.reconcile import up
lab = Lab.load(Path(sys.argv[1]))
try:
    {"replicas": up.replicas, "dns": dns.up, "proxy": balancer.up}[sys.argv[2]](lab)
except LabkitError as error:
    print(type(error).__name__, error)
"""


def act(own: Project, name: str, before: tuple[str, ...] = ()) -> str:
    """What an action of the farm says, called by these words."""
    argv = [*before, sys.executable, "-c", ACT, own.file, name]
    return run.run(argv, env={"PYTHONPATH": str(ROOT)}, timeout=120).stdout


@pytest.fixture
def own(open_folder: Path) -> Project:
    """A project that every account may enter."""
    return project(open_folder)


@pytest.mark.root
@pytest.mark.parametrize("program", ["apache2", "mariadb-install-db"])
def test_a_missing_program_of_the_wiki(own: Project, program: str) -> None:
    """The command names it, and begins no wiki."""
    done = own.labkit("publish", "-p", "wiki_database", "mariadb", before=without(program))
    assert refused(done, f"{program}: this program is not on the machine", "./lab doctor")
    assert listing(own.lab.state_dir, own.lab.run_dir) == {}


@pytest.fixture
def overlaid(own: Project) -> Iterator[Project]:
    """The lab's state lies on an overlay itself, which no overlay can stand on."""
    parts = {name: own.folder / name for name in ("lower", "upper", "scratch", "state")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={parts['lower']},upperdir={parts['upper']},workdir={parts['scratch']}"
    run.run(["mount", "-t", "overlay", "overlay", "-o", options, parts["state"]])
    try:
        yield own
    finally:
        run.run(["umount", parts["state"]])


@pytest.mark.root
def test_a_file_system_that_no_overlay_can_stand_on(overlaid: Project) -> None:
    """The kernel's refusal is the reason, the place and the key that moves it are told; nothing is made,
    neither by the farm nor by who asks whether it can be."""
    said = act(overlaid, "replicas")
    place = overlaid.folder / "state"
    assert f"MachineError overlayfs: cannot be had at {place}: mount: " in said
    assert "  remedy: load the kernel's module" in said
    assert "lab.toml: state" in said
    assert f"cannot be had at {place}" in blockers(overlaid)["doctor.overlayfs"]["seen"]
    assert nothing(overlaid.lab)
    assert listing(place, overlaid.lab.run_dir) == {}


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
    """Ports with the process that has them, the mirror, the suite: by the command, which changes nothing."""
    lab = own.lab
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


def test_an_existing_wiki_that_is_down(tmp_path: Path) -> None:
    """Its address and the connection's reason; nothing is installed in its place."""
    address = f"http://127.0.0.1:{free_port()}/w/api.php"
    own = project(tmp_path, **{"wiki.url": address})
    done = own.labkit("publish")
    assert refused(done, address, "Connection refused", "see that this wiki is up")
    assert listing(own.lab.state_dir, own.lab.run_dir) == {}


@pytest.fixture
def unwritten(own: Project) -> Project:
    """Its report's page is none that another test has written: for one that is as it should be nobody logs in."""
    own.file.write_text(own.file.read_text() + 'wiki.page = "Unwritten"\n')
    return own


@pytest.mark.root
def test_an_existing_wiki_whose_password_nobody_gave(unwritten: Project, wiki_lab: Lab) -> None:
    """The variables that are missing, and where their content is made."""
    done = unwritten.labkit("publish", "-p", "wiki_url", f"{origin(wiki_lab)}/w/api.php")
    assert refused(done, "no LABKIT_WIKI_USER and no LABKIT_WIKI_PASSWORD", "Special:BotPasswords")
    assert listing(unwritten.lab.state_dir, unwritten.lab.run_dir) == {}


@pytest.mark.root
def test_an_existing_wiki_that_refuses_the_password(unwritten: Project, wiki_lab: Lab) -> None:
    """The account is named, the variables to correct too, the password nowhere."""
    password = secrets.token_hex(16)
    env = {"LABKIT_WIKI_USER": "Labkit@publish", "LABKIT_WIKI_PASSWORD": password}
    address = f"{origin(wiki_lab)}/w/api.php"
    done = unwritten.labkit("publish", "-p", "wiki_url", address, **env)
    assert refused(done, f"Labkit@publish at {address}", "refuses the bot password", "LABKIT_WIKI_")
    assert password not in done.stderr
    assert all(
        password.encode() not in Path(p).read_bytes() for p in files(listing(unwritten.folder))
    )


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
