"""The wiki's database: SQLite's files, or a MariaDB of the lab's own with a socket and no network.

MariaDB runs as the web server's account: Debian's ``mariadb-server-core`` makes no account of its own
(the package with the service does), and that account holds the password of the only database in
it anyway. Root comes in through the socket, known by the kernel and without a password; the wiki
through an account that has rights on its one database.
"""

from __future__ import annotations

import re
import shutil
import socket
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from labkit.core import daemon, run
from labkit.core.files import write_atomically
from labkit.errors import CommandError, ConfigError, StateError, WikiError
from labkit.model.lab import Lab
from labkit.wiki.server import configuration
from labkit.wiki.server.configuration import ACCOUNT, DATABASE, USER, Folders, owned

#: What MediaWiki needs on its one database, CREATE for the database itself included.
RIGHTS = (
    "SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "INDEX", "ALTER",
    "CREATE TEMPORARY TABLES", "LOCK TABLES",
)  # fmt: skip
#: Linux: a socket's path has at most 107 bytes (unix(7)).
SOCKET_PATH = 107
#: The file with pages and accounts; those beside it MediaWiki makes again (caches, sessions, jobs).
PAGES = "wiki.sqlite"
#: SQLite's primary result codes for a file that is damaged, or not one of SQLite
#: (https://www.sqlite.org/rescode.html).
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN)


def mend_sqlite(folder: Path) -> tuple[str, ...]:
    """Removes damaged SQLite files in ``folder`` that MediaWiki makes again (caches, sessions, jobs); returns their
    names.

    Raises :class:`StateError` when the pages themselves are damaged: they cannot be made again.
    """
    if wrong := sqlite_problem(folder / PAGES, table="page"):
        raise StateError(
            str(folder / PAGES),
            f"the wiki's pages are damaged: {wrong}",
            f"put a copy of that file back; or move {folder} away: the next start makes an empty wiki, "
            "and publishing fills it, without what people wrote",
            f"ls -la {folder}",
            code="state.damaged-pages",
        )
    others = [path for path in sorted(folder.glob("*.sqlite")) if path.is_file()]
    damaged = [path for path in others if sqlite_problem(path)]
    for path in damaged:
        for ending in ("", "-wal", "-shm", "-journal"):  # what was not yet written into it, too
            Path(f"{path}{ending}").unlink(missing_ok=True)
    return tuple(path.name for path in damaged)


def sqlite_problem(path: Path, *, table: str = "") -> str:
    """Describes the damage of a SQLite file; '' if it is intact or in use.

    :param table: one that it has to have.
    """
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True)) as database:
            (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    except sqlite3.Error as error:
        code = (error.sqlite_errorcode or 0) & 0xFF
        return str(error) if code in DAMAGED else ""
    if said != "ok":
        return str(said)
    return f"it has no table {table}" if table and table not in tables else ""


@dataclass(frozen=True)
class MariaDB:
    """A MariaDB server: its data folder, configuration file, socket and log."""

    data: Path
    config: Path
    socket: Path
    log: Path

    @property
    def pidfile(self) -> Path:
        """The file with the process id."""
        return self.socket.with_suffix(".pid")

    @property
    def daemon(self) -> daemon.Daemon:
        """The server's process. mariadbd does not go to the background by itself: setsid starts it there."""
        return daemon.Daemon(
            name="the wiki's MariaDB",
            argv=("setsid", "--fork", "mariadbd", f"--defaults-file={self.config}"),
            config=self.config,
            user=USER,
            pidfile=self.pidfile,
            log=self.log,
        )

    @classmethod
    def of(cls, folders: Folders) -> MariaDB:
        """The wiki's own server."""
        root, log = folders.root, folders.logs / "mariadb.log"
        return cls(root / "mariadb", root / "mariadb.cnf", folders.socket, log)

    @classmethod
    def part(cls, folders: Folders, data: Path) -> MariaDB:
        """The server that runs while the wiki is installed into the folder ``data``."""
        socket, log = folders.socket.with_name("part.sock"), folders.logs / "mariadb.log"
        return cls(data, folders.root / "mariadb.part.cnf", socket, log)


def make(server: MariaDB) -> None:
    """Makes the data folder: root enters through the socket alone, and there is no test database."""
    _prepare(server)
    command = [
        "mariadb-install-db", f"--defaults-file={server.config}", f"--user={USER}",
        f"--datadir={server.data}", "--auth-root-authentication-method=socket",
        "--skip-test-db", "--skip-name-resolve",
    ]  # fmt: skip
    run.run(command, timeout=180, remedy=f"read {server.log}")


def start(lab: Lab, server: MariaDB) -> bool:
    """Starts the server unless it runs, and waits until it answers; returns whether it had to start it."""
    _prepare(server)
    return daemon.start(lab, server.daemon, lambda: problem(server), patience=30)


def problem(server: MariaDB) -> str | None:
    """Why the server is not ready; None if it greets (protocol version 10) on its socket."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        try:
            client.connect(str(server.socket))
            greeting = client.recv(5)
        except OSError as error:
            return f"does not answer on {server.socket}: {error.strerror or error}"
    return None if greeting[4:5] == b"\x0a" else "refuses connections"


def sql(server: MariaDB, statements: str) -> list[list[str]]:
    """Runs statements (from standard input: no process list shows them) as root and returns the rows of their answers, without headings."""
    command = ["mariadb", f"--defaults-file={server.config}", "--user=root"]
    done = run.run([*command, "--batch", "--skip-column-names"], stdin=statements)
    return [line.split("\t") for line in done.stdout.splitlines()]


def refused(server: MariaDB, password: SecretStr, statement: str) -> str:
    """Runs a statement as the wiki's account; returns MariaDB's error, '' for none."""
    login = f"[client]\nuser={ACCOUNT}\npassword={password.get_secret_value()}\n"
    command = ["mariadb", "--defaults-file=/dev/stdin", f"--socket={server.socket}"]
    done = run.run([*command, "--execute", statement], stdin=login, ok=(0, 1))
    return done.stderr.strip().rpartition("\n")[2] if done.status else ""


def account(server: MariaDB, password: SecretStr) -> None:
    """Creates the wiki's account, or updates it: its password, and :data:`RIGHTS` on the one database."""
    try:
        sql(server, account_sql(password))
    except CommandError as error:  # the client quotes the statement, and so the password
        number = re.search(r"ERROR (\d+)", error.stderr)
        raise WikiError(
            f"{ACCOUNT}@localhost",
            f"MariaDB refuses the account: error {number[1] if number else 'unknown'}",
            f"read {server.log}",
            code="wiki.database-account",
        ) from None


def account_sql(password: SecretStr) -> str:
    """The statements that create the wiki's account and grant its rights. Pure."""
    quoted = password.get_secret_value().replace("\\", "\\\\").replace("'", "''")
    who = f"'{ACCOUNT}'@'localhost'"
    return (
        f"CREATE USER IF NOT EXISTS {who} IDENTIFIED BY '{quoted}';\n"
        f"ALTER USER {who} IDENTIFIED BY '{quoted}';\n"
        f"REVOKE ALL PRIVILEGES, GRANT OPTION FROM {who};\n"
        f"GRANT {', '.join(RIGHTS)} ON `{DATABASE}`.* TO {who};\n"
    )


def grants(server: MariaDB) -> tuple[str, ...]:
    """The account's rights as MariaDB states them, without the hash of the password."""
    rows = sql(server, f"SHOW GRANTS FOR '{ACCOUNT}'@'localhost';")
    return tuple(re.sub(r" IDENTIFIED .*$", "", row[0]) for row in rows)


def wanted_grants() -> tuple[str, ...]:
    """The expected output of ``SHOW GRANTS``: rights on the one database only."""
    who = f"`{ACCOUNT}`@`localhost`"
    return (
        f"GRANT USAGE ON *.* TO {who}",
        f"GRANT {', '.join(RIGHTS)} ON `{DATABASE}`.* TO {who}",
    )


def _prepare(server: MariaDB) -> None:
    """Creates the configuration, the log and the folders that the server's account needs."""
    if len(str(server.socket).encode()) > SOCKET_PATH:
        raise ConfigError(
            f"run: {server.socket}",
            f"a socket's path has at most {SOCKET_PATH} bytes",
            "set `run` to a shorter folder",
            code="config.socket-path",
        )
    owned(server.data, 0o700)
    owned(server.socket.parent, 0o750)
    if not server.log.exists():
        write_atomically(server.log, "", mode=0o640)
        shutil.chown(server.log, USER, USER)
    write_atomically(server.config, configuration.text("mariadb.cnf.j2", server=server))
