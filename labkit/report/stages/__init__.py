"""The stages of the assignment: what is asked for, what each notebook records, and what becomes of it.

In a notebook, :class:`Stage` opens, records and closes a stage; :func:`closing_table` and :func:`coverage` sum up
all of them. Other rooms use the modules. The data: ``assignment`` (rows, tasks and stages, and how checks judge
them), ``record`` (one run of a stage, read, verified and written). The rules: ``build_cache`` (which runs are stale,
which stages run again), ``closing`` (what becomes of tasks and rows). The files: ``signing`` (the lab's key, and the
signed manifest, with which whole parts of the outputs are written).
"""

from labkit.report.stages.closing import closing_table, coverage
from labkit.report.stages.stage import Stage

__all__ = [
    "Stage", "assignment", "build_cache", "closing", "closing_table", "coverage", "record", "signing", "stage",  # noqa: F822 - its modules
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
