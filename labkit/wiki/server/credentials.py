"""Makes the wiki's accounts and their passwords: generated once, kept in one file that root alone reads.

A password reaches MediaWiki through standard input or a file, never by a command line. How passwords are read is in
:mod:`labkit.wiki.client.session`.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from labkit import reading
from labkit.core import run
from labkit.core.files import write_atomically
from labkit.errors import CommandError, WikiError, excerpt
from labkit.model.lab import Lab
from labkit.wiki.client import session
from labkit.wiki.client.session import (
    ADMINISTRATOR,
    APP,
    BOT,
    PUBLISH,
    STUDENT,
    TEACHER,
    TEACHERS,
    Passwords,
)
from labkit.wiki.server.configuration import USER, Folders

#: The fewest grants with which pages and files can be published.
GRANTS = ("createeditmovepage", "uploadfile")
#: The administrator installed the wiki, and so has what its installer gives; the student writes, and has no right
#: over what others wrote.
GROUPS = {
    ADMINISTRATOR: ("bureaucrat", "interface-admin", "sysop"),
    TEACHER: ("sysop", TEACHERS),
    STUDENT: (),
    BOT: (),
}


def new() -> dict[str, str]:
    """Fresh passwords, by the names of :class:`Passwords`, from the kernel's random numbers."""
    people = ("student", "teacher", "administrator", "labkit", "database")
    return {
        **{name: secrets.token_urlsafe(15) for name in people},
        "publish": secrets.token_hex(PUBLISH // 2),
        "secret_key": secrets.token_hex(32),
        "upgrade_key": secrets.token_hex(8),
    }


def keep(lab: Lab) -> Passwords:
    """Returns the wiki's passwords; generates missing ones and writes them into a file that only root can read."""
    path, known = session.passwords_file(lab), {}
    with suppress(OSError, ValueError):
        known = reading.json_of(path)
    older = isinstance(known, dict) and known.keys() == new().keys() - {"administrator"}
    if older or not path.exists():
        write_atomically(path, json.dumps({**new(), **known}, indent=2) + "\n", mode=0o600)
    return session.passwords(lab)


def fingerprint(passwords: Passwords) -> str:
    """A hash that changes with each password and reveals none."""
    return hashlib.sha256(json.dumps(passwords.plain()).encode()).hexdigest()


def apply(folders: Folders, passwords: Passwords, *, mediawiki: Path, settings: Path) -> None:
    """Creates or updates the accounts with their passwords and groups, and the bot's bot password with its grants."""
    script = folders.root / "accounts.php"
    write_atomically(
        script, resources.files("labkit.wiki.server").joinpath(script.name).read_bytes()
    )
    script.chmod(0o644)
    try:
        as_server(
            [php_program(), script],
            env={"MW_INSTALL_PATH": str(mediawiki), "MW_CONFIG_FILE": str(settings)},
            stdin=json.dumps(request(passwords)),
        )
    except CommandError as error:
        raise WikiError(
            str(folders.passwords),
            f"MediaWiki does not give the accounts these passwords: {excerpt(error.stderr)}",
            "if one of them was edited, correct it, or move the file away: the next start makes new ones",
            error.again,
            code="wiki.accounts",
        ) from None


def request(passwords: Passwords) -> dict[str, Any]:
    """What ``accounts.php`` reads. Pure."""
    plain = passwords.plain()
    return {
        "accounts": [
            {"name": name, "password": plain[name.lower()], "groups": list(groups)}
            for name, groups in GROUPS.items()
        ],
        "bot": {
            "name": BOT,
            "app": APP,
            "password": plain["publish"],
            "grants": ["basic", *GRANTS],
        },
    }


def as_server(
    argv: list[str | Path], *, env: dict[str, str], stdin: str | None = None, timeout: float = 120
) -> str:
    """Runs one of MediaWiki's own programs as the web server's account; returns what it wrote."""
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--"]
    return run.run([*drop, *argv], env=env, stdin=stdin, timeout=timeout).stdout


def php_program() -> str:
    """PHP's command-line program of the version that the web server's module has."""
    version = php_module().name.removeprefix("libphp").removesuffix(".so")
    return f"php{version}" if run.which(f"php{version}") else "php"


def php_module() -> Path:
    """Debian's PHP module for apache2, the newest when there are several."""
    found = Path("/usr/lib/apache2/modules").glob("libphp*.so")
    ordered = sorted(found, key=lambda path: [int(part) for part in path.stem[6:].split(".")])
    if not ordered:
        raise run.missing("libapache2-mod-php")
    return ordered[-1]
