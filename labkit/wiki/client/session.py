"""Sessions with the lab's wiki: its address, the accounts' passwords, logging in, and what the wiki says about itself.

A password is a :class:`pydantic.SecretStr` from the moment it is read, so that neither a printed value nor an exception
shows it.
"""

from __future__ import annotations

import functools
import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from labkit import reading
from labkit.display import curl
from labkit.errors import StateError, WikiError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.wiki.client.protocol import SiteInfo

if TYPE_CHECKING:
    from labkit.wiki.client.mediawiki import MediaWiki

#: The lab's own wiki always answers on loopback, in the machine's own network namespace.
ADDRESS = "127.0.0.1"
#: Accounts of the lab's own wiki; MediaWiki begins each name with a capital letter.
STUDENT, TEACHER, ADMINISTRATOR, BOT = "Student", "Teacher", "Administrator", "Labkit"
#: The wiki's group whose accounts settle any remark.
TEACHERS = "teacher"
#: The name of the bot password, which logs in as ``Labkit@publish``, and its length in characters.
APP, PUBLISH = "publish", 32
#: Where an existing wiki's bot password comes from: its full name (``Labkit@publish``) and itself.
USER_VARIABLE, PASSWORD_VARIABLE = "LABKIT_WIKI_USER", "LABKIT_WIKI_PASSWORD"
#: The same of the student's account, for the answers that are given in the student's name.
STUDENT_VARIABLES = ("LABKIT_WIKI_STUDENT", "LABKIT_WIKI_STUDENT_PASSWORD")
#: The reply header in which the lab's own web server names its configuration.
MARK = "X-Labkit-Configuration"


class Passwords(Record):
    """All secrets of the lab's own wiki; printing it shows stars."""

    student: SecretStr
    teacher: SecretStr
    administrator: SecretStr
    labkit: SecretStr
    publish: SecretStr
    database: SecretStr
    secret_key: SecretStr
    upgrade_key: SecretStr

    def plain(self) -> dict[str, str]:
        """The passwords themselves, for the file and for MediaWiki's standard input alone."""
        return {name: getattr(self, name).get_secret_value() for name in type(self).model_fields}


def passwords_file(lab: Lab) -> Path:
    """The file with the passwords of the lab's own wiki, which root alone reads."""
    return lab.state_dir / "wiki" / "passwords.json"


def passwords(lab: Lab) -> Passwords:
    """The passwords of the lab's own wiki; raises an error that does not quote their file."""
    path = passwords_file(lab)
    try:
        found = Passwords.model_validate(reading.json_of(path))
        if all(found.plain().values()) and len(found.publish) == PUBLISH:
            return found
    except FileNotFoundError:
        raise WikiError(
            str(path), "does not exist yet", "bring the wiki up first", code="wiki.no-passwords"
        ) from None
    except PermissionError:
        raise WikiError(
            str(path), "only root can read it", "run it with sudo", code="machine.not-root"
        ) from None
    except (OSError, ValueError):
        pass
    raise StateError(
        str(path), "is damaged: not the passwords that labkit wrote",
        "move it away: the next start makes new passwords and gives them to the accounts",
        f"ls -l {path}", code="state.damaged-passwords",
    )  # fmt: skip


def origin(lab: Lab) -> str:
    """Scheme, host and port of the lab's own wiki."""
    return f"http://{ADDRESS}:{lab.wiki.port}"


def api_url(lab: Lab) -> str:
    """The address of ``api.php``: the existing wiki's, else the lab's own."""
    return lab.wiki.url or f"{origin(lab)}/w/api.php"


def site_info(lab: Lab) -> SiteInfo:
    """Asks the lab's wiki for its site information in one request; raises :class:`WikiError` if it does not
    answer."""
    from labkit.wiki.client import transport  # it imports requests

    url, own = api_url(lab), not lab.wiki.url
    wanted = {"meta": "siteinfo", "siprop": "general|namespaces|extensions"}
    words = {"action": "query", "format": "json", "formatversion": 2, **wanted}
    with closing(transport.pool(own=own)) as pool:
        reply = transport.call(pool, url, words, method="GET", most=1)
    try:
        answer = reading.parsed(reply.text)
        if answer.get("error", {}).get("code") == "readapidenied":
            return SiteInfo(address=url, private=True)
        said = answer["query"]
        return SiteInfo(
            address=said["general"]["base"],
            general=said["general"],
            namespaces={item["id"]: item["name"] for item in said["namespaces"].values()},
            extensions=tuple(item["name"] for item in said["extensions"]),
            mark=reply.headers.get(MARK, ""),
        )
    except (KeyError, TypeError, AttributeError, ValueError):
        raise transport.not_a_wiki(url, "its answer has no site information", own=own) from None


def open(lab: Lab, *, student: bool = False, info: SiteInfo | None = None) -> MediaWiki:  # noqa: A001 - session.open is what it is called as
    """A session that is logged in as the bot, or as the student. When the wiki ends it, the next request that notices
    logs in once more.

    With ``info``, what the wiki has just said about itself, nothing is asked: the session reads anonymously
    and logs in when it is to write. A private wiki's is logged in at once.

    Raises :class:`WikiError` when the wiki is down, is no MediaWiki, refuses the password or is
    read-only; no password is in the exception or in what led to it.
    """
    late = info is not None and not info.private
    if not late:
        credentials(lab, student=student)  # which may be missing, whatever the wiki answers
    site = connect(lab, info=info if late else None)
    site.renew = functools.partial(_log_in, lab, site, student=student)
    if not late:
        _require_writable(api_url(lab), site)
        site.renew()
    return site


def connect(lab: Lab, *, info: SiteInfo | None = None) -> MediaWiki:
    """An anonymous session with the lab's wiki; with ``info``, the wiki is not asked what it is."""
    from mwclient.errors import MwClientError

    from labkit.wiki.client import transport
    from labkit.wiki.client.mediawiki import MediaWiki  # it imports mwclient

    url, own = api_url(lab), not lab.wiki.url
    try:
        return MediaWiki(url, own=own, bot=bot(lab), info=info)
    except (MwClientError, ValueError, KeyError) as error:
        raise transport.not_a_wiki(url, type(error).__name__, own=own) from None


def bot(lab: Lab) -> str:
    """The account by which labkit publishes, as the wiki writes it; '' when the environment names none."""
    if not lab.wiki.url:
        return BOT
    name = os.environ.get(USER_VARIABLE, "").partition("@")[0].replace("_", " ").strip()
    return name[:1].upper() + name[1:]


def credentials(lab: Lab, *, student: bool = False) -> tuple[str, SecretStr]:
    """The login's name and password, the bot's or the student's: those of the lab's own wiki, or the
    environment's for an existing one."""
    if not lab.wiki.url:
        known = passwords(lab)
        return (STUDENT, known.student) if student else (f"{BOT}@{APP}", known.publish)
    names = STUDENT_VARIABLES if student else (USER_VARIABLE, PASSWORD_VARIABLE)
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise WikiError(
            lab.wiki.url,
            f"the environment has no {' and no '.join(missing)}",
            "make a bot password at Special:BotPasswords of that wiki, logged in as "
            f"{'the student' if student else 'the bot'} (grants: "
            f"{'edit pages' if student else 'create, edit and move pages; upload new files'}), "
            "and export both",
            code="wiki.no-password",
        )
    return os.environ[names[0]], SecretStr(os.environ[names[1]])


def _require_writable(url: str, site: MediaWiki) -> None:
    """Raises :class:`WikiError` with the owner's reason if the wiki is read-only."""
    known = getattr(site, "site", {})  # a private wiki says nothing before the login
    if "readonly" in known:
        reason = f"the wiki is read-only: {known.get('readonlyreason') or 'no reason given'}"
        again = curl(f"{url}?action=query&meta=siteinfo")
        raise WikiError(url, reason, "wait until its owner has opened it again", again, code="wiki.read-only")  # fmt: skip


def _log_in(lab: Lab, site: MediaWiki, *, student: bool) -> None:
    """Logs a session in again: with a bot password (``NAME@APP``), or with the account's own password."""
    from mwclient.errors import LoginError, MaximumRetriesExceeded, MwClientError

    from labkit.wiki.client import transport

    url, (login, password) = api_url(lab), credentials(lab, student=student)
    site.connection.cookies.clear()
    site.tokens.clear()
    site.account = ""
    try:
        if "@" in login:
            site.login(login, password.get_secret_value())
        elif site.clientlogin(username=login, password=password.get_secret_value()) is True:
            site.site_init()  # asks for the account's name and rights
        else:
            raise LoginError(site, "", "it asks for more than a password: use a bot password")
        return
    except WikiError as error:
        wrong = error.with_traceback(None)  # whose frames hold the password
    except MaximumRetriesExceeded:
        reason, remedy = "the wiki accepts no more logins for now", "publish again in a few minutes"
        wrong = WikiError(f"{login} at {url}", reason, remedy, code="wiki.login")
    except LoginError as error:
        kind = "bot password" if "@" in login else "password"
        reason = f"the wiki refuses the {kind}: {error.info or error.code}"
        remedy = f"see {passwords_file(lab)}; moved away, it is made anew at the next start"
        if lab.wiki.url:
            remedy = "correct the account and its password in the environment (LABKIT_WIKI_…)"
        wrong = WikiError(f"{login} at {url}", reason, remedy, curl(url), code="wiki.login")
    except (MwClientError, ValueError, KeyError) as error:
        wrong = transport.not_a_wiki(url, type(error).__name__, own=not lab.wiki.url)
    finally:
        site.credentials = None  # what prints the site's attributes prints no password
    site.close()
    raise wrong  # here, where no exception that knows the password is its context
