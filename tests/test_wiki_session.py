"""A session with the wiki, and the errors that say why there is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from labkit import Lab
from labkit.errors import WikiError
from labkit.wiki.client import session
from labkit.wiki.client.session import origin
from labkit.wiki.server.configuration import Folders

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
