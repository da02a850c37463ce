"""Whether a stage passed. Pure: papermill's exit status, the notebook it saved, the stage's record.

None of them suffices alone: papermill ends well after ``sys.exit(0)`` in a cell, and a notebook whose
kernel was killed claims in its metadata that every cell was completed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from labkit.records import Record
from labkit.report.stages.record import StageRecord

#: papermill's own exit status for a kernel that died.
DEAD_KERNEL = 138
#: What the notebook's last code cell is.
CLOSING = "stage.close()"


class Verdict(Record):
    """Whether a stage passed and, if not, every reason; the first is the nearest to the cause."""

    passed: bool
    reasons: tuple[str, ...] = ()


def verdict(
    status: int,
    notebook: Mapping[str, Any] | None,
    record: StageRecord | None,
    run: str,
    cause: str = "",
) -> Verdict:
    """The verdict on one run of a stage's notebook.

    :param status: papermill's exit status, negative when a signal ended it.
    :param notebook: the notebook that papermill saved (nbformat 4), None when there is none.
    :param record: what the closing cell wrote, None when there is nothing.
    :param run: the run's id, which the record must have.
    :param cause: why labkit itself ended papermill.
    """
    reasons = [
        *([cause] if cause else []),
        *(_of_cells(notebook) if notebook else ["papermill left no notebook"]),
        *_of_status(status),
        *_of_record(record, run),
    ]
    return Verdict(passed=not reasons, reasons=tuple(dict.fromkeys(reasons)))


def code_cells(notebook: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The cells of a notebook that have code to run, in order."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and text(cell["source"]).strip()
    ]


def text(source: str | list[str]) -> str:
    """A cell's or an output's text, which a notebook's file holds whole or line by line."""
    return source if isinstance(source, str) else "".join(source)


def errors(cell: Mapping[str, Any]) -> list[str]:
    """The errors among a cell's outputs: ``ValueError: no such thing``."""
    found = (item for item in cell.get("outputs", ()) if item["output_type"] == "error")
    return [f"{item['ename']}: {item['evalue']}".strip().rstrip(":") for item in found]


def _of_cells(notebook: Mapping[str, Any]) -> Iterator[str]:
    cells = code_cells(notebook)
    for number, cell in enumerate(cells, 1):
        for error in errors(cell):
            yield f"code cell {number} of {len(cells)} raised {error}"
    waiting = [n for n, cell in enumerate(cells, 1) if not _ran(cell)]
    if waiting:
        yield f"code cell {waiting[0]} of {len(cells)} did not run to its end"
    if not cells or not text(cells[-1]["source"]).rstrip().endswith(CLOSING):
        yield f"the notebook does not end in {CLOSING}"


def _ran(cell: Mapping[str, Any]) -> bool:
    """Whether the kernel answered that the cell was done: only then it has a number and a reply."""
    times = cell.get("metadata", {}).get("execution")
    replied = times is None or "shell.execute_reply" in times
    return cell.get("execution_count") is not None and replied


def _of_status(status: int) -> Iterator[str]:
    if status == DEAD_KERNEL:
        yield "the notebook's kernel died"
    elif status < 0 or status > 128:
        yield f"papermill was ended by signal {-status if status < 0 else status - 128}"
    elif status:
        yield f"papermill ended with exit status {status}"


def _of_record(record: StageRecord | None, run: str) -> Iterator[str]:
    if record is None:
        yield "the closing cell left no record"
        return
    if record.run != run:
        yield f"the record is of another run ({record.run})"
    if not record.closed:
        yield "the record says that the stage was not closed"
    yield from record.problems
    if record.state != "passed" and not record.problems:
        yield "the record says that the stage failed"
