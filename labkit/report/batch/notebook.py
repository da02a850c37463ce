"""One stage's notebook: its parameters, and its run by papermill in a process of its own."""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import labkit
from labkit import reading
from labkit.core import run
from labkit.core.files import text_of, write_atomically
from labkit.core.run import labkit_variables
from labkit.display import quoted
from labkit.errors import CommandTimeoutError, ConfigError
from labkit.model import parameters as cells
from labkit.model.lab import PARAMETERS, Lab, unknown
from labkit.records import Record
from labkit.report.batch.ending import end_notebooks
from labkit.report.batch.verdict import code_cells, errors, text
from labkit.report.stages import saved

#: How many times a kernel is started that does not come up because another one took its port.
STARTS = 4
#: A cell may print so many characters; no page shows as many.
MOST = 5_000_000
#: A stage that has not ended after so many seconds never will.
PATIENCE = 7200.0


class Execution(Record):
    """A run of papermill that has ended; ``notebook`` is what it saved (nbformat 4), None if nothing;
    ``cause`` why labkit ended it, '' if it did not."""

    status: int
    notebook: dict[str, Any] | None
    starts: int
    cause: str = ""


class Bounded:
    """Hands a notebook's lines on until one of its cells has printed more than :data:`MOST`: then ``end`` is
    called once, and nothing more is handed on. ``cause`` says so."""

    def __init__(self, on_line: Callable[[str], None], end: Callable[[], object]) -> None:
        self.cause = ""
        self._on_line, self._end = on_line, end
        self._cell, self._size = 0, 0

    def __call__(self, line: str) -> None:
        """One line of papermill's log."""
        if self.cause:
            return
        if number := cell_number(line):
            self._cell, self._size = number, 0
        self._size += len(line)
        if self._size <= MOST:
            self._on_line(line)
            return
        self.cause = (
            f"cell {self._cell} printed more than {MOST / 1e6:g} MB, and was ended: print less"
        )
        self._on_line(self.cause)
        self._end()


def require(path: Path) -> dict[str, Any]:
    """The notebook in a file; raises :class:`ConfigError` when there is none, or a damaged one."""
    content = saved.read(path)
    if content is None and path.exists():
        raise ConfigError(
            str(path),
            "is damaged: no notebook that Jupyter can read",
            "restore it (git restore)",
            code="config.damaged-notebook",
        )
    if content is None:
        raise ConfigError(
            str(path),
            "there is no notebook here",
            "call labkit from the project's folder",
            code="config.no-notebook",
        )
    return content


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
            f"is no Python: {error.msg} in line {error.lineno}: {(error.text or '').strip()}",
            "correct that line of the notebook",
            code="config.notebook-parameters",
        ) from None


def require_known(given: Iterable[str], notebooks: Iterable[Mapping[str, Any]]) -> None:
    """Raises :class:`ConfigError`, with the nearest name, for a parameter that nothing knows: neither
    the lab nor one of the notebooks. papermill itself would only warn of it."""
    known = {*PARAMETERS, *(name for notebook in notebooks for name in declared(notebook))}
    for name in given:
        if name not in known:
            raise unknown(name, known, "a parameter of the lab or of a stage's notebook")


def arguments(source: Path, target: Path, *, parameters: Path | None, cwd: Path) -> tuple[str, ...]:
    """The command that runs a notebook; it logs each cell's beginning, end and output as text."""
    return run.module(
        "papermill",
        source,
        target,
        *(("--parameters_file", parameters) if parameters else ()),
        "--cwd", cwd,
        "--no-progress-bar",
        "--log-output",
    )  # fmt: skip


def environment(lab_file: Path, run_id: str, folder: Path) -> dict[str, str]:
    """What a batch's notebook gets on top of every program's environment.

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


def cell_number(line: str) -> int | None:
    """The number (from 1, all cells counted) of the cell that a line of papermill's log begins."""
    found = re.fullmatch(r"Executing Cell (\d+)-+", line)
    return int(found[1]) if found else None


def execute(
    source: Path,
    target: Path,
    *,
    parameters: Mapping[str, object],
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    nice: int = 0,
    ending: Callable[[], bool] = lambda: False,
    timeout: float = PATIENCE,
) -> Execution:
    """Runs ``source`` with ``parameters``; papermill saves what it has in ``target`` after each cell.

    A kernel whose port was taken by another one's before any cell ran is started again, unless
    ``ending`` says that the batch is being ended. One with a cell that prints without end is ended.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    file = target.with_suffix(".parameters.json") if parameters else None
    if file:
        file.write_text(json.dumps(parameters), encoding="utf-8")
    ended = threading.Thread(target=end_notebooks, args=(str(target),), name="ending")
    lines = Bounded(on_line, ended.start)
    papermill = arguments(source, target, parameters=file, cwd=source.parent)
    argv = ("nice", f"--adjustment={nice}", *papermill)
    for start in range(1, STARTS + 1):
        status, said = _papermill(argv, env, lines, timeout)
        notebook = saved.read(target)
        if start == STARTS or ending() or not lost_port(status, said, notebook):
            break
        on_line(f"The kernel's port was taken by another program: start {start + 1} of {STARTS}")
    return Execution(status=status, notebook=notebook, starts=start, cause=lines.cause)


def lost_port(status: int, said: str, notebook: Mapping[str, Any] | None) -> bool:
    """Whether papermill failed because the kernel's port was taken, before any cell ran."""
    cells = code_cells(notebook) if notebook else []
    ran = any(cell.get("execution_count") is not None or errors(cell) for cell in cells)
    return status != 0 and not ran and "Address already in use" in said


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
    """A line of a traceback with paths from the project's folder (or the libraries') on."""
    places = [Path(labkit.__file__).parents[1]]
    if sys.prefix != sys.base_prefix:
        places.append(Path(sys.prefix))
    for place in places:
        line = line.replace(f"{place}/", "")
    return line


def lab_file(lab: Lab) -> str:
    """The lab as the text of a ``lab.toml`` that lies in its own outputs (``outputs/<lab>/lab.toml``)
    and describes all of it, whatever the defaults, the options and the parameters were."""
    values = {**lab.model_dump(mode="json", exclude_none=True), "outputs": ".."}
    plain = [f"{key} = {_toml(value)}" for key, value in values.items() if not _is_table(value)]
    tables = [
        "\n".join([f"\n[{key}]", *(f"{name} = {_toml(item)}" for name, item in value.items())])
        for key, value in values.items()
        if _is_table(value)
    ]
    return "# What this lab's stages were run with.\n" + "\n".join([*plain, *tables]) + "\n"


def write_lab_file(lab: Lab) -> Path:
    """Makes ``outputs/LAB/lab.toml`` hold the whole lab; an equal file is left as it is."""
    path, text = lab.output_dir / "lab.toml", lab_file(lab)
    if text_of(path) != text:
        write_atomically(path, text)
    return path


def value_of(text: str) -> Any:
    """An option's value: JSON where it is JSON (numbers, true, null, lists), else the text itself."""
    try:
        return reading.parsed(text)
    except ValueError:
        return text


def pair(option: str) -> tuple[str, Any]:
    """``replicas=3`` or ``proxy.port=81`` as name and value; :class:`ConfigError` when it is no such pair."""
    name, equals, value = option.partition("=")
    if not equals or not name.replace(".", "").isidentifier():
        raise ConfigError(
            quoted(option), "is no NAME=VALUE", "write it like replicas=3", code="config.option"
        )
    return name, value_of(value)


def _papermill(
    argv: tuple[str | Path, ...],
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    timeout: float,
) -> tuple[int, str]:
    """The exit status, and what was said on standard error."""
    try:
        done = run.run(argv, ok=range(-64, 256), env=env, timeout=timeout, on_line=on_line)
    except CommandTimeoutError as error:
        on_line(str(error))
        return error.status, str(error)
    return done.status, done.stderr


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _toml(value: Any) -> str:
    """A plain value in TOML; its strings are JSON's (https://toml.io/en/v1.0.0#string)."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
