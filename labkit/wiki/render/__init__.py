"""Renders what notebooks show: Markdown, HTML and outputs become wikitext in which nothing acts.

:mod:`notebook` renders an executed notebook, :mod:`markdown` reads Markdown and HTML, :mod:`terminal` a program's
output, all into the document :mod:`tree`; :mod:`writing` writes the tree as wikitext. :mod:`wikitext` escapes texts and
writes tables, checks and results; :mod:`pictures` checks pictures and draws formulas.
"""

__all__ = ["markdown", "notebook", "pictures", "terminal", "tree", "wikitext", "writing"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
