"""The probes of a root file system that serves: the farm's image answers each question, and each can fail."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core.journal import Journal
from labkit.farm.containers import runc
from labkit.farm.images import layout as image
from labkit.farm.images.unpacking import Unpacked
from labkit.farm.reconcile import preflight
from labkit.farm.study import probe_containers, probes
from labkit.farm.study.probe_containers import Setup, prepared
from labkit.farm.study.probes import Probe
from tests.conftest import lab_maker, open_place

CONF = "etc/apache2/sites-enabled/broken.conf"
WEB = {"not-found", "failing", "reload", "rotation", "stop", "terminate"}
USERS = {"users.www-data", "users.root"}
NAMES = {"names.dns", "names.hosts"}
SSH = {"ssh", "ssh.stranger"}
PAGES = {"page.site1", "page.site2", "page.site3"}
EVERYTHING = PAGES | WEB | USERS | NAMES | SSH | {"writes"}


@pytest.fixture(scope="module")
def tried() -> Iterator[tuple[Lab, Unpacked]]:
    """A lab, and the image that all its sites stand on."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make()
        yield lab, image.unpacked(lab, "web")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not come is not waited for as long as on a busy machine."""
    monkeypatch.setattr(probes, "PATIENCE", 5.0)
    monkeypatch.setattr(probes, "LIFE", 12.0)


def broken(
    unpacked: Unpacked, place: Path, files: dict[str, str], gone: tuple[str, ...]
) -> Unpacked:
    """The image with a further layer, of files and of removals (overlayfs: devices 0, 0)."""
    for name, text in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
        (place / name).chmod(0o755 if text.startswith("#!") else 0o644)
    for name in gone:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        os.mknod(place / name, stat.S_IFCHR, 0)
    return unpacked.model_copy(update={"lower": (place, *unpacked.lower)})


def lost(answers: tuple[Probe, ...]) -> dict[str, str]:
    """The questions that were not answered as they should, with what was seen."""
    return {item.name: item.seen for item in answers if not item.holds}


# -- pure ------------------------------------------------------------------------------------


def test_every_site_is_asked_and_every_question_has_a_name_of_its_own() -> None:
    """Three sites or one: all is asked once."""
    asked = EVERYTHING - {"writes"}
    for sites in (("site1", "site2", "site3"), ("site1",)):
        lab = Lab.of({"sites": [{"name": name} for name in sites]})
        names = [question.name for role in probes.roles(lab) for question in role.questions]
        assert len(set(names)) == len(names)
        assert set(names) == {n for n in asked if not n.startswith("page.") or n[5:] in sites}


#: A question for the address of by-dns.test: id 7, recursion desired.
QUESTION = b"\0\7\1\0\0\1\0\0\0\0\0\0\6by-dns\4test\0\0\1\0\1"


@pytest.mark.parametrize(
    ("question", "known", "status", "addresses"),
    [
        (QUESTION, "by-dns.test", "NOERROR", ["127.0.0.2"]),
        (QUESTION.replace(b"by-dns", b"BY-DNS"), "by-dns.test", "NOERROR", ["127.0.0.2"]),
        (QUESTION[:-4] + b"\0\x1c\0\1", "by-dns.test", "NOERROR", []),
        (QUESTION, "other.test", "NXDOMAIN", []),
    ],
    ids=["known", "upper case", "another family", "unknown"],
)
def test_the_name_server_answers(
    question: bytes, known: str, status: str, addresses: list[str]
) -> None:
    """The one name's address whatever its case, no address of another family, no other name."""
    import dns.message
    import dns.rcode

    found = dns.message.from_wire(probes.name_answer(question, {known: "127.0.0.2"}))
    assert found.is_response(found)
    assert dns.message.from_wire(question).is_response(found)
    assert dns.rcode.to_text(found.rcode()) == status
    assert [item.to_text() for rrset in found.answer for item in rrset] == addresses


def test_what_is_laid_over_an_image_has_its_folders_as_they_are(tmp_path: Path) -> None:
    """Owner and mode are those of the layer that is seen; a new folder is everybody's to read."""
    upper, under = tmp_path / "upper", tmp_path / "under"
    for root, mode in ((upper, 0o710), (under, 0o700)):
        (root / "etc").mkdir(parents=True)
        (root / "etc").chmod(mode)
    probe_containers.lay(
        tmp_path / "laid", {"etc/hosts": "x", f"{probe_containers.PAGES}/a": "a"}, (upper, under)
    )
    assert (tmp_path / "laid/etc").stat().st_mode & 0o777 == 0o710
    assert (tmp_path / "laid/etc/hosts").read_text() == "x"
    large = (tmp_path / "laid" / probe_containers.PAGES / "large.bin").stat()
    assert (large.st_size, large.st_blocks) == (probe_containers.LARGE_SIZE, 0)


# -- on real containers ------------------------------------------------------------------------


@pytest.mark.root
def test_the_farms_image_answers_everything(tried: tuple[Lab, Unpacked]) -> None:
    """Every question is answered as it should be, and nothing is left of the containers."""
    lab, _ = tried
    answers = probes.probe(lab, "web")
    assert lost(answers) == {}
    assert sorted(item.name for item in answers) == sorted(EVERYTHING)
    kinds = {entry.kind for entry in Journal.of(lab).standing()}
    assert not kinds & {"netns", "container", "mount"}
    assert not runc.states(lab)


ALIAS = "LoadModule alias_module /usr/lib/apache2/modules/mod_alias.so\n"
#: What is done to the image (files, removals), the questions that it then fails, and a word of the first.
BROKEN: dict[str, tuple[dict[str, str], tuple[str, ...], set[str], str]] = {
    "pages that are not put together": (
        {CONF: '<Files "index.html">\n    Options -Includes\n</Files>\n'},
        (),
        PAGES,
        "no name in it",
    ),
    "a page for everything": (
        {CONF: f"{ALIAS}Alias /survival/nowhere /var/www/html/index.html\n"},
        (),
        {"not-found"},
        "Site 1",
    ),
    "folders without a say": ({CONF: "AccessFileName .none\n"}, (), {"failing"}, "404"),
    "a program of apachectl": ({}, ("usr/bin/mktemp",), {"reload"}, "mktemp: not found"),
    "a log that goes nowhere": (
        {CONF: "ErrorLog /dev/null\n"},
        (),
        {"rotation"},
        "nothing in the error",
    ),
    "a program of the session": ({}, ("usr/bin/hostname",), {"ssh"}, "root"),
    "the ssh server": ({}, ("usr/sbin/sshd",), SSH, "sshd"),
    "a root without a password": (
        {
            "etc/ssh/sshd_config.d/00.conf": "PermitRootLogin yes\nPasswordAuthentication yes\n"
            "PermitEmptyPasswords yes\n",
            "etc/shadow": "root::19000:0:99999:7:::\nsshd:!:19000::::::\n",
        },
        (),
        {"ssh.stranger"},
        "let in",
    ),
    "names from files alone": (
        {"etc/nsswitch.conf": "hosts: files\n"},
        (),
        {"names.dns"},
        "is not resolved",
    ),
    "names from servers alone": (
        {"etc/nsswitch.conf": "hosts: dns\n"},
        (),
        {"names.hosts"},
        "is not resolved",
    ),
    "another user": ({CONF: "User nobody\n"}, (), {"users.root"}, "65534"),
    "a log elsewhere": (
        {CONF: "CustomLog /var/cache/apache2/mod_cache_disk/x.log combined\n"},
        (),
        EVERYTHING - {"writes"},
        "Unable to open logs",
    ),
    "a module": (
        {},
        ("usr/lib/apache2/modules/mod_include.so",),
        EVERYTHING - {"writes"},
        "mod_include.so: cannot open",
    ),
    "the server": ({}, ("usr/sbin/apache2",), EVERYTHING, "apache2"),
}


@pytest.mark.root
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_image_fails_what_it_broke(
    tried: tuple[Lab, Unpacked], open_folder: Path, what: str
) -> None:
    """And nothing else: every other question is still asked and answered."""
    lab, unpacked = tried
    files, gone, expected, said = BROKEN[what]
    answers = probes.probe(lab, broken(unpacked, open_folder / "layer", files, gone))
    found = lost(answers)
    assert set(found) == expected, found
    assert len(answers) == len(EVERYTHING)
    assert any(said in seen for seen in found.values()), found


#: An entry point that starts the server as its child, and hands no signal on.
DEAF = '#!/bin/sh\n/usr/sbin/apache2.real "$@"\nexit 3\n'


@pytest.mark.root
@pytest.mark.usefixtures("hasty")
def test_a_first_process_that_hands_no_signal_on_neither_reloads_nor_stops(
    tried: tuple[Lab, Unpacked], open_folder: Path
) -> None:
    """As a script around the server does that forgets ``exec``."""
    lab, unpacked = tried
    files = {"usr/sbin/apache2": DEAF, "etc/placeholder": ""}
    image = broken(unpacked, open_folder / "layer", files, ())
    real = open_folder / "layer/usr/sbin/apache2.real"
    real.write_bytes((unpacked.lower[-1] / "usr/sbin/apache2").read_bytes())
    real.chmod(0o755)
    found = lost(probes.probe(lab, image))
    assert {"rotation", "stop", "terminate"} <= set(found), found
    assert not set(found) & (PAGES | SSH | NAMES | {"not-found", "failing", "writes"}), found


@pytest.mark.root
def test_what_was_written_into_a_container_is_named(tried: tuple[Lab, Unpacked]) -> None:
    """By somebody outside of it: inside, there is nowhere to write."""
    lab, unpacked = tried
    with prepared(lab, unpacked, [Setup(name="other", site="site1")]) as (one,):
        one.begin()
        assert (
            preflight.surplus_replicas(lab) == ()
        )  # it is no replica, whatever stage looks meanwhile
        assert probes.files_written([one]) == probes.UNWRITTEN
        (runc.bundle(lab, one.name) / "rootfs/var/www/html/x").write_text("x")
        assert "/var/www/html/x" in probes.files_written([one])


@pytest.mark.root
def test_a_server_that_begins_as_root_is_not_taken_for_one_that_does_not(
    tried: tuple[Lab, Unpacked],
) -> None:
    """Whose processes are whose is read from the kernel."""
    lab, unpacked = tried
    setup = Setup(name="other", site="site1", privileged=True)
    with prepared(lab, unpacked, [setup]) as (one,):
        one.begin()
        assert probes.users(one) == probes.USERS[True] != probes.USERS[False]
