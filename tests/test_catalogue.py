"""The catalogue: bad inputs and broken machines, each with its own error, and nothing is changed by it.

A row has what is wrong, the error's code, and words that the error must have. Every row is called by the real
command; before and after it, all that the machine has of the lab, and all that lies in its folders, is
the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from labkit.core import daemon, undo
from labkit.core.journal import Journal
from labkit.core.run import Done
from labkit.errors import LabkitError
from labkit.farm.containers import runc
from labkit.farm.services import balancer_server, dns_server
from tests import breakages
from tests.conftest import open_place
from tests.projects import Project, listing, project
from tests.test_standing import inventory

#: What is wrong in lab.toml (its text), the code, words of the error.
INPUTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "a misspelt key": ("replcas = 3", "config.unknown-key", ("replcas in ", "lab.toml", "did you mean 'replicas'")),
    "a section that there is not": ("[balancer]\nport = 80", "config.unknown-key", ("balancer", "known names: ")),
    "words for a number": ('replicas = "two"', "config.type", ("replicas = 'two'", "integer")),
    "a number for a list": ("sites = 3", "config.type", ("sites = 3", "tuple")),
    "no replicas": ("replicas = 0", "config.range", ("replicas = 0", "greater than or equal to 1")),
    "no sites": ("sites = []", "config.length", ("sites", "at least 1 item")),
    "a weight too few": ('sites = [{name = "red", weights = [3]}]', "config.weights", ("2 replicas and 1 weight:", "one weight for each")),
    "no subnet": ('network.subnet = "10.60.0/24"', "config.subnet", ("network.subnet", "write it like 10.60.0.0/24")),
    "somebody's subnet": ('network.subnet = "8.8.8.0/24"', "config.subnet", ("8.8.8.0/24 is not a private network",)),
    "a subnet too small": ('network.subnet = "10.60.0.0/28"', "config.subnet-small", ("10.60.0.0/28 has 14 addresses", "use a /27")),
    "two sites of one name": ('sites = ["red", "blue", "red"]', "config.site-twice", ("two sites have the name 'red'",)),
    "a site named as the name server": ('sites = ["ns"]', "config.site-name", ("'ns'", "choose another")),
    "a site named as a replica": ('sites = ["red", "red-1"]', "config.site-name", ("the name of a site and of a replica",)),
    "a site's name that is no label": ('sites = ["my_site"]', "config.label", ("sites.0.name = 'my_site'", "not a DNS label")),
    "a site's name too long for its replicas": (f'sites = ["{"r" * 62}"]', "config.label", ("too long for a DNS label", "shorten")),
    "a lab's name too long": (f'name = "{"l" * 25}"', "config.length", ("at most 24",)),
    "a namespace that leads elsewhere": ('host.netns = "../x"', "config.pattern", ("host.netns = '../x'", "match pattern")),
    "a domain of somebody's": ('dns.domain = "example.com"', "config.domain", ("dns.domain = 'example.com'", "not below .test")),
    "the name server's port": ("proxy.port = 53", "config.port-of-dns", ("proxy.port", "53 is the port of the lab's name server")),
    "a node that is lost for ever": ('engine.lose = "ssh node3 halt"', "config.lose", ("engine.restore", "set both or neither")),
    "a command that has no end": ("engine.lose = \"ssh 'node3\"", "config.command", ("engine.lose", "no command line: no closing quotation")),
    "a domain too long for its hosts": (f'dns.domain = "{".".join(["d" * 60] * 4)}.test"', "config.domain", ("dns.domain", "at most 253")),
    "a namespace of a replica's": ('name = "box"\nhost.netns = "box-site1-2"', "config.netns-replica", ("host.netns", "a replica's network namespace")),
    "values that lie too deeply": ("sites = " + "[" * 5000 + "]" * 5000, "config.no-toml", ("lab.toml", "too deeply")),
    "a file that is too large": ("# " + "x" * 300_000, "config.no-toml", ("lab.toml", "KiB")),
    "a key of too many parts": ("a." * 50_000 + "b = 1", "config.no-toml", ("lab.toml", "more parts")),
    "a method that apache2 has not": ('proxy.lbmethod = "random"', "config.choice", ("proxy.lbmethod = 'random'", "'byrequests'")),
    "a variant that there is not": ('rootfs.variant = "smalest"', "config.unknown-name", ("'smalest'", "is not a variant", "did you mean 'smallest'")),
    "a mirror that is no address": ('rootfs.mirror = "debian"', "config.pattern", ("rootfs.mirror = 'debian'",)),
    "a page whose name is too long": (f'wiki.page = "{"実" * 84}"', "config.page-length", ("252 bytes", "at most 242", "NAME/labkit state")),
    "a title that reverses the direction of text": ('sites = [{name = "red", title = "a\\u202eb"}]', "config.text", ("sites.0.title", "U+202E", "remove it")),
    "a password in an address": ('wiki.url = "http://bot:secret@x/api.php"', "config.pattern", ("wiki.url",)),
    "a folder of nowhere": ('state = "state"', "config.folder", ("state = 'state'", "not the absolute path")),
    "a folder that leads elsewhere": ('run = "/run/../etc"', "config.folder", ("run = '/run/../etc'", "without '..'")),
    "no TOML": ("replicas = = 3", "config.no-toml", ("lab.toml", "not valid TOML", "line 1")),
}  # fmt: skip

#: The words of a command line, the code, words of the error.
COMMANDS: dict[str, tuple[tuple[str, ...], str, tuple[str, ...]]] = {
    "a misspelt -p": (("plan", "-p", "replcas", "3"), "config.unknown-name", ("'replcas'", "did you mean 'replicas'")),
    "a misspelt -p of a notebook": (("run", "06-balancer", "-p", "weigths", "[1]"), "config.unknown-name", ("'weigths'", "did you mean 'weights'")),
    "a setting without a value": (("plan", "--set", "replicas"), "config.option", ("'replicas'", "NAME=VALUE")),
    "a misspelt key": (("plan", "--set", "wiki.pgae=Lab"), "config.unknown-name", ("'wiki.pgae'", "is not a key of lab.toml", "did you mean 'wiki.page'")),
    "a setting of a wrong type": (("plan", "-p", "replicas", "many"), "config.type", ("the parameter replicas", "integer")),
    "a lab.toml that is not there": (("plan", "--config", "none.toml"), "config.no-file", ("none.toml", "there is no such file")),
    "a stage that the lab skips": (("run", "09-engine"), "config.stage-skipped", ("09-engine", "engine.host is not set", "--set engine.host=")),
    "an engine that nobody named": (("check", "--engine", "swarm"), "config.engine-host", ("engine.host = ''", "ssh://USER@HOST")),
    "files of this machine on an engine": (("check", "--engine", "swarm", "--deep"), "config.option", ("--deep", "leave one of them out")),
    "a stage that there is not": (("run", "08-nothing"), "config.unknown-name", ("'08-nothing'", "is not a stage")),
}  # fmt: skip


def record(done: Done) -> dict[str, str]:
    """The error that a command told, to a person and to a program alike."""
    assert done.status == 1, done
    assert "Traceback" not in done.stderr
    told: dict[str, str] = json.loads(done.stdout)["error"]
    for part in ("value", "reason", "remedy", "code"):
        assert told[part], f"{part} of {told}"
        assert told[part].splitlines()[0] in done.stderr
    return told


def seen(own: Project) -> tuple[object, ...]:
    """All that there is of the project: its files, but for its log, and what the machine has of its lab."""
    outputs, files = own.folder / "outputs", listing(own.folder)
    logs = (outputs, *outputs.glob("*"), *outputs.glob("*/labkit.log"))
    kept = {path: what for path, what in files.items() if path not in map(str, logs)}
    try:
        entries = Journal.of(own.lab).standing()
        kept.pop(str(own.lab.journal_file), None)  # what was tried and unmade may stand there, too
        return kept, inventory(own.lab), [(entry.kind, entry.what) for entry in entries]
    except LabkitError as error:  # a lab.toml or a journal that cannot be read
        return kept, error.code


@pytest.mark.parametrize("case", [*INPUTS, *COMMANDS])
def test_a_bad_input_is_refused_by_its_code(tmp_path: Path, case: str) -> None:
    """Value, reason and remedy are told, and not even a log is begun."""
    text, code, words = INPUTS.get(case, ("", "", ()))
    command: tuple[str, ...] = ("plan",)
    if case in COMMANDS:
        command, code, words = COMMANDS[case]
    own = project(tmp_path, text)
    before = listing(tmp_path)
    told = record(own.labkit(*command, "--json"))
    assert told["code"] == code
    for word in words:
        assert word in "\n".join(told.values())
    assert "secret" not in "\n".join(told.values())
    assert listing(tmp_path) == before


# -- broken machines -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder for the projects of this module, which every account may enter."""
    with open_place() as folder:
        yield folder


@pytest.mark.root
@pytest.mark.parametrize("case", breakages.MACHINES)
def test_a_broken_machine_is_told_by_its_code(place: Path, case: str) -> None:
    """The cause is named, with a remedy and a command that shows it; nothing was made or fetched."""
    row = breakages.MACHINES[case]
    folder = place / re.sub(r"\W+", "-", case)
    folder.mkdir()
    own = project(folder)
    try:
        with ExitStack() as stack:
            broken = stack.enter_context(row.harm(own))
            before = seen(own)
            done = own.labkit(
                *row.command, "--json", *broken.words, before=broken.before, **broken.env
            )
            told = record(done)
            after = seen(own)
            assert told["code"] == row.code, told
            for word in (*row.words, *broken.said):
                assert word in "\n".join(told.values())
            assert told["again"]
            assert after == before
    finally:
        if own.lab.journal_file.is_file():
            assert not undo.unmake_all(own.lab)[1]


@pytest.fixture(scope="module")
def farm() -> Iterator[Project]:
    """A project whose lab is up: two sites of one replica each, names and balancer."""
    with open_place() as folder:
        own = project(folder, 'sites = ["red", "blue"]\nreplicas = 1')
        try:
            done = own.labkit("apply")
            assert done.status == 0, done.stderr
            yield own
        finally:
            assert not undo.unmake_all(own.lab)[1]


def standing(own: Project) -> tuple[object, ...]:
    """What is up of the farm: containers, servers with their configurations, mounts, names and links."""
    lab = own.lab
    states = {name: state.pid for name, state in runc.states(lab).items() if state.pid}
    servers = [server.server(lab) for server in (dns_server, balancer_server)]
    there = inventory(lab)
    return (
        states,
        [(daemon.pid(server), server.config.read_text()) for server in servers],
        [(kind, sorted(there[kind])) for kind in ("mounts", "namespaces", "containers", "links")],
    )


@pytest.mark.root
@pytest.mark.parametrize("case", breakages.FARM)
def test_a_broken_farm_is_told_by_its_code(farm: Project, case: str) -> None:
    """What is not concerned stays up with its processes; when it is mended, the same command ends well."""
    row, text = breakages.FARM[case], farm.file.read_text()
    try:
        with row.harm(farm) as broken:
            before = standing(farm)
            done = farm.labkit(
                *row.command, "--json", *broken.words, before=broken.before, **broken.env
            )
            told = record(done)
            assert told["code"] == row.code, told
            for word in (*row.words, *broken.said):
                assert word in "\n".join(told.values())
            assert told["again"]
            assert standing(farm) == before
    finally:
        farm.file.write_text(text)
        mended = farm.labkit("apply")
        assert mended.status == 0, mended.stderr


@pytest.mark.root
def test_a_locale_that_is_missing_is_no_error(tmp_path: Path) -> None:
    """Nor a home that is not there: programs are called with a locale of labkit's own."""
    own = project(tmp_path)
    done = own.labkit("plan", "--json", LC_ALL="xx_XX.UTF-8", LANG="xx_XX", HOME="/nowhere")
    assert (done.status, done.stderr) == (0, "")
