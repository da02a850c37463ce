"""A session with the wiki, and the errors that say why there is none."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from labkit import Lab
from labkit.core import daemon
from labkit.errors import WikiError
from labkit.report.page import publication
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.client.session import origin
from labkit.wiki.server import lifecycle
from labkit.wiki.server.configuration import Folders
from tests.conftest import lab_maker, open_place
from tests.test_publication import ran, result
from tests.waiting import until

WRONG = "0123456789abcdef0123456789abcdef"


def existing(lab: Lab, path: str = "/w/api.php") -> Lab:
    """A lab that uses the wiki of ``lab`` as an existing one."""
    wiki = lab.wiki.model_copy(update={"url": origin(lab) + path})
    return lab.model_copy(update={"wiki": wiki})


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Sets the variables that hold an existing wiki's bot password."""

    def give(user: str, password: str) -> None:
        monkeypatch.setenv(session.USER_VARIABLE, user)
        monkeypatch.setenv(session.PASSWORD_VARIABLE, password)

    return give


@pytest.mark.root
def test_no_proxy_is_asked_for_the_labs_own_wiki(
    wiki_lab: Lab, monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    """A proxy in the environment does not stand between the machine and its own loopback."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert session.open(wiki_lab).account == session.BOT


@pytest.mark.root
def test_read_only_wiki_is_named_as_such(wiki_lab: Lab) -> None:
    """A wiki that takes no edits is told from one that is down, with its owner's reason."""
    lock = Folders(wiki_lab).images / "lock_yBgMBwiR"  # MediaWiki's $wgReadOnlyFile
    lock.write_text("the disk is being changed")
    try:
        with pytest.raises(WikiError, match="read-only: the disk is being changed"):
            session.open(wiki_lab)
    finally:
        lock.unlink()


@pytest.mark.root
def test_wrong_address_is_named_as_such(
    wiki_lab: Lab, environment: Callable[[str, str], None]
) -> None:
    """An address at which a web server, but no MediaWiki, answers is an error about wiki.url."""
    environment("Labkit@publish", WRONG)
    with pytest.raises(WikiError, match="no MediaWiki answers there") as error:
        session.open(existing(wiki_lab, "/elsewhere/api.php"))
    assert "wiki.url" in error.value.remedy


def test_wiki_that_is_down(lab: Lab, environment: Callable[[str, str], None]) -> None:
    """Of an existing wiki the error has the reason of the connection; the lab's own that was never up has no
    passwords."""
    environment("Labkit@publish", WRONG)
    with pytest.raises(WikiError, match="does not answer: Connection refused"):
        session.open(existing(lab))
    with pytest.raises(WikiError, match="bring the wiki up"):
        session.open(lab)


@pytest.mark.parametrize(
    ("user", "password", "missing"),
    [
        ("", "", "no LABKIT_WIKI_USER and no LABKIT_WIKI_PASSWORD"),
        ("Labkit@publish", "", "no LABKIT_WIKI_PASSWORD"),
        ("", WRONG, "no LABKIT_WIKI_USER"),
    ],
)
def test_missing_environment_is_named(
    lab: Lab, environment: Callable[[str, str], None], user: str, password: str, missing: str
) -> None:
    """An existing wiki without its bot password in the environment names the missing variables."""
    environment(user, password)
    with pytest.raises(WikiError, match=f"the environment has {missing}"):
        session.credentials(existing(lab))


@pytest.mark.root
def test_a_private_wiki_is_published_to(environment: Callable[[str, str], None]) -> None:
    """An existing wiki that anonymous users cannot read counts as up, takes the report, and has nothing left to do the
    second time."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make()
        server.up(lab)
        with Folders(lab).settings.open("a") as settings:
            settings.write("$wgGroupPermissions['*']['read'] = false;\n")
        daemon.send(lifecycle.web_server(Folders(lab)), signal.SIGUSR1)
        private = existing(lab).model_copy(update={"outputs": str(folder / "o")})
        until(lambda: session.site_info(private).private)
        environment(
            f"{session.BOT}@{session.APP}", session.passwords(lab).publish.get_secret_value()
        )
        assert server.up(private).holds
        ran(private, result(171))
        first, second = publication.publish(private), publication.publish(private)
    assert first.holds
    assert first.value.edited
    assert not second.changed
