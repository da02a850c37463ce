"""Merges what labkit writes into a page that people edit. Pure.

:mod:`~labkit.wiki.merge.fences` reads a page as people's text and labkit's blocks; :mod:`~labkit.wiki.merge.three_way`
merges a block line by line, :mod:`~labkit.wiki.merge.page_merge` the page; :mod:`~labkit.wiki.merge.repair` mends
labkit's comments that a person has damaged.
"""

from labkit.wiki.merge import fences, page_merge, repair, three_way

__all__ = ["fences", "page_merge", "repair", "three_way"]


def __dir__() -> list[str]:
    return __all__
