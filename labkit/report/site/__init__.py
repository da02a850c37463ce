"""The review site: static pages from the stages' records and executed notebooks, in which nothing acts.

``review.build(lab)`` writes it. :mod:`pages` gives each stage's state and what its page shows as plain values,
:mod:`hypertext` writes the document tree as HTML, :mod:`discussion` reads and keeps the remarks on the wiki's page.
"""

__all__ = ["discussion", "hypertext", "pages", "review"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
