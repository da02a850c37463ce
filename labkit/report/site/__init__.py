"""The review site: static pages from the stages' records and executed notebooks, in which nothing acts.

``review.build(lab)`` writes it. :mod:`pages` gives each stage's state and what its page shows as plain values,
:mod:`hypertext` writes the document tree as HTML.
"""

__all__ = ["hypertext", "pages", "review"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
