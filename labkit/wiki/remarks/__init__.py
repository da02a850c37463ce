"""The remarks that people write in the report: read from the page and its history, answered, audited.

:mod:`~labkit.wiki.remarks.listing` has the remarks as values and tables; :func:`~labkit.wiki.remarks.answers.answer`
answers one; :func:`~labkit.wiki.remarks.audit.audit` looks for lines of people's that labkit has taken away.
"""

from labkit.wiki.remarks import answers, audit, listing, threads

__all__ = ["answers", "audit", "listing", "threads"]


def __dir__() -> list[str]:
    return __all__
