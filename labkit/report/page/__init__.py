"""The report's page on the wiki: makes its blocks from the stages' records, and publishes them.

``publication.publish(lab)`` writes the page and keeps what people wrote, ``plan`` and ``mend`` tell what that
would change, ``main_page`` shows the wiki in a browser. :mod:`blocks` makes the page's wikitext.
"""

__all__ = ["blocks", "publication"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
