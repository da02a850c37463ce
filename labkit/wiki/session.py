"""A session with the wiki: logged in as the bot, with bounded retries and clear errors."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

import labkit
from labkit.errors import WikiError
from labkit.lab import Lab
from labkit.wiki import accounts
from labkit.wiki.folders import Folders, api_url

if TYPE_CHECKING:
    import mwclient

#: Where an existing wiki's bot password comes from: its full name (``Labkit@publish``) and itself.
USER_VARIABLE, PASSWORD_VARIABLE = "LABKIT_WIKI_USER", "LABKIT_WIKI_PASSWORD"
#: Retries after a lost connection or a server error; each waits ``RETRY_SECONDS`` longer.
RETRIES = 2
RETRY_SECONDS = 1
#: Seconds for the connection and for each reply: (to connect, between bytes).
TIMEOUT = (5.0, 60.0)


def open(lab: Lab) -> mwclient.Site:  # noqa: A001 - session.open is what it is called as
    """A site of mwclient's, logged in as the bot; :func:`account` names it for ``assertuser``.

    Raises :class:`WikiError` when the wiki is down, is no MediaWiki, refuses the password or is
    read-only; no password is in an exception's text.
    """
    import requests
    from mwclient.errors import LoginError, MwClientError

    login, password = credentials(lab)
    url = api_url(lab)
    try:
        site = connect(url, own=not lab.wiki.url)
        site.login(login, password.get_secret_value())
    except LoginError as error:
        raise WikiError(
            f"{login} at {url}", f"the wiki refuses the bot password: {error.code}",
            _remedy(lab), url,
        ) from None  # fmt: skip
    except (MwClientError, requests.RequestException, ValueError, KeyError) as error:
        raise WikiError(
            url, f"does not answer as a MediaWiki: {type(error).__name__}",
            "bring the wiki up, or correct wiki.url (it ends in /api.php)", f"curl {url}",
        ) from None  # fmt: skip
    return site


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


def credentials(lab: Lab) -> tuple[str, SecretStr]:
    """The bot password's name and itself: the lab's own, or the environment's for an existing wiki."""
    if not lab.wiki.url:
        passwords = accounts.read(Folders.of(lab).passwords)
        return f"{accounts.BOT}@{accounts.APP}", passwords.publish
    missing = [name for name in (USER_VARIABLE, PASSWORD_VARIABLE) if not os.environ.get(name)]
    if missing:
        raise WikiError(
            lab.wiki.url,
            f"the environment has no {' and no '.join(missing)}",
            "make a bot password at Special:BotPasswords of that wiki (grants: create, edit and "
            "move pages; upload new files) and export both",
        )
    return os.environ[USER_VARIABLE], SecretStr(os.environ[PASSWORD_VARIABLE])


def _remedy(lab: Lab) -> str:
    if lab.wiki.url:
        return f"correct {USER_VARIABLE} and {PASSWORD_VARIABLE} in the environment"
    return f"see {Folders.of(lab).passwords}; moved away, it is made anew at the next start"
