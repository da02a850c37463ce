"""The lab's own wiki: a real MediaWiki on loopback, served by an apache2 of the lab's own, on SQLite or MariaDB.

:func:`up` installs and starts it, :func:`down` ends it, :func:`status` observes it; :func:`accounts`, :func:`database`
and :func:`anonymous` report who may do what, and :func:`checks` makes all checks. :func:`login_page` says where a
person logs in. An existing wiki (``wiki.url``) is only asked.
"""

from labkit.wiki.server import configuration
from labkit.wiki.server.lifecycle import (
    checks,
    daemons,
    down,
    login_page,
    ready,
    status,
    up,
)
from labkit.wiki.server.rights import accounts, anonymous, database

__all__ = [
    "accounts",
    "anonymous",
    "checks",
    "configuration",
    "daemons",
    "database",
    "down",
    "login_page",
    "ready",
    "status",
    "up",
]


def __dir__() -> list[str]:
    return __all__
