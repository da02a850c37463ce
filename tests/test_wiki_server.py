"""The lab's own wiki: unpacked, configured, brought up and down, and closed to strangers."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from pydantic import SecretStr

from labkit import Lab
from labkit.core import undo
from labkit.errors import MachineError, StateError
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.client.session import Passwords, origin
from labkit.wiki.server import configuration, credentials, installation, lifecycle, rights
from labkit.wiki.server.configuration import Folders, require_reachable

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63"
    "d0b8f11f0003ce0219d7a5ad1b0000000049454e44ae426082"
)


# -- pure ------------------------------------------------------------------------------------


def test_links_of_the_package_lead_within_its_folder(tmp_path: Path) -> None:
    """Absolute links become relative ones; a link to what each lab has goes; a package of something else is refused."""
    inside = tmp_path / installation.INSIDE
    data = tmp_path / "var/lib/mediawiki/extensions"
    (inside / "extensions-core/Cite").mkdir(parents=True)
    data.mkdir(parents=True)
    (inside / "api.php").touch()
    (inside / "extensions").symlink_to("/var/lib/mediawiki/extensions")
    (data / "Cite").symlink_to("/usr/share/mediawiki/extensions-core/Cite")
    (inside / "LocalSettings.php").symlink_to("/var/lib/mediawiki/LocalSettings.php")
    (data.parent / "LocalSettings.php").symlink_to("/etc/mediawiki/LocalSettings.php")
    installation.relink(tmp_path)
    assert (inside / "extensions/Cite").resolve() == inside / "extensions-core/Cite"
    assert not (inside / "LocalSettings.php").is_symlink()
    (inside / "api.php").unlink()
    with pytest.raises(StateError, match="does not hold MediaWiki"):
        installation.relink(tmp_path)


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("it's", r"'it\'s'"),
        ("back\\slash", r"'back\\slash'"),
        ("$name {$x}", "'$name {$x}'"),
        (SecretStr("s"), "'s'"),
    ],
)
def test_php_literals(value: object, literal: str) -> None:
    """A value is a PHP literal that PHP expands nothing in."""
    assert configuration.php(value) == literal


def test_configuration_names_no_address_but_the_wiki_s_own() -> None:
    """The web server listens on loopback alone. MediaWiki 1.43 does not start when the address of Math's service is
    empty, and its default is outside."""
    lab = Lab.of({"wiki": {"port": 8060}})
    text = configuration.apache(
        Folders(lab), port=8060, mediawiki=Path("/m"), module=Path("/libphp8.2.so"), mark="x"
    )
    assert re.findall("^Listen.*$", text, re.MULTILINE) == ["Listen 127.0.0.1:8060"]
    text = configuration.local_settings(lab, Passwords.model_validate(credentials.new()))
    urls = re.findall(r"^\$wgMath\w+(?:URL|Url) = '(.*)';$", text, re.MULTILINE)
    assert urls == ["http://127.0.0.1:8060"] * 3


def test_passwords_print_as_stars_and_have_one_fingerprint() -> None:
    """Neither repr, str nor JSON of the passwords shows one; the hash by which a change is noticed covers each."""
    one = Passwords.model_validate(credentials.new())
    shown = repr(one) + str(one) + one.model_dump_json()
    assert not [word for word in one.plain().values() if word in shown]
    others = [
        one.model_copy(update={name: SecretStr("another")}) for name in Passwords.model_fields
    ]
    assert len({credentials.fingerprint(item) for item in (one, *others)}) == len(others) + 1


def test_folder_that_the_web_server_cannot_enter_is_named(tmp_path: Path) -> None:
    """State below a folder of root's alone is refused before anything is installed."""
    closed = tmp_path / "closed"
    (closed / "state").mkdir(parents=True)
    tmp_path.chmod(0o755)
    closed.chmod(0o700)
    with pytest.raises(MachineError, match="cannot enter this folder") as error:
        require_reachable(closed / "state" / "wiki")
    assert error.value.value in [str(folder) for folder in (closed, *closed.parents)]


def test_last_complaint_is_without_its_trace(tmp_path: Path) -> None:
    """Of MediaWiki's log the last exception is shown, and not the end of its stack."""
    log = tmp_path / "installation.log"
    log.write_text(
        "one: Error: first\n#0 a.php(1)\n\ntwo: Error: Cannot access the database\n#0 x\n"
    )
    assert lifecycle.last_complaint(log) == "two: Error: Cannot access the database"


# -- one wiki that stays up ------------------------------------------------------------------


@pytest.mark.root
def test_second_up_changes_nothing(wiki_lab: Lab, make_lab: Callable[..., Lab]) -> None:
    """A wiki that is up is only observed, and so is an existing one (``wiki.url``), for which nothing is installed."""
    result = server.up(wiki_lab)
    assert not result.changed
    assert {item.command.split()[0] for item in result.commands} == {"ss"}
    seen = server.status(wiki_lab)
    assert seen.up and seen.installed
    assert seen.apache in undo.daemon_pids(str(Folders(wiki_lab).apache))
    lab = make_lab(wiki_url=f"{origin(wiki_lab)}/w/api.php")
    result = server.up(lab)
    value = result.value
    assert (result.changed, value.database, value.passwords) == (False, "existing", "")
    assert not Folders(lab).root.exists()


@pytest.mark.root
def test_all_checks_hold_and_answer_the_rows(wiki_lab: Lab) -> None:
    """The wiki's checks hold, strangers' attempts included, and answer E1 and I1."""
    found = server.checks(wiki_lab)
    assert not [check for check in found if not check.holds]
    assert {row for check in found for row in check.rows} == {"E1", "I1"}
    assert {"wiki.loopback", "wiki.closed.edit", "wiki.closed.sign-up", "wiki.closed.files"} <= {
        check.name for check in found
    }


@pytest.mark.root
def test_who_may_do_what(wiki_lab: Lab) -> None:
    """With the password in the file each logs in; the student writes, moves pages and uploads pictures, and has no
    right over what others wrote or over who may what."""
    page = server.login_page(wiki_lab)
    words = json.loads(Path(page.passwords).read_text())
    over = {"block", "delete", "protect", "reupload", "undelete"}
    assert page.accounts == ("Student", "Teacher", "Administrator")
    for account in page.accounts:
        site = session.connect(wiki_lab)
        site.clientlogin(username=account, password=words[account.lower()])
        site.site_init()
        rights, student = set(site.rights), account == "Student"
        assert {"edit", "createpage", "move", "upload"} <= rights
        assert over & rights == (set() if student else over)
        assert ("userrights" in rights) == (account == "Administrator")
        assert ("editinterface" in rights) != student
        assert ("teacher" in site.groups) == (account == "Teacher")


@pytest.mark.root
def test_an_older_wiki_gets_an_administrator_and_the_student_loses_what_was_too_much(
    wiki_lab: Lab,
) -> None:
    """Its student installed it, and its passwords name no administrator."""
    path = Folders(wiki_lab).passwords
    words = json.loads(path.read_text())
    older = {name: word for name, word in words.items() if name != "administrator"}
    path.write_text(json.dumps(older))
    site = session.connect(wiki_lab)
    site.login("Administrator", words["administrator"])
    token = site.get_token("userrights")
    site.post("userrights", user="Student", add="sysop|bureaucrat", token=token)
    assert server.up(wiki_lab).changed
    now = json.loads(path.read_text())
    assert {name: now[name] for name in older} == older
    assert path.stat().st_mode & 0o777 == 0o600
    assert rights.accounts(wiki_lab).holds


@pytest.mark.root
def test_code_formulas_and_pictures_are_served(wiki_lab: Lab) -> None:
    """Code is coloured by the machine's own pygments; a formula is its source, without a request; an uploaded picture
    is served byte by byte."""
    text = "<syntaxhighlight lang=python>import os</syntaxhighlight> <math>x^2</math>"
    site = session.open(wiki_lab)
    html = site.post("parse", text=text, contentmodel="wikitext")["parse"]["text"]["*"]
    assert '<span class="kn">import</span>' in html
    assert "$ x^2 $" in html
    assert "http" not in html
    answer = site.upload(io.BytesIO(PIXEL), "Pixel.png", "a pixel", ignore=True)
    with urllib.request.urlopen(answer["imageinfo"]["url"]) as reply:  # noqa: S310 - loopback
        assert reply.read() == PIXEL


@pytest.mark.root
def test_passwords_are_in_no_result_and_no_log(wiki_lab: Lab) -> None:
    """No result has a password, and no file of the wiki but the two that need them, which others cannot read."""
    shown = "".join(
        result.model_dump_json() + str(result._repr_mimebundle_())
        for result in (
            server.up(wiki_lab),
            rights.accounts(wiki_lab),
            rights.database(wiki_lab),
            rights.anonymous(wiki_lab),
        )
    )
    folders = Folders(wiki_lab)
    words = [word.encode() for word in session.passwords(wiki_lab).plain().values()]
    holding = set()
    for path in (item for item in folders.root.rglob("*") if item.is_file()):
        with suppress(FileNotFoundError):  # SQLite's own files come and go
            content = path.read_bytes()
            holding |= {path.name for word in words if word in content}
    assert not [word for word in words if word.decode() in shown]
    assert holding == {"passwords.json", "LocalSettings.php"}
    names = ("passwords", "settings", "data", "cache")
    assert [rights.owner_and_mode(getattr(folders, name)) for name in names] == [
        "root 0600", "root 0640", "www-data 0700", "www-data 0700",
    ]  # fmt: skip


# -- wikis of a test's own -------------------------------------------------------------------


@pytest.mark.root
def test_wiki_outlives_its_servers(
    make_lab: Callable[..., Lab], port: int, watched: AbstractContextManager[set[str]]
) -> None:
    """Passwords are in no process list while the wiki is installed; what was saved is there after a
    killed web server, after down and up, and on another port."""
    lab = make_lab()
    with watched as commands:
        assert server.up(lab).changed
    words = session.passwords(lab).plain().values()
    assert any("maintenance/install.php" in line for line in commands)
    assert not [line for line in commands if any(word in line for word in words)]
    session.open(lab).pages["Kept"].save("by people")

    os.kill(server.status(lab).apache or 0, signal.SIGKILL)
    assert server.up(lab).changed
    assert session.open(lab).pages["Kept"].text() == "by people"

    assert [server.down(lab).changed for _ in range(2)] == [True, False]
    assert not undo.daemon_pids(str(Folders(lab).apache))
    assert not server.status(lab).up
    assert not server.checks(lab)[0].holds
    moved = lab.model_copy(update={"wiki": lab.wiki.model_copy(update={"port": port})})
    assert server.up(moved).value.address.startswith(f"http://127.0.0.1:{port}/")
    assert session.open(moved).pages["Kept"].text() == "by people"


@pytest.mark.root
def test_killed_installation_is_begun_anew(make_lab: Callable[..., Lab]) -> None:
    """labkit killed while MediaWiki is being installed leaves no half wiki to the next start."""
    lab = make_lab()
    folders = Folders(lab)
    script = (
        "import json, sys; from labkit import Lab; from labkit.wiki import server;"
        "server.up(Lab.of(json.load(sys.stdin)))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdin
        process.stdin.write(lab.model_dump_json())
        process.stdin.close()
        deadline = time.monotonic() + 60
        while not list(folders.root.glob("sqlite.*.part/wiki.sqlite")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
    assert not folders.data.exists()
    server.up(lab)
    assert all(check.holds for check in rights.accounts(lab).checks)
    assert not list(folders.root.glob("sqlite.*.part*"))


@pytest.mark.root
def test_lost_passwords_and_another_mediawiki(make_lab: Callable[..., Lab]) -> None:
    """When the file of passwords was moved away, new ones are made and given to the accounts. A database that was made
    by another version of MediaWiki is updated, and keeps its pages."""
    lab = make_lab()
    server.up(lab)
    before = session.passwords(lab)
    Folders(lab).passwords.unlink()
    assert server.up(lab).changed
    assert session.passwords(lab).publish != before.publish
    assert session.open(lab).account == session.BOT
    record = Folders(lab).installed
    ours = record.read_text()
    record.write_text(ours.replace('"mediawiki":"1', '"mediawiki":"0'))
    result = server.up(lab)
    assert any("maintenance/update.php" in item.command for item in result.commands)
    assert record.read_text() == ours
    assert session.open(lab).pages["Main Page"].exists


@pytest.mark.root
def test_taken_port_names_the_process(make_lab: Callable[..., Lab]) -> None:
    """A port that somebody else has is an error that names the process; nothing is installed."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        lab = make_lab(wiki_port=other.getsockname()[1])
        with pytest.raises(MachineError, match=rf"wiki\.port.*\(process {os.getpid()}\)"):
            server.up(lab)
    assert not Folders(lab).root.exists()


def test_status_and_down_of_a_wiki_that_was_never_up(lab: Lab) -> None:
    """The status is an observation and not an error; taking it down changes nothing."""
    seen = server.status(lab)
    assert (seen.up, seen.installed, seen.apache) == (False, False, None)
    assert "Connection refused" in seen.reason
    assert not server.down(lab).changed
