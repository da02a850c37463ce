"""Installing the lab's own wiki: a database that is there is whole, and is never made anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from labkit.errors import CommandError, WikiError
from labkit.files import write_atomically
from labkit.lab import Lab
from labkit.result import Record
from labkit.wiki import accounts, mediawiki, settings
from labkit.wiki.accounts import Passwords
from labkit.wiki.folders import USER, Folders, origin, require_reachable, site_name


class Installed(Record):
    """What a database was last made fit for; the hash is of all passwords, '' is not yet."""

    mediawiki: str = ""
    accounts: str = ""


def settings_of(lab: Lab, passwords: Passwords, data: Path) -> settings.Settings:
    """What the lab's LocalSettings.php is made of, for a database in ``data``."""
    folders = Folders.of(lab)
    return settings.Settings(
        name=site_name(lab),
        origin=origin(lab),
        database=lab.wiki.database,
        data=data,
        socket=folders.socket,
        images=folders.images,
        cache=folders.cache,
        secret_key=passwords.secret_key,
        upgrade_key=passwords.upgrade_key,
        database_password=passwords.database,
    )


def folders_made(folders: Folders) -> None:
    """The wiki's folders are there, those that the web server writes into owned by it."""
    for path in (folders.root, folders.logs, folders.php, folders.run):
        path.mkdir(parents=True, exist_ok=True)
    for path, mode in ((folders.images, 0o755), (folders.cache, 0o700)):
        owned(path, mode)


def owned(path: Path, mode: int) -> None:
    """A folder of the web server's account."""
    path.mkdir(parents=True, exist_ok=True)
    shutil.chown(path, USER, USER)
    path.chmod(mode)


def private(path: Path, text: str) -> None:
    """A file that root writes and the web server's account alone reads besides."""
    write_atomically(path, text, mode=0o600)
    shutil.chown(path, "root", USER)
    path.chmod(0o640)


def ensure(lab: Lab, passwords: Passwords) -> tuple[Path, bool]:
    """The database is there, fit for MediaWiki's version, its accounts have their passwords.

    Returns MediaWiki's folder, and whether anything had to be done.
    """
    folders = Folders.of(lab)
    recorded = _recorded(folders)
    known = mediawiki.installation(lab.cache_dir, recorded.mediawiki)
    program = known if recorded.mediawiki and known.is_dir() else mediawiki.fetch(lab.cache_dir)
    require_reachable(program)
    wanted = Installed(mediawiki=mediawiki.version(program), accounts=passwords.fingerprint())
    if folders.data.exists() and wanted == recorded:
        return program, False
    if not folders.data.exists():
        sqlite(lab, passwords, program)
    else:
        _renew(lab, passwords, program)
    write_atomically(folders.installed, wanted.model_dump_json() + "\n")
    return program, True


def sqlite(lab: Lab, passwords: Passwords, program: Path) -> None:
    """Installs the SQLite database with all accounts: whole, or not at all."""
    folders = Folders.of(lab)
    shutil.rmtree(folders.part, ignore_errors=True)  # of an installation that was killed
    owned(folders.part, 0o700)
    _installer(
        lab, passwords, program, ["--dbtype=sqlite", f"--dbpath={folders.part}", "--dbname=wiki"]
    )
    with _settings(lab, passwords, folders.part) as local:
        accounts.apply(folders, passwords, mediawiki=program, settings=local)
    folders.part.rename(folders.data)


def _renew(lab: Lab, passwords: Passwords, program: Path) -> None:
    """Makes a database that is there fit for another MediaWiki or other passwords."""
    folders = Folders.of(lab)
    with _settings(lab, passwords, folders.data) as local:
        update: list[str | Path] = [
            accounts.php_program(),
            program / "maintenance/update.php",
            "--quick",
        ]
        accounts.as_server(update, env={"MW_CONFIG_FILE": str(local)}, timeout=600)
        accounts.apply(folders, passwords, mediawiki=program, settings=local)


@contextmanager
def _settings(lab: Lab, passwords: Passwords, data: Path) -> Iterator[Path]:
    """A LocalSettings.php for as long as MediaWiki's own programs work on ``data``."""
    path = Folders.of(lab).root / "LocalSettings.part.php"
    private(path, settings.local_settings(settings_of(lab, passwords, data)))
    try:
        yield path
    finally:
        path.unlink()


def _recorded(folders: Folders) -> Installed:
    """What was recorded; a record that is missing or damaged is none, and is made again."""
    try:
        return Installed.model_validate_json(folders.installed.read_bytes())
    except (FileNotFoundError, ValidationError):
        return Installed()


def _installer(lab: Lab, passwords: Passwords, program: Path, database: list[str]) -> None:
    """Runs MediaWiki's own installer; the LocalSettings.php that it writes is not used."""
    folders = Folders.of(lab)
    written = folders.part / "installer"
    owned(written, 0o700)
    command: list[str | Path] = [
        accounts.php_program(),
        program / "maintenance/install.php",
        *database,
        f"--server={origin(lab)}",
        "--scriptpath=/w",
        "--lang=en",
        "--passfile=php://stdin",
        f"--confpath={written}",
        site_name(lab),
        accounts.STUDENT,
    ]
    try:
        accounts.as_server(command, env={}, stdin=passwords.student.get_secret_value(), timeout=300)
    except CommandError as error:
        raise WikiError(
            str(folders.data), f"MediaWiki's installer failed: {error.stderr.strip()[-600:]}",
            "see that PHP's extensions are installed (`./lab doctor`)", error.again,
        ) from None  # fmt: skip
    shutil.rmtree(written)
