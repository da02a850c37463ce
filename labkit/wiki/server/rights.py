"""Who may do what with the wiki: its accounts, the bot's session, the database, and a reader without an account."""

from __future__ import annotations

import http.client
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.checks import Check, equal
from labkit.core import daemon, run
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted, curl
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client import session
from labkit.wiki.client.session import ADDRESS, api_url, origin
from labkit.wiki.server import databases
from labkit.wiki.server.configuration import ACCOUNT, DATABASE, USER, Folders
from labkit.wiki.server.credentials import GROUPS

if TYPE_CHECKING:
    from labkit.wiki.client.mediawiki import MediaWiki

#: Rights of the bot's without which nothing is published, and rights that it must not have.
NEEDED = ("createpage", "edit", "upload")
TOO_MUCH = ("block", "createaccount", "delete", "editinterface", "protect", "userrights")

#: Addresses at which a careless web server would give MediaWiki's secrets or its programs away.
HIDDEN = (
    "/w/LocalSettings.php",
    "/w/maintenance/install.php",
    "/w/mw-config/index.php",
    "/w/vendor/autoload.php",
    "/w/cache/",
    "/images/../passwords.json",
    "/sqlite/wiki.sqlite",
)


class Account(Record):
    """An account of the wiki and its groups, except the implicit ones."""

    name: str
    groups: tuple[str, ...]


class Accounts(Record):
    """Who can log in: people (at ``login``; ``passwords`` is the file, '' for an existing wiki)
    and the bot, with the rights that its bot password has."""

    login: str
    people: tuple[Account, ...]
    bot: str
    rights: tuple[str, ...]
    passwords: str


class DatabaseRights(Record):
    """The rights on the wiki's database: MariaDB's grants, or owner and mode of SQLite's files."""

    database: str
    account: str
    rights: tuple[str, ...]


class Refusals(Record):
    """The wiki's answers to attempts without an account, by check name."""

    answers: tuple[tuple[str, str], ...]


def answers(lab: Lab, seen: str, *, up: bool = True) -> Check:
    """The check that a local MediaWiki answers (E1); ``seen`` is its version, or why it is not up."""
    url = api_url(lab)
    return Check(
        name="wiki.answers",
        expected="a MediaWiki",
        seen=f"{seen} at {url}",
        holds=up and seen.startswith("MediaWiki "),
        rows=("E1",),
        again=curl(f"{url}?action=query&meta=siteinfo&format=json"),
    )


def loopback(lab: Lab) -> tuple[Check, ...]:
    """The check that the lab's own wiki listens on loopback alone (E1)."""
    if lab.wiki.url:
        return ()
    words = ["ss", "-H", "-l", "-n", "-t", "-u", "-p", "sport", "=", f":{lab.wiki.port}"]
    listeners = daemon.parse_ss(run.run(words).stdout)
    seen = ", ".join(sorted({item.address for item in listeners})) or "nothing"
    return (equal("wiki.loopback", ADDRESS, seen, rows=("E1",), again=" ".join(words)),)


@action("wiki.accounts")
def accounts(lab: Lab) -> Outcome[Accounts]:
    """Lists the wiki's accounts with their groups, and the rights of the bot's session; no password is in it.

    :returns: ``value.people``, ``value.bot`` and ``value.rights``; the table ``accounts``.
    :raises WikiError: the wiki does not answer, or refuses the bot's password.

    Example::

        server.accounts(lab).table("accounts")
    """
    with closing(session.open(lab)) as site:
        bot, rights = site.account, tuple(sorted(site.rights))
    checks = (_bot_check(lab, rights),)
    said = f"The bot {bot} has {counted(len(rights), 'right')}"
    if lab.wiki.url:
        value = Accounts(login="", people=(), bot=bot, rights=rights, passwords="")
        return Outcome(value=value, subject=api_url(lab), summary=f"{said}.", checks=checks)
    file, login, people = (
        Folders(lab).passwords,
        f"{origin(lab)}/wiki/Special:UserLogin",
        _people(lab),
    )
    rows = [{"account": item.name, "groups": ", ".join(item.groups) or "–"} for item in people]
    return Outcome(
        value=Accounts(login=login, people=people, bot=bot, rights=rights, passwords=str(file)),
        subject=login,
        summary=f"{said}; people log in at {login}, their passwords are in {file}.",
        checks=(
            *checks,
            _people_check(lab, people),
            _private("wiki.passwords", file, "root", 0o600),
        ),
        tables=(Table.of("accounts", "The wiki's accounts", rows),),
    )


@action("wiki.database")
def database(lab: Lab) -> Outcome[DatabaseRights]:
    """Shows the rights on the wiki's database (I1): MariaDB's grants, or owner and mode of SQLite's files.

    Of an existing wiki only the bot's rights on its pages can be seen.

    :returns: ``value.database``, ``value.account`` and ``value.rights``; the table ``rights``.
    :raises WikiError: the wiki does not answer (existing wikis alone).
    """
    if lab.wiki.url:
        return _existing_rights(lab)
    return _mariadb_rights(lab) if lab.wiki.database == "mariadb" else _sqlite_rights(lab)


def _people(lab: Lab) -> tuple[Account, ...]:
    with closing(session.connect(lab)) as site:
        answer = site.post(
            "query", list="users", usprop="groups", ususers="|".join(GROUPS), formatversion=2
        )
    everybody = {"*", "user", "autoconfirmed"}
    return tuple(
        Account(name=user["name"], groups=tuple(sorted(set(user["groups"]) - everybody)))
        for user in answer["query"]["users"]
        if "groups" in user
    )


def _bot_check(lab: Lab, rights: tuple[str, ...]) -> Check:
    return Check(
        name="wiki.bot",
        expected=f"{', '.join(NEEDED)}; none of {', '.join(TOO_MUCH)}",
        seen=", ".join(rights),
        holds=set(rights).issuperset(NEEDED) and set(rights).isdisjoint(TOO_MUCH),
        again=f"{api_url(lab).removesuffix('/api.php')}/index.php?title=Special:BotPasswords",
    )


def _people_check(lab: Lab, found: tuple[Account, ...]) -> Check:
    def line(items: Iterable[tuple[str, Iterable[str]]]) -> str:
        return "; ".join(
            f"{name}: {', '.join(sorted(groups)) or 'no group'}" for name, groups in items
        )

    return equal(
        "wiki.accounts",
        line(GROUPS.items()),
        line((item.name, item.groups) for item in found),
        again=f"{origin(lab)}/wiki/Special:ListUsers",
    )


def _private(name: str, path: Path, owner: str, mode: int, rows: tuple[str, ...] = ()) -> Check:
    return equal(
        name,
        f"{owner} {mode:04o}",
        owner_and_mode(path),
        rows=rows,
        again=f"stat -c '%U %04a' {path}",
    )


def owner_and_mode(path: Path) -> str:
    """A file's owner and mode, as ``www-data 0600``."""
    return f"{path.owner()} {path.stat().st_mode & 0o7777:04o}"


def _sqlite_rights(lab: Lab) -> Outcome[DatabaseRights]:
    folder = Folders(lab).data
    files = [folder, *sorted(folder.glob("*.sqlite"))]
    seen = tuple(f"{owner_and_mode(path)} {path.name}" for path in files)
    checks = (
        _private("wiki.database.folder", folder, USER, 0o700, ("I1",)),
        _private("wiki.database.file", folder / "wiki.sqlite", USER, 0o600, ("I1",)),
    )
    return Outcome(
        value=DatabaseRights(database="sqlite", account=USER, rights=seen),
        subject=str(folder),
        summary=f"SQLite has no accounts: who may create and change the database is the owner of its "
        f"folder, {USER}, the web server's account, and nobody else may read it.",
        checks=checks,
        tables=(_table("Owner and mode of the database's files", seen),),
    )


def _mariadb_rights(lab: Lab) -> Outcome[DatabaseRights]:
    folders = Folders(lab)
    server = databases.MariaDB.of(folders)
    grants = databases.grants(server)
    password = session.passwords(lab).database
    other = databases.refused(server, password, "CREATE DATABASE labkitother")
    shell = f"mariadb --defaults-file={server.config} --execute"
    offline = databases.sql(server, "SELECT @@skip_networking")[0][0]
    checks = (
        equal(
            "wiki.database.grants", "; ".join(databases.wanted_grants()), "; ".join(grants),
            rows=("I1",), again=f"{shell} \"SHOW GRANTS FOR '{ACCOUNT}'@'localhost'\"",
        ),
        Check(
            name="wiki.database.other", expected="another database: ERROR 1044 (access denied)",
            seen=other or "it was created", holds=other.startswith("ERROR 1044"), rows=("I1",),
        ),
        equal("wiki.database.network", "1", offline, again=f"{shell} 'SELECT @@skip_networking'"),
    )  # fmt: skip
    return Outcome(
        value=DatabaseRights(database="mariadb", account=ACCOUNT, rights=grants),
        subject=str(server.socket),
        summary=f"The account {ACCOUNT} may create, fill and change the one database "
        f"{DATABASE}, and has no right on any other.",
        checks=checks,
        tables=(_table("What SHOW GRANTS says of the wiki's account", grants),),
    )


def _existing_rights(lab: Lab) -> Outcome[DatabaseRights]:
    with closing(session.open(lab)) as site:
        bot, held = site.account, tuple(sorted(site.rights))
    seen = [right for right in held if right in NEEDED]
    needed = f"by way of the wiki alone: {', '.join(NEEDED)}"
    check = Check(
        name="wiki.database.pages", expected=needed, seen=", ".join(seen), rows=("I1",),
        holds=len(seen) == len(NEEDED),
    )  # fmt: skip
    return Outcome(
        value=DatabaseRights(database="existing", account=bot, rights=held),
        subject=api_url(lab),
        summary=f"The database of an existing wiki is its owner's; {bot} changes it "
        "through the wiki alone.",
        checks=(check,),
    )


def _table(title: str, lines: Iterable[str]) -> Table:
    return Table.of("rights", title, [{"right": line} for line in lines])


@action("wiki.closed")
def anonymous(lab: Lab) -> Outcome[Refusals]:
    """Tries, without an account, what the wiki must refuse: an edit, a sign-up, the server's own files.

    Each is really tried on the lab's own wiki; an existing one is only asked for the rights of anonymous readers.

    :returns: the answer to each attempt (``value.answers``), and a check for each.
    :raises WikiError: the wiki does not answer.
    """
    with closing(session.connect(lab)) as site:
        tried = _anonymous_rights(lab, site) if lab.wiki.url else _attempts(lab, site)
    return Outcome(
        value=Refusals(answers=tuple((check.name, check.seen) for check in tried)),
        subject=api_url(lab),
        summary=f"{sum(check.holds for check in tried)} of {len(tried)} attempts without an account "
        "were refused.",
        checks=tuple(tried),
    )


def _attempts(lab: Lab, site: MediaWiki) -> list[Check]:
    statuses = [f"{path}: {_status(lab, path)}" for path in HIDDEN]
    served = [line for line in statuses if line.endswith(": 200")]
    edit = {"title": "Anonymous edit", "text": "x", "token": "+\\"}
    return [
        equal(
            "wiki.closed.edit", "permissiondenied", _answer_code(site, "edit", **edit),
            again=curl(api_url(lab), options="--data 'action=edit&title=x&text=x&token=%2B%5C'"),
        ),
        equal(
            "wiki.closed.sign-up", "permissiondenied", _sign_up(lab, site),
            again=f"{origin(lab)}/wiki/Special:CreateAccount",
        ),
        Check(
            name="wiki.closed.files", expected=f"none of {len(HIDDEN)} addresses is served",
            seen="; ".join(served or statuses), holds=not served,
            again=curl(f"{origin(lab)}{HIDDEN[0]}", options="--include"),
        ),
    ]  # fmt: skip


def _status(lab: Lab, path: str) -> int:
    """The HTTP status with which the lab's own wiki answers a path, which is sent unchanged (``/a/../b``)."""
    with closing(http.client.HTTPConnection(ADDRESS, lab.wiki.port, timeout=60)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


def _sign_up(lab: Lab, site: MediaWiki) -> str:
    """The code of the wiki's answer to an attempt to create an account."""
    tokens = site.post("query", meta="tokens", type="createaccount")["query"]["tokens"]
    word = "a-stranger-without-rights"
    return _answer_code(
        site, "createaccount", createtoken=tokens["createaccounttoken"], createreturnurl=origin(lab),
        username="Stranger", password=word, retype=word,
    )  # fmt: skip


def _answer_code(site: MediaWiki, action: str, **words: str) -> str:
    """The code of the API's answer to a request that changes something: of its error, or of its result."""
    from mwclient.errors import APIError

    try:
        answer = site.post(action, formatversion=2, **words)[action]
    except APIError as error:
        return str(error.code)
    return str(answer.get("messagecode") or answer.get("status") or answer.get("result"))


def _anonymous_rights(lab: Lab, site: MediaWiki) -> list[Check]:
    return [
        Check(
            name=f"wiki.closed.{name}", expected=f"no right {right!r} without an account",
            seen=f"{right!r} is {'there' if right in site.rights else 'missing'}",
            holds=right not in site.rights,
            again=curl(f"{api_url(lab)}?action=query&meta=userinfo&uiprop=rights&format=json"),
        )
        for name, right in (("edit", "edit"), ("sign-up", "createaccount"))
    ]  # fmt: skip
