"""The wiki's accounts and their passwords: generated, kept in one file that root alone reads.

A password is a :class:`pydantic.SecretStr` from the moment it is made, so that neither a printed
value nor an exception shows it, and reaches MediaWiki through standard input or a file.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from labkit import reading
from labkit.core import run
from labkit.core.files import write_atomically
from labkit.errors import CommandError, StateError, WikiError, excerpt
from labkit.records import Record
from labkit.wiki.client.folders import USER, Folders

#: MediaWiki begins each name with a capital letter.
STUDENT, TEACHER, ADMINISTRATOR, BOT = "Student", "Teacher", "Administrator", "Labkit"
#: The wiki's group whose accounts settle any remark.
TEACHERS = "teacher"
#: The name of the bot password: it logs in as ``Labkit@publish``.
APP = "publish"
#: A bot password has exactly so many characters.
PUBLISH = 32
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


class Passwords(Record):
    """All that is secret of one wiki; printing it shows stars."""

    student: SecretStr
    teacher: SecretStr
    administrator: SecretStr
    labkit: SecretStr
    publish: SecretStr
    database: SecretStr
    secret_key: SecretStr
    upgrade_key: SecretStr

    @classmethod
    def new(cls) -> Passwords:
        """Fresh ones from the kernel's random numbers."""
        people = ("student", "teacher", "administrator", "labkit", "database")
        return cls.model_validate(
            {
                **{name: secrets.token_urlsafe(15) for name in people},
                "publish": secrets.token_hex(PUBLISH // 2),
                "secret_key": secrets.token_hex(32),
                "upgrade_key": secrets.token_hex(8),
            }
        )

    def plain(self) -> dict[str, str]:
        """The passwords themselves, for the file and for MediaWiki's standard input alone."""
        return {name: getattr(self, name).get_secret_value() for name in type(self).model_fields}

    def fingerprint(self) -> str:
        """A hash that changes with any of them and tells none."""
        return hashlib.sha256(json.dumps(self.plain()).encode()).hexdigest()


def keep(folders: Folders) -> Passwords:
    """The wiki's passwords; new ones are written, for root's eyes alone, when there are none."""
    if not folders.passwords.exists():
        _write(folders.passwords, Passwords.new().plain())
    return read(folders.passwords)


def read(path: Path) -> Passwords:
    """The passwords of a file; raises :class:`StateError`, which does not quote the file. One of an older
    labkit's gets the administrator's that it lacks."""
    try:
        words = reading.json_of(path)
        older = isinstance(words, dict) and "administrator" not in words
        if older:
            words["administrator"] = Passwords.new().plain()["administrator"]
        found = Passwords.model_validate(words)
        if not all(found.plain().values()) or len(found.publish) != PUBLISH:
            raise ValueError
        if older:
            _write(path, words)
        return found
    except FileNotFoundError:
        raise WikiError(
            str(path), "there is none yet", "bring the wiki up first", code="wiki.no-passwords"
        ) from None
    except PermissionError:
        raise WikiError(
            str(path), "is readable by root alone", "call it with sudo", code="machine.not-root"
        ) from None
    except (OSError, ValueError):
        raise StateError(
            str(path),
            "is damaged: not the passwords that labkit wrote",
            "move it away: the next start makes new passwords and gives them to the accounts",
            f"ls -l {path}",
            code="state.damaged-passwords",
        ) from None


def _write(path: Path, words: Mapping[str, str]) -> None:
    write_atomically(path, json.dumps(words, indent=2) + "\n", mode=0o600)


def apply(folders: Folders, passwords: Passwords, *, mediawiki: Path, settings: Path) -> None:
    """Each account exists with its password and groups, the bot with its bot password and grants."""
    script = folders.root / "accounts.php"
    write_atomically(
        script, resources.files("labkit.wiki.client").joinpath("accounts.php").read_bytes()
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
