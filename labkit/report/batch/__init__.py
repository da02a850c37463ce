"""The rebuild: runs the stages' notebooks and keeps what each leaves.

- ``rebuild``: :func:`~labkit.report.batch.rebuild.rebuild` runs what has changed, ``foresight`` says what it would run.
- ``schedule``: the stages' order, and how long they take. ``progress``: what a person is told.
- ``notebook``: one notebook, run in a process of its own (``engine``), ended and judged.
"""

__all__ = ["notebook", "progress", "rebuild", "schedule"]  # noqa: F822 - its modules


def __dir__() -> list[str]:
    return __all__
