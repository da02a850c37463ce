"""Publishes blocks and pictures on a page in which people write, and prepares the wiki's first pages.

:func:`~labkit.wiki.publish.publishing.apply` publishes, :func:`~labkit.wiki.publish.publishing.plan` tells what it would
do; :func:`prepare` puts the assignment and the main page into the wiki.
"""

from labkit.wiki.publish import editor, last_written, publishing
from labkit.wiki.publish.prepared import prepare

__all__ = ["editor", "last_written", "prepare", "publishing"]


def __dir__() -> list[str]:
    return __all__
