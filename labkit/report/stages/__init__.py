"""The stages of the assignment: what a notebook records, and what becomes of it.

In a notebook, :class:`Stage` opens, records and closes a stage; :func:`closing_table` and :func:`coverage` sum up
all of them. Other rooms use the modules: ``assignment`` (what is asked for), ``record`` (what a stage left),
``signing`` and ``verification`` (whether files are as labkit wrote them), ``build_cache`` (why a stage has to run
again), ``discussion`` (the teacher's remarks).
"""

from labkit.report.stages.stage import Stage, closing_table, coverage

__all__ = [
    "Stage", "assignment", "build_cache", "closing_table", "coverage", "discussion", "record", "signing", "stage",  # noqa: F822 - its modules
    "verification",  # noqa: F822 - its modules
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
