"""Result: the record that every action returns, with its checks, tables and commands.

An action is a function decorated with :func:`action`. It looks, acts, looks again and returns an
:class:`Outcome`; the decorator makes the :class:`Result` of it and adds who, when, how long, in which run, by
which commands.
"""

from __future__ import annotations

import base64
import functools
import html
import inspect
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from pydantic import PrivateAttr

from labkit import cancellation
from labkit.checks import Check
from labkit.core import files, run
from labkit.core.tables import LEFT, Table, table_html
from labkit.display import counted
from labkit.errors import LabkitError, StateError
from labkit.model.lab import Lab
from labkit.records import Record

if TYPE_CHECKING:
    from pathlib import Path

    import pandas

T = TypeVar("T")
P = ParamSpec("P")

#: The MIME types that a notebook keeps a result and a figure under, for the wiki and the review.
RESULT_MIME = "application/vnd.labkit.result+json"
FIGURE_MIME = "application/vnd.labkit.figure+json"


class Figure(Record):
    """A picture made from a result: its files (relative to the lab's outputs), alt text, caption.

    A figure that was just drawn holds its PNG and shows it in a notebook; one that was read back
    from JSON is shown by its alt text, and its picture is in its files.
    """

    name: str
    png: str
    svg: str
    alt: str
    caption: str
    _image: bytes = PrivateAttr(default=b"")

    def holding(self, image: bytes) -> Figure:
        """The same figure with its PNG, which no JSON contains."""
        figure = self.model_copy()
        figure._image = image
        return figure

    def _repr_mimebundle_(
        self, include: object = None, exclude: object = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        data: dict[str, Any] = {"text/plain": self.alt, FIGURE_MIME: self.model_dump(mode="json")}
        if self._image:
            data["image/png"] = base64.b64encode(self._image).decode()
        return data, {"image/png": {"alt": self.alt}}


class Command(Record):
    """A command that an action ran, as one would type it, with its exit status and duration."""

    command: str
    status: int
    seconds: float


class Result(Record, Generic[T]):
    """What an action did and found: a frozen record that a notebook shows as tables.

    ``value`` is the action's own typed value; ``summary`` says in a sentence what was found; ``changed`` whether
    the machine is another one than before; ``checks`` are what was expected and seen, ``tables`` rows under named
    columns (:attr:`frames`: the same in pandas), ``commands`` the programs that ran. Example::

        pings = network.pings(lab)
        print(pings)                       # the summary, the checks, the names of the tables
        pings.holds                        # True when every check holds
        pings.frames["pings"].describe()   # a pandas DataFrame

    A result is equal to another one that says the same, also to itself read back from JSON:
    ``Result.model_validate_json(result.model_dump_json()) == result``. ``Result[Pings]`` in the place of
    ``Result`` reads the typed value back.
    """

    action: str
    subject: str
    summary: str
    changed: bool
    value: T
    checks: tuple[Check, ...] = ()
    tables: tuple[Table, ...] = ()
    commands: tuple[Command, ...] = ()
    run: str
    started: datetime
    seconds: float

    def table(self, name: str) -> Table:
        """The table of that name; raises KeyError with the names that there are."""
        for table in self.tables:
            if table.name == name:
                return table
        raise KeyError(f"{name!r}; this result has {[table.name for table in self.tables]}")

    @property
    def frames(self) -> dict[str, pandas.DataFrame]:
        """The tables as pandas DataFrames by their names; changing one changes nothing in the result."""
        return {table.name: table.frame() for table in self.tables}

    @property
    def holds(self) -> bool:
        """Whether every check holds."""
        return all(check.holds for check in self.checks)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same: a value that was read from JSON may have lost its type."""
        if not isinstance(other, Result):
            return NotImplemented
        return self.model_dump(mode="json") == other.model_dump(mode="json")

    def __hash__(self) -> int:
        return hash((self.action, self.subject, self.started))

    def __str__(self) -> str:
        rows = [(table.name, counted(len(table.rows), "row")) for table in self.tables]
        tables = [f'  {count} in frames["{name}"]' for name, count in rows]
        return "\n".join([result_text(self), *tables])

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {
            "text/plain": result_text(self),
            "text/html": result_html(self),
            RESULT_MIME: self.model_dump(mode="json"),
        }


class Outcome(Record, Generic[T]):
    """What an action found and did, as its code returns it; :func:`action` makes the :class:`Result` of it."""

    value: T
    summary: str
    subject: str = ""
    changed: bool = False
    checks: tuple[Check, ...] = ()
    tables: tuple[Table, ...] = ()


def action(name: str) -> Callable[[Callable[P, Outcome[T]]], Callable[P, Result[T]]]:
    """Makes a function that returns an :class:`Outcome` into one that returns a :class:`Result`, and says so
    in its signature.

    In a notebook the caller's thread runs an event loop, in which neither pyroute2 nor playwright
    can run one of their own: there the function runs in a thread beside it. What it makes has ordinary
    modes, whatever the caller's umask is: servers and containers that are not root's have to read it.
    """

    def decorate(function: Callable[P, Outcome[T]]) -> Callable[P, Result[T]]:
        @functools.wraps(function)
        def acting(*args: P.args, **kwargs: P.kwargs) -> Result[T]:
            started, clock = datetime.now(UTC), time.monotonic()
            with run.tracing() as done, files.usual_umask():
                try:
                    outcome = _beside_loop(functools.partial(function, *args, **kwargs))
                except (OSError, LabkitError) as error:
                    raise _explained(error, args) from error.__cause__
            commands = tuple(
                Command(command=item.command, status=item.status, seconds=round(item.seconds, 4))
                for item in done
            )
            return Result(
                action=name,
                subject=outcome.subject,
                summary=outcome.summary,
                changed=outcome.changed,
                value=outcome.value,
                checks=outcome.checks,
                tables=outcome.tables,
                commands=commands,
                run=run_id(),
                started=started,
                seconds=round(time.monotonic() - clock, 4),
            )

        shown = inspect.signature(function)
        returned = str(shown.return_annotation).replace("Outcome", "Result", 1)
        acting.__annotations__ = {**function.__annotations__, "return": returned}
        acting.__signature__ = shown.replace(return_annotation=returned)  # type: ignore[attr-defined]
        return acting

    return decorate


def _explained(error: Exception, given: Sequence[object]) -> Exception:
    """The error of an action on a lab; a full disk is named, and what somebody took away of the lab meanwhile."""
    lab = next((item for item in given if isinstance(item, Lab)), None)
    if lab and isinstance(error, FileNotFoundError):
        own = (f"{lab.state_dir}/", f"{lab.run_dir}/")
        names = [str(name) for name in (error.filename2, error.filename) if name]
        if gone := next((name for name in names if name.startswith(own)), ""):
            return StateError(
                gone,
                "was removed while labkit used it",
                "run it again when no other program works on this lab",
                f"ls -la {shlex.quote(str(lab.state_dir))}",
                code="state.taken-away",
            )
    return files.explain_disk_full(error, lab) if lab else error


def _beside_loop(function: Callable[[], T]) -> T:
    if not _in_loop():
        return function()
    return cancellation.alone(function)


def _in_loop() -> bool:
    """Whether the calling thread runs an event loop; importing asyncio, which is slow, is not
    needed to know that there is none."""
    if "asyncio" not in sys.modules:
        return False
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def drafts(lab: Lab, run: str = "") -> Path:
    """The folder in which a run's pictures (default: this run's) wait until their stage has passed: a
    run that fails leaves those of the last good one, in ``figures``, as they are."""
    return lab.output_dir / "figures" / f".{run or run_id()}"


def picture(lab: Lab, path: str) -> Path:
    """Where a picture (``figures/NAME.png``, relative to the lab's outputs) of this run can be read: its
    draft or, without one, its place."""
    waiting = drafts(lab) / path.removeprefix("figures/")
    return waiting if waiting.exists() else lab.output_dir / path


def new_run_id() -> str:
    """A run id that nothing has yet: the time (UTC), to the second, and four random digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


_own_run_id = functools.cache(new_run_id)


def run_id() -> str:
    """The id of this run: the batch's (``LABKIT_RUN``), else one for the life of the process."""
    return os.environ.get("LABKIT_RUN") or _own_run_id()


#: A long path in a command would push the table's last column off the page.
BREAKING = ' style="overflow-wrap:anywhere"'


def result_text(result: Result[Any]) -> str:
    """A result in plain text: its summary, then a line a check."""
    changed = "changed" if result.changed else "unchanged"
    lines = [f"{result.summary} [{result.action}, {changed}, {result.seconds:.2f} s]"]
    lines += [f"  {c.icon} {c.name}: expected {c.expected}; seen {c.seen}" for c in result.checks]
    return "\n".join(lines)


def result_html(result: Result[Any]) -> str:
    """A result as HTML: summary, checks, tables; the commands folded."""
    parts = [f"<p><strong>{html.escape(result.summary)}</strong></p>"]
    if result.checks:
        parts.append(checks_html(result.checks))
    parts += [table_html(table) for table in result.tables]
    if result.commands:
        lines = "\n".join(
            f"{html.escape(item.command)}  # {item.status}, {item.seconds:.2f} s"
            for item in result.commands
        )
        parts.append(
            f"<details><summary>{counted(len(result.commands), 'command')}</summary><pre>{lines}</pre></details>"
        )
    changed = "changed" if result.changed else "unchanged"
    parts.append(
        f"<p><small>{html.escape(result.action)} · {changed} · {result.seconds:.2f} s · "
        f"run {html.escape(result.run)}</small></p>"
    )
    return "\n".join(parts)


def summary_html(sentence: str, problems: Iterable[str]) -> str:
    """A sentence, and below it what is wrong, as HTML."""
    items = "".join(f"<li>✘ {html.escape(problem)}</li>" for problem in problems)
    return f"<p><strong>{html.escape(sentence)}</strong></p>" + (
        f"<ul>{items}</ul>" if items else ""
    )


def checks_html(checks: Iterable[Check]) -> str:
    """Checks as an HTML table: state, name, expected, seen, how to see it again."""
    rows = "".join(
        f"<tr><td{LEFT}>{c.icon}&nbsp;{c.state}</td><td{LEFT}>{html.escape(c.name)}</td>"
        f"<td{LEFT}>{html.escape(c.expected)}</td><td{LEFT}>{html.escape(c.seen)}</td>"
        f"<td{LEFT}><code{BREAKING}>{html.escape(c.again)}</code></td></tr>"
        for c in checks
    )
    heads = "".join(
        f"<th{LEFT}>{head}</th>" for head in ("state", "check", "expected", "seen", "see it again")
    )
    return f'<table class="checks"><tr>{heads}</tr>{rows}</table>'
