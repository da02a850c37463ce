"""Talks to a wiki: sessions with it, the protocol that publishing uses, and the adapter for MediaWiki.

:mod:`~labkit.wiki.client.session` opens a session with the lab's wiki; :mod:`~labkit.wiki.client.protocol` has what a
session can do and the values that it returns; :mod:`~labkit.wiki.client.refusals` are the errors that a caller acts upon.
"""

from labkit.wiki.client import protocol, refusals, session

__all__ = ["mediawiki", "protocol", "refusals", "session", "transport"]  # noqa: F822 - two are its modules


def __dir__() -> list[str]:
    return __all__
