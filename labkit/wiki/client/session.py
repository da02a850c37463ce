"""A session with the wiki: logged in as the bot or the student, with bounded retries and clear errors."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING

from pydantic import SecretStr

from labkit.display import curl
from labkit.errors import WikiError
from labkit.model.lab import Lab
from labkit.wiki.client import accounts, ask
from labkit.wiki.client.folders import Folders, api_url

if TYPE_CHECKING:
    import mwclient

    from labkit.wiki.client.ask import SiteInfo
    from labkit.wiki.client.transport import Session

#: Where an existing wiki's bot password comes from: its full name (``Labkit@publish``) and itself.
USER_VARIABLE, PASSWORD_VARIABLE = "LABKIT_WIKI_USER", "LABKIT_WIKI_PASSWORD"
#: The same of the student's account, for the answers that are given in the student's name.
STUDENT_VARIABLES = ("LABKIT_WIKI_STUDENT", "LABKIT_WIKI_STUDENT_PASSWORD")


def open(lab: Lab, *, student: bool = False, info: SiteInfo | None = None) -> Session:  # noqa: A001 - session.open is what it is called as
    """A site of mwclient's, logged in as the bot, or as the student; :func:`account` names which. When
    the wiki ends the session, the next request that notices logs in once more.

    With ``info``, what the wiki said of itself just now, nothing is asked: the session reads as a stranger
    and logs in when it is to write. A private wiki's is logged in at once.

    Raises :class:`WikiError` when the wiki is down, is no MediaWiki, refuses the password or is
    read-only; no password is in the exception or in what led to it.
    """
    if info and not info.private:
        return _late(lab, info, student=student)
    login, password = credentials(lab, student=student)
    site, wrong = _attempt(lab, login, password)
    if wrong is not None or site is None:
        # raised here, where no exception that knows the password is its context
        raise wrong or ask.not_a_wiki(lab, "nothing")
    site.renew = functools.partial(_renew, lab, site, student=student)
    site.bot = bot(lab)
    return site


def _late(lab: Lab, info: SiteInfo, *, student: bool) -> Session:
    """A session that has not asked the wiki anything yet."""
    from mwclient.errors import MwClientError

    from labkit.wiki.client.transport import Session  # it imports mwclient

    try:
        site = Session(api_url(lab), own=not lab.wiki.url, info=info)
    except MwClientError as error:  # what it calls itself has no version
        raise ask.not_a_wiki(lab, type(error).__name__) from None
    site.late = True
    site.bot = bot(lab)
    site.renew = functools.partial(_renew, lab, site, student=student)
    return site


def _renew(lab: Lab, site: Session, *, student: bool) -> None:
    """The session is logged in anew."""
    login, password = credentials(lab, student=student)
    site.connection.cookies.clear()
    site.tokens.clear()
    _, wrong = _attempt(lab, login, password, site)
    if wrong is not None:
        raise wrong


def _attempt(
    lab: Lab, login: str, password: SecretStr, site: Session | None = None
) -> tuple[Session | None, WikiError | None]:
    """A site that has logged in, or the error that says why it has not."""
    from mwclient.errors import LoginError, MaximumRetriesExceeded, MwClientError

    url = api_url(lab)
    wrong: WikiError | None = None
    try:
        site = site or connect(url, own=not lab.wiki.url)
        known = getattr(site, "site", {})  # a private wiki says nothing before the login
        if "readonly" in known:
            wrong = _read_only(url, known.get("readonlyreason") or "no reason given")
        else:
            _log_in(site, login, password)
    except WikiError as error:
        wrong = error.with_traceback(None)  # whose frames hold the password
    except LoginError as error:
        kind = "bot password" if "@" in login else "password"
        reason = f"the wiki refuses the {kind}: {error.info or error.code}"
        wrong = WikiError(f"{login} at {url}", reason, _remedy(lab), curl(url), code="wiki.login")
    except MaximumRetriesExceeded:
        reason = "the wiki wants no more logins for a while"
        wrong = WikiError(
            f"{login} at {url}", reason, "publish again in a few minutes", code="wiki.login"
        )
    except (MwClientError, ValueError, KeyError) as error:
        wrong = ask.not_a_wiki(lab, type(error).__name__)
    finally:
        if site is not None:
            site.credentials = None  # what prints the site's attributes prints no password
    if wrong is not None and site is not None:
        site.connection.close()
    return site, wrong


def _log_in(site: mwclient.Site, login: str, password: SecretStr) -> None:
    """The session is that account's: by a bot password (``NAME@APP``), or as its person logs in."""
    from mwclient.errors import LoginError

    if "@" in login:
        site.login(login, password.get_secret_value())
        return
    answer = site.clientlogin(username=login, password=password.get_secret_value())
    if answer is not True:
        raise LoginError(site, "", "it asks for more than a password: use a bot password")
    site.site_init()  # what may be done now, and as whom


def connect(url: str, *, own: bool) -> Session:
    """An anonymous session with the wiki whose ``api.php`` is at ``url``.

    The lab's ``own`` wiki is on loopback, so that no proxy of the environment is asked for it.
    """
    from labkit.wiki.client.transport import Session  # it imports mwclient

    return Session(url, own=own)


def account(site: mwclient.Site) -> str:
    """The account that a session is logged in as, for ``assertuser``."""
    return str(site.username)


def bot(lab: Lab) -> str:
    """The account by which labkit publishes, as the wiki writes it; '' when the environment names none."""
    if not lab.wiki.url:
        return accounts.BOT
    name = os.environ.get(USER_VARIABLE, "").partition("@")[0].replace("_", " ").strip()
    return name[:1].upper() + name[1:]


def credentials(lab: Lab, *, student: bool = False) -> tuple[str, SecretStr]:
    """The login's name and password, the bot's or the student's: those of the lab's own wiki, or the
    environment's for an existing one."""
    if not lab.wiki.url:
        passwords = accounts.read(Folders.of(lab).passwords)
        if student:
            return accounts.STUDENT, passwords.student
        return f"{accounts.BOT}@{accounts.APP}", passwords.publish
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


def _read_only(url: str, reason: str) -> WikiError:
    return WikiError(
        url, f"the wiki is read-only: {reason}", "wait until its owner has opened it again",
        curl(f"{url}?action=query&meta=siteinfo"), code="wiki.read-only",
    )  # fmt: skip


def _remedy(lab: Lab) -> str:
    if lab.wiki.url:
        return "correct the account and its password in the environment (LABKIT_WIKI_…)"
    return f"see {Folders.of(lab).passwords}; moved away, it is made anew at the next start"
