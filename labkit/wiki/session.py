"""A session with the wiki: logged in as the bot or the student, with bounded retries and clear errors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

import labkit
from labkit.errors import WikiError
from labkit.lab import Lab
from labkit.wiki import accounts, ask
from labkit.wiki.folders import Folders, api_url

if TYPE_CHECKING:
    import mwclient

#: Where an existing wiki's bot password comes from: its full name (``Labkit@publish``) and itself.
USER_VARIABLE, PASSWORD_VARIABLE = "LABKIT_WIKI_USER", "LABKIT_WIKI_PASSWORD"
#: The same of the student's account, for the answers that are given in the student's name.
STUDENT_VARIABLES = ("LABKIT_WIKI_STUDENT", "LABKIT_WIKI_STUDENT_PASSWORD")
#: Retries after a lost connection or a server error; each waits ``RETRY_SECONDS`` longer.
RETRIES = 2
RETRY_SECONDS = 1
#: Seconds for the connection and for each reply: (to connect, between bytes).
TIMEOUT = (5.0, 60.0)


def open(lab: Lab, *, student: bool = False) -> mwclient.Site:  # noqa: A001 - session.open is what it is called as
    """A site of mwclient's, logged in as the bot, or as the student; :func:`account` names which.

    Raises :class:`WikiError` when the wiki is down, is no MediaWiki, refuses the password or is
    read-only; no password is in the exception or in what led to it.
    """
    login, password = credentials(lab, student=student)
    site, wrong = _attempt(lab, login, password)
    if wrong is not None:  # raised here, where no exception that knows the password is its context
        raise wrong
    return site


def _attempt(lab: Lab, login: str, password: SecretStr) -> tuple[mwclient.Site, WikiError | None]:
    """A site that has logged in, or the error that says why it has not."""
    import requests
    from mwclient.errors import LoginError, MwClientError

    url = api_url(lab)
    site = None
    try:
        site = connect(url, own=not lab.wiki.url)
        if "readonly" in site.site:
            return site, _read_only(url, site.site.get("readonlyreason") or "no reason given")
        _log_in(site, login, password)
        return site, None
    except LoginError as error:
        kind = "bot password" if "@" in login else "password"
        reason = f"the wiki refuses the {kind}: {error.info or error.code}"
        return site, WikiError(f"{login} at {url}", reason, _remedy(lab), f"curl {url}")
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else "unknown"
        return site, ask.not_a_wiki(url, f"HTTP status {status}")
    except requests.RequestException as error:
        return site, ask.down(lab, url, _plainly(error))
    except (MwClientError, ValueError, KeyError) as error:
        return site, ask.not_a_wiki(url, type(error).__name__)
    finally:
        if site is not None:
            site.credentials = None  # what prints the site's attributes prints no password


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


def connect(url: str, *, own: bool) -> mwclient.Site:
    """An anonymous session with the wiki whose ``api.php`` is at ``url``.

    The lab's ``own`` wiki is on loopback, so that no proxy of the environment is asked for it.
    """
    import mwclient
    import requests

    parts = urlsplit(url)
    pool = requests.Session()
    pool.trust_env = not own
    pool.headers["User-Agent"] = f"labkit/{labkit.__version__} mwclient/{mwclient.__version__}"
    return mwclient.Site(
        parts.netloc,
        path=parts.path.removesuffix("api.php"),
        scheme=parts.scheme,
        pool=pool,
        max_retries=RETRIES,
        retry_timeout=RETRY_SECONDS,
        connection_options={"timeout": TIMEOUT},
    )


def account(site: mwclient.Site) -> str:
    """The account that a session is logged in as, for ``assertuser``."""
    return str(site.username)


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
        )
    return os.environ[names[0]], SecretStr(os.environ[names[1]])


def _read_only(url: str, reason: str) -> WikiError:
    return WikiError(
        url, f"the wiki is read-only: {reason}", "wait until its owner has opened it again",
        f"curl '{url}?action=query&meta=siteinfo'",
    )  # fmt: skip


def _plainly(error: Exception) -> str:
    """The innermost reason of a connection that failed (``Connection refused``)."""
    last = str(error).rpartition(": ")[2].strip(" '\")>")
    return last.partition("] ")[2] or last or type(error).__name__


def _remedy(lab: Lab) -> str:
    if lab.wiki.url:
        return "correct the account and its password in the environment (LABKIT_WIKI_…)"
    return f"see {Folders.of(lab).passwords}; moved away, it is made anew at the next start"
