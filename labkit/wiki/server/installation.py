"""Installs the lab's own wiki: Debian's MediaWiki, unpacked beside the system, and a database for it.

No service is installed, and /etc stays as it was. Installing the package would bring apache2's service and a job runner
with it. Here apt downloads and verifies the same two packages, and dpkg-deb unpacks them into the cache that all labs
share. A database that is there is whole, and is never made anew.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit import reading
from labkit.core import cache, daemon, journal, run
from labkit.core.files import write_atomically
from labkit.errors import CommandError, MachineError, StateError, WikiError, excerpt
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client.session import ADMINISTRATOR, Passwords, origin
from labkit.wiki.server import configuration, credentials, databases
from labkit.wiki.server.configuration import (
    ACCOUNT,
    DATABASE,
    USER,
    Folders,
    owned,
    require_reachable,
)

PACKAGES = ("mediawiki", "mediawiki-classes")
#: Where the packages keep MediaWiki, below the folder they are unpacked to.
INSIDE = "usr/share/mediawiki"


class Installed(Record):
    """The MediaWiki and the passwords (their hash) for which a database was last brought up to date; '' is never."""

    mediawiki: str = ""
    accounts: str = ""


def folders_made(folders: Folders) -> None:
    """Creates the wiki's folders; the web server owns those that it writes into."""
    for path in (folders.root, folders.logs, folders.php, folders.run):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o755)  # whatever root's umask is
    owned(folders.images, 0o755)
    owned(folders.cache, 0o700)
    folders.log.touch(mode=0o640)
    shutil.chown(folders.log, USER, USER)


def program(lab: Lab) -> Path:
    """MediaWiki's folder: the version that the database was last brought up to date for, else the newest."""
    known = _recorded(Folders(lab)).mediawiki
    folder = installation(lab.cache_dir, known)
    found = folder if known and whole(folder) else fetch(lab.cache_dir, offline=lab.offline)
    require_reachable(found)
    cache.hold(lab, "mediawiki", lab.cache_dir / "mediawiki" / version(found))
    return found


def database(lab: Lab, passwords: Passwords, mediawiki: Path) -> bool:
    """Installs the database, whole or not at all, unless it is there; returns whether it had to. The accounts are
    made by :func:`renew`."""
    folders = Folders(lab)
    if folders.data.exists():
        return False
    daemon.stop(
        lab, databases.MariaDB.part(folders, folders.root).daemon
    )  # of a killed installation
    for killed in folders.root.glob("*.part*"):
        shutil.rmtree(killed) if killed.is_dir() else killed.unlink()
    part = folders.root / f"{folders.database}.{secrets.token_hex(4)}.part"
    owned(part, 0o700)
    if folders.database == "sqlite":
        options = ["--dbtype=sqlite", f"--dbpath={part}", "--dbname=wiki"]
        _installer(lab, passwords, mediawiki, part, options)
    else:
        _mariadb(lab, passwords, mediawiki, part)
    part.rename(folders.data)
    _record(folders, Installed(mediawiki=version(mediawiki)))
    return True


def renew(lab: Lab, passwords: Passwords, mediawiki: Path) -> bool:
    """Brings the database, whose server runs, up to date for this MediaWiki, and gives the accounts these passwords;
    returns whether there was anything to do."""
    folders = Folders(lab)
    wanted = Installed(mediawiki=version(mediawiki), accounts=credentials.fingerprint(passwords))
    recorded = _recorded(folders)
    if recorded == wanted:
        return False
    if folders.database == "mariadb":
        databases.account(databases.MariaDB.of(folders), passwords.database)
    text = configuration.local_settings(lab, passwords)
    with _secret(folders.root / "LocalSettings.part.php", text) as settings:
        if recorded.mediawiki != wanted.mediawiki:
            credentials.as_server(
                [credentials.php_program(), mediawiki / "maintenance/update.php", "--quick"],
                env={"MW_CONFIG_FILE": str(settings)},
                timeout=600,
            )
        credentials.apply(folders, passwords, mediawiki=mediawiki, settings=settings)
    _record(folders, wanted)
    return True


def private(path: Path, text: str) -> None:
    """Writes a file that, besides root, only the web server's account can read."""
    write_atomically(path, text, mode=0o600)
    shutil.chown(path, "root", USER)
    path.chmod(0o640)


@contextmanager
def _secret(path: Path, text: str) -> Iterator[Path]:
    """Writes a :func:`private` file and removes it after the block."""
    private(path, text)
    try:
        yield path
    finally:
        path.unlink()


def _mariadb(lab: Lab, passwords: Passwords, mediawiki: Path, part: Path) -> None:
    """Installs with a temporary MariaDB, whose data folder is moved into place when it has ended."""
    folders = Folders(lab)
    server = databases.MariaDB.part(folders, part)
    databases.make(server)
    databases.start(lab, server)
    try:
        databases.account(server, passwords.database)
        plain = passwords.database.get_secret_value()
        with _secret(folders.root / "password.part", plain) as secret:
            options = [
                "--dbtype=mysql", f"--dbserver=localhost:{server.socket}", f"--dbname={DATABASE}",
                f"--dbuser={ACCOUNT}", f"--dbpassfile={secret}",
            ]  # fmt: skip
            _installer(lab, passwords, mediawiki, part, options)
    finally:
        daemon.stop(lab, server.daemon)
        server.config.unlink()


def _record(folders: Folders, installed: Installed) -> None:
    write_atomically(folders.installed, installed.model_dump_json() + "\n")


def _recorded(folders: Folders) -> Installed:
    """The record of the database; a missing or damaged one counts as empty, and is written again."""
    try:
        return Installed.model_validate_json(reading.content(folders.installed))
    except (OSError, ValueError):
        return Installed()


def _installer(
    lab: Lab, passwords: Passwords, mediawiki: Path, part: Path, options: list[str]
) -> None:
    """Runs MediaWiki's own installer; the LocalSettings.php that it writes is not used."""
    written = part.with_name(f"{part.name}.installer")
    owned(written, 0o700)
    command: list[str | Path] = [
        credentials.php_program(), mediawiki / "maintenance/install.php", *options, f"--server={origin(lab)}",
        "--scriptpath=/w", "--lang=en", "--passfile=php://stdin", f"--confpath={written}",
        configuration.site_name(lab), ADMINISTRATOR,
    ]  # fmt: skip
    administrator = passwords.administrator.get_secret_value()
    try:
        credentials.as_server(command, env={}, stdin=administrator, timeout=300)
    except CommandError as error:
        raise WikiError(
            str(Folders(lab).data), f"MediaWiki's installer failed: {excerpt(error.stderr)}",
            "check that PHP's extensions are installed (`./lab doctor`)", error.again, code="wiki.installer",
        ) from None  # fmt: skip
    finally:
        shutil.rmtree(written)


def fetch(shared: Path, *, offline: bool = False) -> Path:
    """The folder of MediaWiki's newest version that apt offers, unpacked in the cache if need be.

    A version that is there already serves when apt has nothing to offer (no package lists, no network).
    """
    with journal.lock(shared / "locks", "mediawiki"):
        offered, present = candidate(), versions(shared)
        if offered in present:
            return installation(shared, offered)
        reason, remedy, code = (
            f"there is no version of it in {shared}, and labkit is offline",
            "run it once without --offline, where the machine's Debian mirror can be reached",
            "machine.offline",
        )
        if not offline:
            try:
                return _download(shared, offered)
            except CommandError as error:
                reason, remedy, code = (
                    f"apt cannot download Debian's package: {excerpt(error.stderr)}",
                    "run `apt-get update` and check that the machine's Debian mirror answers",
                    "machine.mirror",
                )
        if present:
            return installation(shared, present[-1])
        again = "apt-get download --print-uris mediawiki"
        raise MachineError("mediawiki", reason, remedy, again, code=code)


def installation(shared: Path, version: str) -> Path:
    """The folder that MediaWiki calls its installation path."""
    return shared / "mediawiki" / version / INSIDE


def whole(program: Path) -> bool:
    """Whether MediaWiki is in an :func:`installation` as it was unpacked."""
    return cache.whole(_unpacked(program))


def version(program: Path) -> str:
    """The package's version of an :func:`installation`, without its epoch."""
    return _unpacked(program).name


def _unpacked(program: Path) -> Path:
    return program.parents[INSIDE.count("/")]


def versions(shared: Path) -> list[str]:
    """The versions that are unpacked in the cache, the oldest unpacked first."""
    folder = shared / "mediawiki"
    found = [item for item in folder.glob("[!.]*") if whole(item / INSIDE)]
    return [item.name for item in sorted(found, key=cache.sealed)]


def candidate() -> str:
    """The version that apt would install, without its epoch; '' when apt knows none."""
    policy = run.run(["apt-cache", "policy", PACKAGES[0]]).stdout
    found = re.search(r"^\s*Candidate: (?:\d+:)?(?!\(none\))(\S+)$", policy, re.MULTILINE)
    return found[1] if found else ""


def _download(shared: Path, version: str) -> Path:
    """Downloads and unpacks the packages' newest ``version``; returns its :func:`installation`, made whole or not at
    all."""
    folder = shared / "mediawiki"
    for killed in folder.glob(".*.part"):
        shutil.rmtree(killed)
    aside = folder / f".{os.getpid()}.part"
    tree = aside / "tree"
    tree.mkdir(parents=True)
    for path in (folder, tree):
        path.chmod(0o755)  # whatever root's umask is: the web server reads it
    try:
        sandbox = "APT::Sandbox::User=root"  # the account _apt cannot write into the cache
        run.run(["apt-get", "-o", sandbox, "download", *PACKAGES], cwd=aside, timeout=600)
        for package in aside.glob("*.deb"):
            run.run(["dpkg-deb", "--extract", package, tree], timeout=300)
        relink(tree)
        cache.seal(tree)
        shutil.rmtree(folder / version, ignore_errors=True)  # damaged
        tree.rename(folder / version)
        return installation(shared, version)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def relink(tree: Path) -> None:
    """Makes the packages' absolute links relative, so that they lead within ``tree``; those that
    then lead nowhere (to configuration and data, which each lab has of its own) are removed."""
    links = [path for path in tree.rglob("*") if path.is_symlink()]
    for link in links:
        target = link.readlink()
        if target.is_absolute():
            inside = tree / target.relative_to("/")
            link.unlink()
            link.symlink_to(os.path.relpath(inside, link.parent))
    for link in links:
        if not link.exists():
            link.unlink()
    if not (tree / INSIDE / "api.php").is_file():
        raise StateError(
            str(tree),
            "the package does not hold MediaWiki where Debian 12 and 13 do",
            "report this",
            code="state.mediawiki-package",
        )
