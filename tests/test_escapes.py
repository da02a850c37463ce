"""No setting, parameter or option leads out of the lab's own folders, or into a program as another word.

Each is refused before anything is changed, with the value, the reason and what to do.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from labkit import Lab
from labkit.errors import ConfigError
from labkit.farm.rootfs import buildplan
from labkit.model.config import PARAMETERS
from labkit.report.batch.notebook import lab_file
from tests.projects import listing, project
from tests.test_catalogue import record

#: What somebody could write where a name, a number or a path is asked for.
HOSTILE: Mapping[str, str] = {
    "the folder above": "..",
    "a path upwards": "../x",
    "a path that goes up within": "a/../../x",
    "an absolute path": "/etc/passwd",
    "a line's end": "red\nUser root",
    "a line's end at the end": "red\n",
    "a zero": "red\0x",
    "an option": "-rf",
    "a long option": "--help",
    "a look-alike": "lаb",
    "wide letters": "ｒｅｄ",
    "letters turned around": "red\u202egnp",
    "half a character": "red\ud800",
    "very long": "a" * 5000,
    "a command": "$(id)",
    "a second command": "red;id",
    "quotes": 'red"x',
    "a variable of apache2's": "${HOME}",
}
#: Settings that are a text of a person's: any one line of it is shown, and is no name of anything.
TEXTS = {"sites.title", "wiki.page", "engine.context"}
#: Settings that are a path below which, or a file of which, a person may choose anything that is printable.
PLACES = {"outputs", "wiki.assignment"}
#: What a line of text cannot have.
UNREADABLE = {"a line's end", "a line's end at the end", "a zero", "letters turned around", "half a character", "very long"}  # fmt: skip


def settings(model: type[Any] = Lab, prefix: str = "") -> list[str]:
    """All keys of lab.toml; those of a site as ``sites.title``."""
    found = []
    for name, field in model.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        found += settings(field.annotation, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return found + (
        [f"sites.{name}" for name in ("name", "title", "colour")] if model is Lab else []
    )


def with_value(key: str, value: object) -> dict[str, Any]:
    """A configuration in which one key has that value; a list has it as its only item."""
    section, _, name = key.rpartition(".")
    if section == "sites":
        return {"sites": [{"name": "red", name: value}]}
    listed = [value] if key in ("sites", "rootfs.packages") else value
    return {section: {name: listed}} if section else {name: listed}


def allowed(key: str, what: str) -> bool:
    """Whether that is no escape there: a text is shown, and a path of a person's is looked at by its folder."""
    return key in TEXTS | PLACES and what not in UNREADABLE


@pytest.mark.parametrize("key", settings())
@pytest.mark.parametrize("what", HOSTILE)
def test_no_setting_takes_a_hostile_value(key: str, what: str) -> None:
    """Key and reason are named; texts are taken as they are, and folders have tests of their own."""
    values = with_value(key, HOSTILE[what])
    if allowed(key, what):
        with_page = {"a path upwards", "the folder above", "a path that goes up within", "an absolute path", "an option", "a long option", "a variable of apache2's"}  # fmt: skip
        if key != "wiki.page" or what not in with_page:
            Lab.of(values)
            return
    if what == "an absolute path" and key in ("state", "cache", "run"):
        return  # it is a folder of its own name; see below
    with pytest.raises(ConfigError) as caught:
        Lab.of(values)
    assert key.partition(".")[0] in caught.value.value
    assert caught.value.reason
    assert caught.value.remedy


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.parametrize("what", ["a line's end", "a zero", "half a character", "very long"])
def test_no_notebook_s_parameter_takes_one(name: str, what: str, tmp_path: Path) -> None:
    """The same by the parameters' names, before a path is as much as looked at."""
    given: object = HOSTILE[what]
    with pytest.raises(ConfigError) as caught:
        Lab.load(None, **{"outputs": str(tmp_path), name: [given] if name == "sites" else given})
    assert caught.value.remedy
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["state", "cache", "run", "outputs"])
@pytest.mark.parametrize(
    "place", ["/etc", "/etc/labkit", "/proc/self", "/dev", "/usr/bin", "/lib", "LINK"]
)
def test_no_folder_is_one_of_the_system_s(key: str, place: str, tmp_path: Path) -> None:
    """Neither by its name nor by a link that leads there: nothing is made in /etc."""
    link = tmp_path / "elsewhere"
    link.symlink_to("/etc")
    given = str(link) if place == "LINK" else place
    with pytest.raises(ConfigError, match="a folder of the operating system") as caught:
        Lab.load(None, **{"outputs": str(tmp_path), key: given})
    assert caught.value.value.startswith(f"{key} = ")
    assert caught.value.code == "config.folder-system"


@pytest.mark.parametrize("key", ["state", "run", "outputs"])
def test_the_lab_s_own_folder_may_not_lead_into_the_system_s(key: str, tmp_path: Path) -> None:
    """The folder of the lab's name below a sound one is looked at, too."""
    (tmp_path / "lab").symlink_to("/etc")
    with pytest.raises(ConfigError, match="leads to /etc, a folder of the operating system"):
        Lab.load(None, **{"outputs": str(tmp_path / "out"), key: str(tmp_path), "lab_name": "lab"})


def test_a_link_to_a_larger_disk_is_sound(tmp_path: Path) -> None:
    """As long as it leads to nothing of the system's."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "state").symlink_to(tmp_path / "disk")
    lab = Lab.load(None, state=str(tmp_path / "state"), outputs=str(tmp_path / "out"))
    assert lab.state_dir == tmp_path / "state" / "lab"


@pytest.mark.parametrize("character", list("\"'\\$%,:"))
@pytest.mark.parametrize("key", ["state", "cache", "run"])
def test_a_folder_s_name_means_itself_in_every_file(key: str, character: str) -> None:
    """A character that configurations, log names or mount options read as something else is told."""
    with pytest.raises(ConfigError, match="special meaning for other programs"):
        Lab.of({key: f"/srv/a{character}b"})


@pytest.mark.parametrize("what", ["quotes", "a command", "a look-alike", "an option"])
def test_what_is_allowed_is_read_back_as_it_was(what: str, tmp_path: Path) -> None:
    """A title is a title in the file that the stages read, and nothing besides."""
    lab = Lab.of({**with_value("sites.title", HOSTILE[what]), "outputs": str(tmp_path)})
    assert tomllib.loads(lab_file(lab))["sites"] == [{"name": "red", "title": HOSTILE[what], "colour": "", "weights": []}]  # fmt: skip


@pytest.mark.parametrize("what", [name for name in HOSTILE if name != "very long"])
def test_no_registry_is_more_than_a_host(what: str) -> None:
    """The notebook's own parameter, which becomes a part of an address."""
    with pytest.raises(ConfigError, match="is not the host of a registry"):
        buildplan.require_host(HOSTILE[what])
    buildplan.require_host("registry.example:5000")


#: Words of command lines; each leads elsewhere, or is another option's.
LINES: Mapping[str, tuple[str, ...]] = {
    "a stage above": ("run", "../../etc/passwd"),
    "an absolute stage": ("run", "/etc/passwd"),
    "a stage with a line's end": ("run", "04-network\n"),
    "a stage to begin with": ("rebuild", "--from", "../01-wiki"),
    "a lab's name upwards": ("plan", "--lab-name", "../x"),
    "a lab's name like an option": ("apply", "--lab-name=-rf"),
    "a namespace upwards": ("apply", "--netns", "../1/ns/net"),
    "a namespace like an option": ("down", "--netns=--help"),
    "a state in /etc": ("apply", "-p", "state", "/etc"),
    "outputs in /etc": ("status", "-p", "outputs", "/etc/x"),
    "a folder with a line's end": ("down", "-p", "run", "/tmp/x\ny"),
    "a setting of nobody's": ("apply", "--set", "../name=x"),
    "a mirror with a line's end": ("apply", "-p", "mirror", "http://a/\ndeb http://b/"),
    "a configuration that is a folder": ("plan", "--config", "/etc"),
    "a configuration that is no such file": ("plan", "--config", "-rf"),
}


@pytest.mark.parametrize("case", LINES)
def test_no_option_leads_elsewhere(tmp_path: Path, case: str) -> None:
    """By the real command: one error, of one line's value, and nothing in the project is changed."""
    own = project(tmp_path)
    before = listing(tmp_path)
    told = record(own.labkit(*LINES[case], "--json"))
    assert told["code"].startswith(("config.", "state."))
    assert listing(tmp_path) == before
