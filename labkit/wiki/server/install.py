"""Installing the lab's own wiki: a database that is there is whole, and is never made anew."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from labkit import reading
from labkit.core import cache
from labkit.core.files import write_atomically
from labkit.errors import CommandError, WikiError, excerpt
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import accounts
from labkit.wiki.client.accounts import Passwords
from labkit.wiki.client.folders import USER, Folders, origin, owned, require_reachable, site_name
from labkit.wiki.server import mariadb, mediawiki, settings


class Installed(Record):
    """What a database was last made fit for; the hash is of all passwords, '' is not yet."""

    mediawiki: str = ""
    accounts: str = ""


def folders_made(folders: Folders) -> None:
    """The wiki's folders are there, those that the web server writes into owned by it."""
    for path in (folders.root, folders.logs, folders.php, folders.run):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)  # whatever root's umask is
    owned(folders.images, 0o755)
    owned(folders.cache, 0o700)
    log = folders.logs / "mediawiki.log"
    log.touch(mode=0o640)
    shutil.chown(log, USER, USER)


def program(lab: Lab) -> Path:
    """MediaWiki's folder: of the version that the database was made fit for, else the newest."""
    known = _recorded(Folders.of(lab)).mediawiki
    folder = mediawiki.installation(lab.cache_dir, known)
    found = (
        folder
        if known and mediawiki.whole(folder)
        else mediawiki.fetch(lab.cache_dir, offline=lab.offline)
    )
    require_reachable(found)
    cache.hold(lab, "mediawiki", lab.cache_dir / "mediawiki" / mediawiki.version(found))
    return found


def database(lab: Lab, passwords: Passwords, mediawiki_folder: Path) -> bool:
    """The database is there: installed whole, or not at all; returns whether it had to be."""
    folders = Folders.of(lab)
    if folders.data.exists():
        return False
    _clear_killed(lab, folders)
    part = folders.root / f"{folders.database}.{secrets.token_hex(4)}.part"
    owned(part, 0o700)
    install = _sqlite if folders.database == "sqlite" else _mariadb
    install(lab, passwords, mediawiki_folder, part)
    part.rename(folders.data)
    _record(folders, passwords, mediawiki_folder)
    return True


def _clear_killed(lab: Lab, folders: Folders) -> None:
    """Removes what an installation that was killed has left."""
    mariadb.stop(lab, mariadb.Server.part(folders, folders.root))
    for killed in folders.root.glob(f"{folders.database}.*.part*"):
        shutil.rmtree(killed)
    for path in (_part_settings(folders), _part_password(folders)):
        path.unlink(missing_ok=True)


def _part_settings(folders: Folders) -> Path:
    return folders.root / "LocalSettings.part.php"


def _part_password(folders: Folders) -> Path:
    return folders.root / "password.part"


def renew(lab: Lab, passwords: Passwords, mediawiki_folder: Path) -> bool:
    """The database, whose server runs, is fit for this MediaWiki and its accounts have these
    passwords; returns whether anything had to be done."""
    folders = Folders.of(lab)
    recorded, wanted = _recorded(folders), _wanted(passwords, mediawiki_folder)
    if recorded == wanted:
        return False
    if folders.database == "mariadb":
        mariadb.account(mariadb.Server.of(folders), passwords.database)
    with local_settings(lab, passwords, folders.data, folders.socket) as local:
        if recorded.mediawiki != wanted.mediawiki:
            script = mediawiki_folder / "maintenance/update.php"
            accounts.as_server(
                [accounts.php_program(), script, "--quick"],
                env={"MW_CONFIG_FILE": str(local)},
                timeout=600,
            )
        accounts.apply(folders, passwords, mediawiki=mediawiki_folder, settings=local)
    _record(folders, passwords, mediawiki_folder)
    return True


def settings_of(lab: Lab, passwords: Passwords, data: Path, socket: Path) -> settings.Settings:
    """What the lab's LocalSettings.php is made of, for a database in ``data`` or at ``socket``."""
    folders = Folders.of(lab)
    return settings.Settings(
        name=site_name(lab),
        origin=origin(lab),
        database=lab.wiki.database,
        data=data,
        socket=socket,
        images=folders.images,
        cache=folders.cache,
        log=folders.logs / "mediawiki.log",
        secret_key=passwords.secret_key,
        upgrade_key=passwords.upgrade_key,
        database_password=passwords.database,
    )


def private(path: Path, text: str) -> None:
    """A file that root writes and the web server's account alone reads besides."""
    write_atomically(path, text, mode=0o600)
    shutil.chown(path, "root", USER)
    path.chmod(0o640)


@contextmanager
def local_settings(lab: Lab, passwords: Passwords, data: Path, socket: Path) -> Iterator[Path]:
    """A LocalSettings.php for as long as MediaWiki's own programs work on a database."""
    path = _part_settings(Folders.of(lab))
    private(path, settings.local_settings(settings_of(lab, passwords, data, socket)))
    try:
        yield path
    finally:
        path.unlink()


def _sqlite(lab: Lab, passwords: Passwords, mediawiki_folder: Path, part: Path) -> None:
    given = ["--dbtype=sqlite", f"--dbpath={part}", "--dbname=wiki"]
    _installer(lab, passwords, mediawiki_folder, part, given)
    folders = Folders.of(lab)
    with local_settings(lab, passwords, part, folders.socket) as local:
        accounts.apply(folders, passwords, mediawiki=mediawiki_folder, settings=local)


def _mariadb(lab: Lab, passwords: Passwords, mediawiki_folder: Path, part: Path) -> None:
    """Installs into a server of its own, whose data folder is moved when it has ended."""
    folders = Folders.of(lab)
    server = mariadb.Server.part(folders, part)
    mariadb.make(server)
    mariadb.start(lab, server)
    try:
        mariadb.account(server, passwords.database)
        with _password_file(folders, passwords.database) as secret:
            given = [
                "--dbtype=mysql",
                f"--dbserver=localhost:{server.socket}",
                f"--dbname={mariadb.DATABASE}",
                f"--dbuser={mariadb.ACCOUNT}",
                f"--dbpassfile={secret}",
            ]
            _installer(lab, passwords, mediawiki_folder, part, given)
        with local_settings(lab, passwords, part, server.socket) as local:
            accounts.apply(folders, passwords, mediawiki=mediawiki_folder, settings=local)
    finally:
        mariadb.stop(lab, server)
        server.config.unlink()


@contextmanager
def _password_file(folders: Folders, password: SecretStr) -> Iterator[Path]:
    """A file with one password, which the web server's account can read, for as long as the block."""
    path = _part_password(folders)
    private(path, password.get_secret_value())
    try:
        yield path
    finally:
        path.unlink()


def _wanted(passwords: Passwords, mediawiki_folder: Path) -> Installed:
    return Installed(
        mediawiki=mediawiki.version(mediawiki_folder), accounts=passwords.fingerprint()
    )


def _record(folders: Folders, passwords: Passwords, mediawiki_folder: Path) -> None:
    text = _wanted(passwords, mediawiki_folder).model_dump_json()
    write_atomically(folders.installed, text + "\n")


def _recorded(folders: Folders) -> Installed:
    """What was recorded; a record that is missing or damaged is none, and is made again."""
    try:
        return Installed.model_validate_json(reading.content(folders.installed))
    except (OSError, ValueError):
        return Installed()


def _installer(
    lab: Lab, passwords: Passwords, mediawiki_folder: Path, part: Path, given: list[str]
) -> None:
    """Runs MediaWiki's own installer; the LocalSettings.php that it writes is not used."""
    written = part.with_name(f"{part.name}.installer")
    owned(written, 0o700)
    command: list[str | Path] = [
        accounts.php_program(),
        mediawiki_folder / "maintenance/install.php",
        *given,
        f"--server={origin(lab)}",
        "--scriptpath=/w",
        "--lang=en",
        "--passfile=php://stdin",
        f"--confpath={written}",
        site_name(lab),
        accounts.ADMINISTRATOR,
    ]
    try:
        accounts.as_server(
            command, env={}, stdin=passwords.administrator.get_secret_value(), timeout=300
        )
    except CommandError as error:
        raise WikiError(
            str(Folders.of(lab).data), f"MediaWiki's installer failed: {excerpt(error.stderr)}",
            "see that PHP's extensions are installed (`./lab doctor`)", error.again, code="wiki.installer",
        ) from None  # fmt: skip
    finally:
        shutil.rmtree(written)
