"""An existing wiki that tells strangers nothing: it is logged in to before anything is read."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from labkit import Lab
from labkit.core import daemon
from labkit.report.page import publication
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.client.session import api_url
from labkit.wiki.server import lifecycle
from labkit.wiki.server.configuration import Folders
from tests.conftest import lab_maker, open_place
from tests.test_publication import ran, result
from tests.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture
def private(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    """A lab that uses somebody's private wiki, with a bot password from the environment."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make()
        server.up(lab)
        with Folders(lab).settings.open("a") as settings:
            settings.write("$wgGroupPermissions['*']['read'] = false;\n")
        daemon.send(lifecycle.web_server(Folders(lab)), signal.SIGUSR1)
        theirs = lab.model_copy(
            update={"wiki": lab.wiki.model_copy(update={"url": api_url(lab)}), "outputs": str(folder / "o")}
        )  # fmt: skip
        until(lambda: session.site_info(theirs).private)
        password = session.passwords(lab).publish.get_secret_value()
        monkeypatch.setenv(session.USER_VARIABLE, f"{session.BOT}@{session.APP}")
        monkeypatch.setenv(session.PASSWORD_VARIABLE, password)
        yield theirs


def test_a_private_wiki_is_published_to(private: Lab) -> None:
    """It counts as up, takes the report, and has nothing left to do the second time."""
    assert server.up(private).holds
    ran(private, result(171))
    first, second = publication.publish(private), publication.publish(private)
    assert first.holds
    assert first.value.edited
    assert not second.changed
