"""Files of the lab's own wiki that somebody damaged or edited: each is made again, or named."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import cache
from labkit.errors import StateError, WikiError
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.server import credentials, databases, installation
from labkit.wiki.server.configuration import Folders
from tests.conftest import lab_maker, open_place
from tests.damage import MENDED, damaged, folder, junk, nowhere, torn

Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab whose own wiki is up; every test leaves it so."""
    with open_place() as place, lab_maker(place, place / "outputs") as make:
        made = make()
        server.up(made)
        yield made


def is_up(lab: Lab) -> bool:
    """Whether the wiki comes up with all its checks and the bot's login, and then needs nothing more."""
    server.up(lab)
    assert failed(server.checks(lab)) == ()
    assert session.open(lab).account == session.BOT
    return not server.up(lab).changed


FILES: dict[str, Callable[[Folders], Path]] = {
    "LocalSettings.php": lambda folders: folders.settings,
    "apache2.conf": lambda folders: folders.apache,
    "php.ini": lambda folders: folders.php / "php.ini",
    "sessions": lambda folders: folders.data / "wikicache.sqlite",
}


@pytest.mark.root
@pytest.mark.parametrize("harm", ["junk", "null", "nowhere"])
def test_a_wiki_whose_files_were_all_damaged_comes_up(lab: Lab, harm: str) -> None:
    """Settings, the servers' configuration, sessions: all that labkit or MediaWiki makes again."""
    for find in FILES.values():
        MENDED[harm](find(Folders(lab)))
    server.status(lab)
    assert is_up(lab)


@pytest.mark.root
@pytest.mark.parametrize("name", ["LocalSettings.php", "apache2.conf", "php.ini"])
def test_a_folder_in_a_file_s_place_is_named(lab: Lab, name: str) -> None:
    """And what to do about it."""
    path = FILES[name](Folders(lab))
    folder(path)
    with pytest.raises(StateError, match="is a folder where labkit keeps a file") as caught:
        server.up(lab)
    assert (caught.value.value, caught.value.remedy) == (str(path), "move it away")
    path.rmdir()
    assert server.up(lab).holds


@pytest.mark.root
@pytest.mark.parametrize("harm", [torn, junk, folder, nowhere], ids=lambda harm: harm.__name__)
def test_damaged_pages_are_never_replaced(lab: Lab, harm: Harm) -> None:
    """What people wrote cannot be made again: the file is named, nothing is served or installed over it."""
    path = Folders(lab).data / databases.PAGES
    with damaged(path, harm):
        with pytest.raises(StateError, match="the wiki's pages are damaged") as caught:
            server.up(lab)
        assert caught.value.value == str(path)
        assert "put a copy of that file back; or move" in caught.value.remedy
    assert not server.up(lab).changed


def _edited(path: Path, **words: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **words}))


@pytest.mark.root
def test_an_edited_password_that_mediawiki_refuses(lab: Lab) -> None:
    """MediaWiki's reason is told, the password is not; the accounts keep theirs."""
    path = Folders(lab).passwords
    with damaged(path, lambda file: _edited(file, teacher="kurzes")):
        with pytest.raises(WikiError, match="Passwords must be at least") as caught:
            server.up(lab)
        assert caught.value.value == str(path)
        assert "move the file away" in caught.value.remedy
        assert "kurzes" not in str(caught.value)
    assert is_up(lab)


@pytest.mark.parametrize(
    "words",
    [
        {"publish": "0" * 31},
        {"publish": ""},
        {"student": ""},
        {"student": 5},
        {"teacher": None},
        {"further": "0123456789"},
    ],
    ids=str,
)
def test_edited_passwords_that_cannot_be_right_are_damage(
    tmp_path: Path, words: dict[str, object]
) -> None:
    """A bot password has 32 characters, and no password is empty; none of them is quoted."""
    lab = Lab.of({"state": str(tmp_path)})
    path = Folders(lab).passwords
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(credentials.new()))
    assert session.passwords(lab)
    _edited(path, **words)
    with pytest.raises(StateError, match="is damaged") as caught:
        session.passwords(lab)
    plain = [word for word in json.loads(path.read_text()).values() if len(str(word)) > 4]
    assert len(plain) >= 3
    assert not [word for word in plain if word in str(caught.value)]
    assert caught.value.__cause__ is None


def test_an_emptied_mediawiki_is_none(tmp_path: Path) -> None:
    """It is downloaded again, and the folder that is there is replaced."""
    program = installation.installation(tmp_path, "1.39")
    program.mkdir(parents=True)
    assert not installation.whole(program)
    assert installation.versions(tmp_path) == []
    (program / "api.php").touch()
    cache.seal(tmp_path / "mediawiki" / "1.39")
    assert installation.versions(tmp_path) == ["1.39"]
