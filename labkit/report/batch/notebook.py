"""One stage's notebook: its parameters, its run in a process of its own, that process's end, and the verdict.

Whether a stage passed is said by papermill's exit status, the notebook that it saved and the stage's record
together. None of them suffices alone: papermill ends well after ``sys.exit(0)`` in a cell, and a notebook whose
kernel was killed claims in its metadata that every cell was completed.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

import labkit
from labkit.core import run
from labkit.core.files import text_of, write_atomically
from labkit.core.journal import Entry
from labkit.core.run import labkit_variables
from labkit.errors import CommandTimeoutError, ConfigError
from labkit.kernel.proc import lives
from labkit.model import parameters as cells
from labkit.model.config import PARAMETERS, unknown
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages import record as records
from labkit.report.stages.record import StageRecord

#: The program that runs a notebook.
ENGINE = "labkit.report.batch.engine"
#: A cell may print so many characters; no page shows as many.
MOST = 5_000_000
#: A stage that has not ended after so many seconds never will.
PATIENCE = 7200.0
#: How long a notebook may take to end by itself, and then how long papermill may, in seconds.
INTERRUPTED, TERMINATED = 10.0, 3.0
#: papermill's own exit status for a kernel that died.
DEAD_KERNEL = 138
#: What the notebook's last code cell is.
CLOSING = "stage.close()"


class Execution(Record):
    """A run of papermill that has ended: its exit status (negative when a signal ended it), the notebook that it
    saved (nbformat 4, None if nothing), and why labkit ended it ('' if it did not)."""

    status: int
    notebook: dict[str, Any] | None
    cause: str = ""


def require(path: Path) -> dict[str, Any]:
    """Reads a notebook; raises :class:`ConfigError` if the file is missing or damaged."""
    content = records.read_notebook(path)
    if content is not None:
        return content
    if path.exists():
        reason, remedy = "is damaged: Jupyter cannot read it", "restore it (git restore)"
        raise ConfigError(str(path), reason, remedy, code="config.damaged-notebook")
    reason, remedy = "there is no notebook here", "run labkit in the project's folder"
    raise ConfigError(str(path), reason, remedy, code="config.no-notebook")


def declared(notebook: Mapping[str, Any]) -> frozenset[str]:
    """The names that the cell tagged ``parameters`` assigns.

    papermill's own ``inspect_notebook`` misses a name whose annotation it cannot read (``str | None``).
    """
    own = (c for c in notebook["cells"] if "parameters" in c.get("metadata", {}).get("tags", ()))
    source = "\n".join(text(cell["source"]) for cell in own)
    try:
        return frozenset(cells.assigned(source))
    except SyntaxError as error:
        raise ConfigError(
            "the cell tagged 'parameters'",
            f"is not valid Python: {error.msg} in line {error.lineno}: {(error.text or '').strip()}",
            "correct that line of the notebook",
            code="config.notebook-parameters",
        ) from None


def require_known(given: Iterable[str], notebooks: Iterable[Mapping[str, Any]]) -> None:
    """Raises :class:`ConfigError`, with the nearest name, for a parameter that neither the lab nor a notebook
    declares. papermill itself only warns."""
    known = {*PARAMETERS, *(name for notebook in notebooks for name in declared(notebook))}
    for name in given:
        if name not in known:
            raise unknown(name, known, "a parameter of the lab or of a stage's notebook")


def environment(lab_file: Path, run_id: str, folder: Path) -> dict[str, str]:
    """The environment variables of a batch's notebook, in addition to those of every program.

    Its home is in ``folder``: no file of a user's own (an IPython profile, a kernel for Jupyter, a
    matplotlibrc) acts on the report, and nothing is left in the user's home.
    """
    return {
        **labkit_variables(),
        "HOME": str(folder),
        "LABKIT_RUN": run_id,
        "LABKIT_FILE": str(lab_file),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "PYTHONPATH": str(Path(labkit.__file__).parent.parent),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else a warning about the debugger in each log
        "MPLBACKEND": "agg",
    }


def execute(
    source: Path,
    target: Path,
    *,
    parameters: Mapping[str, object],
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    on_cell: Callable[[int, int], None] = lambda number, total: None,
    nice: int = 0,
    timeout: float = PATIENCE,
) -> Execution:
    """Runs ``source`` with ``parameters``; papermill saves what it has in ``target`` after each cell.

    A notebook with a cell that prints more than :data:`MOST` is ended.

    :param on_line: called with each line that papermill logs.
    :param on_cell: called when a cell begins, with its number from 1 and how many there are.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    words = run.module(ENGINE, source, target, str(MOST), json.dumps(dict(parameters)))
    argv = ("nice", f"--adjustment={nice}", *words)
    causes = [""]

    def report(line: str) -> None:
        said = json.loads(line)
        if "cause" in said:
            causes[0] = causes[0] or said["cause"]
            threading.Thread(target=end_notebooks, args=(str(target),), name="ending").start()
        else:
            on_cell(said["cell"], said["cells"])

    try:
        status = run.run(
            argv, ok=range(-64, 256), env=env, timeout=timeout, on_line=on_line, on_output=report
        ).status
    except CommandTimeoutError as error:
        on_line(str(error))
        status = error.status
    if causes[0]:
        on_line(causes[0])
    return Execution(status=status, notebook=records.read_notebook(target), cause=causes[0])


def end_notebooks(mark: str, spared: Iterable[str] = ()) -> int:
    """Ends the papermill processes with the path ``mark`` in an argument; returns their number.

    Their kernels get SIGINT first, as Ctrl-C would, which ends the running cell and the programs that it waits
    for; a papermill that is still there after that gets SIGTERM, and what then remains SIGKILL, except daemons
    (processes with an argument that ends in one of ``spared``): those are the journal's.
    """
    processes = list(psutil.process_iter(["ppid", "cmdline"]))
    found = ((process, process.info["cmdline"] or ()) for process in processes)
    papermills = [p for p, words in found if ENGINE in words and any(mark in w for w in words)]
    family = list(papermills)
    for parent in family:  # which grows meanwhile: children, and theirs
        family += [process for process in processes if process.info["ppid"] == parent.pid]
    _signal(papermills, signal.SIGUSR1)  # they start no further kernel
    for papermill in papermills:
        own = [process for process in family if process.info["ppid"] == papermill.pid]
        _signal(own, signal.SIGINT)
        if not own:
            _signal([papermill], signal.SIGTERM)
    _wait(papermills, INTERRUPTED)
    _signal(papermills, signal.SIGTERM)
    _wait(papermills, TERMINATED)
    daemons = tuple(spared)
    rest = [p for p in family if not any(word.endswith(daemons) for word in _words(p) if daemons)]
    _signal(rest, signal.SIGKILL)
    return len(papermills)


def markers(entries: Iterable[Entry]) -> tuple[str, ...]:
    """The configuration files by whose path in its command line each daemon in a journal is recognised."""
    return tuple(e.what["marker"] for e in entries if e.kind == "daemon" and "marker" in e.what)


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.NoSuchProcess):
        return list(process.cmdline())
    return []


def _signal(processes: Iterable[psutil.Process], sig: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(sig)


def _wait(processes: Iterable[psutil.Process], seconds: float) -> None:
    """Waits until all processes have ended; zombies count as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(p.is_running() and lives(p.pid) for p in processes):
        time.sleep(0.05)


def verdict(done: Execution, record: StageRecord | None, run: str) -> tuple[str, ...]:
    """Every reason why one run of a stage's notebook did not pass, the nearest to the cause first; () when it passed.
    Pure.

    :param record: what the closing cell wrote, None when there is nothing.
    :param run: the run's id, which the record must have.
    """
    reasons = [
        *([done.cause] if done.cause else []),
        *(_of_cells(done.notebook) if done.notebook else ["papermill left no notebook"]),
        *_of_status(done.status),
        *_of_record(record, run),
    ]
    return tuple(dict.fromkeys(reasons))


def text(source: str | list[str]) -> str:
    """A cell's or an output's text, which a notebook's file holds whole or line by line."""
    return source if isinstance(source, str) else "".join(source)


def _of_cells(notebook: Mapping[str, Any]) -> Iterator[str]:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cells = [cell for cell in cells if text(cell["source"]).strip()]
    for number, cell in enumerate(cells, 1):
        for item in cell.get("outputs", ()):
            if item["output_type"] == "error":
                error = f"{item['ename']}: {item['evalue']}".strip().rstrip(":")
                yield f"code cell {number} of {len(cells)} raised {error}"
    waiting = [n for n, cell in enumerate(cells, 1) if not _ran(cell)]
    if waiting:
        yield f"code cell {waiting[0]} of {len(cells)} did not run to its end"
    if not cells or not text(cells[-1]["source"]).rstrip().endswith(CLOSING):
        yield f"the notebook does not end in {CLOSING}"


def _ran(cell: Mapping[str, Any]) -> bool:
    """Whether the kernel reported the end of the cell: only then the cell has a number and a reply."""
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


def tidy(notebook: Mapping[str, Any], name: str) -> str:
    """The text of an executed notebook without the paths and environment of the machine it ran on, and
    without what its cells printed beyond :data:`MOST`."""
    content = json.loads(json.dumps(notebook))
    noted = content["metadata"].get("papermill", {})
    noted.pop("environment_variables", None)
    noted.update({"input_path": f"{name}.ipynb", "output_path": f"{name}.ipynb"})
    for output in (output for cell in content["cells"] for output in cell.get("outputs", ())):
        if "traceback" in output:
            output["traceback"] = [_here(line) for line in output["traceback"]]
        if output["output_type"] == "stream" and len(said := text(output["text"])) > MOST:
            output["text"] = f"{said[:MOST]}\n… {len(said) - MOST:,} characters left out …\n"
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _here(line: str) -> str:
    """A line of a traceback with paths relative to the project's folder or the Python environment."""
    line = line.replace(f"{Path(labkit.__file__).parents[1]}/", "")
    return line.replace(f"{sys.prefix}/", "") if sys.prefix != sys.base_prefix else line


def lab_file(lab: Lab) -> str:
    """The text of ``outputs/<lab>/lab.toml``, which contains every value of the lab, also defaults, options and
    parameters."""
    values = {**lab.model_dump(mode="json", exclude_none=True), "outputs": ".."}
    tables = {"": {}, **{key: value for key, value in values.items() if isinstance(value, dict)}}
    tables[""] = {key: value for key, value in values.items() if key not in tables}
    lines = ["# What this lab's stages were run with."]
    for name, table in tables.items():
        lines += [f"\n[{name}]"] if name else []
        lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def write_lab_file(lab: Lab) -> Path:
    """Writes ``outputs/LAB/lab.toml`` unless it has the same text; returns its path."""
    path, text = lab.output_dir / "lab.toml", lab_file(lab)
    if text_of(path) != text:
        write_atomically(path, text)
    return path


def _toml(value: Any) -> str:
    """A plain value in TOML; its strings are JSON's (https://toml.io/en/v1.0.0#string)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
