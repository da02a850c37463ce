"""The MariaDB of the lab's own below the wiki."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from pydantic import SecretStr

from labkit import Lab
from labkit.core import daemon, run, undo
from labkit.errors import CommandError, ConfigError, WikiError
from labkit.wiki import server
from labkit.wiki.client import session
from labkit.wiki.server import databases, rights
from labkit.wiki.server.configuration import Folders
from labkit.wiki.server.databases import MariaDB


@pytest.mark.parametrize(
    ("password", "quoted"),
    [("plain", "'plain'"), ("it's", "'it''s'"), ("back\\slash", r"'back\\slash'")],
)
def test_password_is_quoted(password: str, quoted: str) -> None:
    """A password that somebody chose stays one literal of SQL."""
    assert f"IDENTIFIED BY {quoted};" in databases.account_sql(SecretStr(password))


def test_socket_with_too_long_a_path_is_refused(lab: Lab, tmp_path: Path) -> None:
    """A socket's path that Linux cannot take is refused with the key that is to be changed."""
    deep = MariaDB.part(
        Folders(lab.model_copy(update={"run": str(tmp_path / ("x" * 120))})), tmp_path / "data"
    )
    with pytest.raises(ConfigError, match=r"^run: .*at most 107 bytes"):
        databases.start(lab, deep)
    assert not deep.data.exists()


@pytest.mark.root
def test_wiki_on_mariadb(
    make_lab: Callable[..., Lab], watched: AbstractContextManager[set[str]]
) -> None:
    """The wiki on MariaDB: no password in a process list, rights on one database, no network; what
    was saved is there after a killed server and after down and up."""
    lab = make_lab(wiki_database="mariadb")
    with watched as commands:
        assert server.up(lab).changed
    words = list(session.passwords(lab).plain().values())
    assert any("--dbpassfile=" in line for line in commands)
    assert not [line for line in commands if any(word in line for word in words)]
    assert not server.up(lab).changed

    found = rights.database(lab)
    assert {check.name: check.holds for check in found.checks} == {
        "wiki.database.grants": True,
        "wiki.database.other": True,
        "wiki.database.network": True,
    }
    assert not [word for word in words if word in found.model_dump_json()]
    assert "IDENTIFIED" not in found.model_dump_json()  # the password's hash
    instance = MariaDB.of(Folders(lab))
    pid = daemon.pid(instance.daemon) or 0
    assert f"pid={pid}," not in run.run(["ss", "-H", "-l", "-n", "-t", "-p"]).stdout
    assert rights.owner_and_mode(instance.data) == "www-data 0700"

    session.open(lab).pages["Kept"].save("by people")
    os.kill(pid, signal.SIGKILL)
    assert server.up(lab).changed
    assert session.open(lab).pages["Kept"].text() == "by people"
    assert server.down(lab).changed
    assert not undo.daemon_pids(str(instance.config))
    server.up(lab)
    assert session.open(lab).pages["Kept"].text() == "by people"


@pytest.fixture
def instance(lab: Lab) -> Iterator[MariaDB]:
    """A server that runs, without a wiki."""
    folders = Folders(lab)
    folders.logs.mkdir(parents=True)
    folders.root.chmod(0o755)
    made = MariaDB.of(folders)
    databases.make(made)
    databases.start(lab, made)
    yield made
    daemon.stop(lab, made.daemon)


@pytest.mark.root
def test_a_row_that_another_has_changed_is_locked_as_it_is_now(instance: MariaDB) -> None:
    """What MediaWiki counts on when it saves or moves a page: it reads a row, and locks it later."""
    client = ["mariadb", f"--defaults-file={instance.config}", "--user=root", "d", "--execute"]
    change = shlex.join([*client, "UPDATE t SET n = 2"])
    lines = (
        "CREATE DATABASE d; USE d; CREATE TABLE t (n INT); INSERT INTO t VALUES (1);",
        "START TRANSACTION; SELECT n FROM t;",
        f"\\! {change}",
        "SELECT n FROM t FOR UPDATE; COMMIT;",
    )
    said = databases.sql(instance, "\n".join(lines))
    assert said == [["1"], ["2"]]


@pytest.mark.root
def test_refused_account_shows_no_password(instance: MariaDB) -> None:
    """MariaDB's client quotes the statement that failed; the error that a person sees does not."""
    databases.sql(instance, "DROP TABLE mysql.global_priv;")
    with pytest.raises(CommandError, match="hunter2"):
        databases.sql(instance, databases.account_sql(SecretStr("hunter2")))
    with pytest.raises(WikiError, match="MariaDB refuses the account: error") as error:
        databases.account(instance, SecretStr("hunter2"))
    assert "hunter2" not in str(error.value)
