"""What a stage leaves: its results, figures and checks as one JSON file that tells when it was changed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from labkit import display
from labkit.checks import Check, failed
from labkit.display import counted
from labkit.errors import StateError
from labkit.files import write_atomically
from labkit.lab import Lab
from labkit.report import pictures
from labkit.report.plan import STAGES, plan
from labkit.result import FIGURE_MIME, RESULT_MIME, Figure, Record, Result, Table


class Entry(Record):
    """One recorded result or figure, the notebook cell (its ``In`` number, 0 outside of one), and the
    identifiers of the remarks that it addresses."""

    cell: int
    result: Result[Any] | None = None
    figure: Figure | None = None
    addresses: tuple[str, ...] = ()


class Inputs(Record):
    """What a run was made of, besides the lab's description: hashes of its notebook, of the assignment's file,
    of labkit's sources, and of the records of the stages before; and the notebook's own parameters. None is
    what its run did not know. :mod:`labkit.report.inputs` makes and compares them.
    """

    notebook: str | None = None
    given: dict[str, Any] | None = None
    assignment: str | None = None
    labkit: str | None = None
    after: dict[str, str] = Field(default_factory=dict)


class StageRecord(Record):
    """One run of a stage, finished: what it found, and whether that suffices.

    ``parameters`` is the lab's description without the folder it is written to; ``problems`` says
    why a failed stage has failed; ``closed`` whether its closing cell ran.
    """

    stage: str
    title: str
    state: Literal["passed", "failed"]
    closed: bool
    problems: tuple[str, ...] = ()
    run: str
    started: datetime
    seconds: float
    lab: str
    parameters: dict[str, Any]
    inputs: Inputs = Inputs()
    entries: tuple[Entry, ...] = ()

    @property
    def results(self) -> tuple[Result[Any], ...]:
        """The results, in the order of the notebook."""
        return tuple(entry.result for entry in self.entries if entry.result)

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The figures, in the order of the notebook."""
        return tuple(entry.figure for entry in self.entries if entry.figure)

    @property
    def checks(self) -> tuple[Check, ...]:
        """The checks of all results."""
        return tuple(check for result in self.results for check in result.checks)

    @property
    def held(self) -> int:
        """How many checks hold."""
        return len(self.checks) - len(failed(self.checks))

    @property
    def sentence(self) -> str:
        """The stage's state as a sentence."""
        return (
            f"{self.stage} {self.state}: {self.held} of {counted(len(self.checks), 'check', 'hold')}, "
            f"{self.seconds:.1f} s, run {self.run}"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {
            "text/plain": "\n".join([self.sentence, *(f"  ✘ {text}" for text in self.problems)]),
            "text/html": display.summary_html(self.sentence, self.problems),
        }


def digest(content: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def signature(record: StageRecord) -> str:
    """The hash of a record's content, which its file notes."""
    return digest(json.loads(record.model_dump_json()))


def dump(record: StageRecord) -> str:
    """The record as the text of its file: its JSON with the hash of its content."""
    content = json.loads(record.model_dump_json())
    return json.dumps({"sha256": digest(content), **content}, indent=1, ensure_ascii=False) + "\n"


def parse(text: str, path: Path) -> StageRecord:
    """The record of a file's text; raises :class:`StateError` when the file is not as labkit wrote it."""
    try:
        content = json.loads(text)
        noted = content.pop("sha256")
        record = StageRecord.model_validate(content)
    except (ValueError, KeyError, AttributeError, TypeError, ValidationError) as error:
        raise _damaged(path, f"is no stage's record ({str(error).splitlines()[0]})") from None
    if noted != digest(content):
        raise _damaged(
            path, "was changed after labkit wrote it: its content does not have its hash"
        )
    return record


def entries_of(notebook: Mapping[str, Any]) -> tuple[Entry, ...]:
    """The results and figures that an executed notebook (nbformat 4) shows, for one that never closed."""
    found = []
    for cell in notebook["cells"]:
        number = cell.get("execution_count") or 0
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if RESULT_MIME in data:
                found.append(Entry(cell=number, result=Result.model_validate(data[RESULT_MIME])))
            if FIGURE_MIME in data:
                found.append(Entry(cell=number, figure=Figure.model_validate(data[FIGURE_MIME])))
    return tuple(found)


def file(lab: Lab, stage: str, ending: str = "json") -> Path:
    """Where a stage's record is: ``json`` the last that passed, ``failed.json`` a later failure."""
    return lab.output_dir / "results" / f"{stage}.{ending}"


def pending(lab: Lab, stage: str, run: str) -> Path:
    """Where a stage in a batch leaves its record until the batch has judged the whole notebook."""
    return lab.output_dir / "results" / f".{stage}.{run}.json"


def read(path: Path) -> StageRecord | None:
    """The record in a file, None when there is no such file; :class:`StateError` when it is damaged."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _damaged(path, f"cannot be read ({error})") from None
    return parse(text, path)


def load(lab: Lab, stage: str) -> StageRecord:
    """The last run of a stage that passed; :class:`StateError` when there is none, or it is damaged."""
    plan(stage)
    record = read(file(lab, stage))
    if record is None:
        raise StateError(
            str(file(lab, stage)),
            "this stage has no run that passed",
            f"labkit run {stage}",
            code="state.no-run",
        )
    return record


def latest(lab: Lab) -> tuple[StageRecord, ...]:
    """The last run of each stage that has one, passed or failed, in the stages' order; raises
    :class:`StateError` when one is damaged."""
    found = (
        read(file(lab, stage.name, "failed.json")) or read(file(lab, stage.name))
        for stage in STAGES
    )
    return tuple(record for record in found if record)


def tables(lab: Lab, stage: str) -> list[Path]:
    """The tables of a stage's last passed run, as CSV."""
    return sorted((lab.output_dir / "tables" / stage).glob("*.csv"))


def keep(lab: Lab, record: StageRecord) -> None:
    """Writes a record where it is read from: a passed one with its pictures, and its tables as CSV, in
    the place of any failure; a failed one beside the last that passed, which stays with its own.

    Pictures that neither run has any more are removed.
    """
    good, bad = file(lab, record.stage), file(lab, record.stage, "failed.json")
    text = record.model_dump_json()
    names = pictures.named(text)
    earlier = {name for name in _named_in(bad) if pictures.is_failed(name)}
    if record.state == "failed":
        aside = pictures.set_aside(lab, record.run, names)
        kept = StageRecord.model_validate_json(pictures.renamed(text, aside))
        write_atomically(bad, dump(kept))
        pictures.remove(lab, earlier.difference(aside.values()))
        return
    before = _named_in(good)
    pictures.keep(lab, record.run, names)
    _write_tables(lab.output_dir / "tables" / record.stage, record)
    write_atomically(good, dump(record))
    bad.unlink(missing_ok=True)
    pictures.remove(lab, (before | earlier) - names)


def _named_in(path: Path) -> frozenset[str]:
    """The pictures that a record's file names, whatever else is the matter with it."""
    return (
        pictures.named(path.read_text(encoding="utf-8", errors="replace"))
        if path.is_file()
        else frozenset()
    )


def table_csv(table: Table) -> str:
    """A table as CSV (RFC 4180 but for its line ends): headings with units, then plain values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.heading for column in table.columns])
    writer.writerows([["" if cell is None else cell for cell in row] for row in table.rows])
    return text.getvalue()


def _write_tables(folder: Path, record: StageRecord) -> None:
    """Makes the folder hold the record's tables and no older ones; a repeated name gets a number."""
    texts: dict[str, str] = {}
    for table in (table for result in record.results for table in result.tables):
        name, number = table.name, 1
        while name in texts:
            number += 1
            name = f"{table.name}-{number}"
        texts[name] = table_csv(table)
    for name, text in texts.items():
        write_atomically(folder / f"{name}.csv", text)
    for old in folder.glob("*.csv"):
        if old.stem not in texts:
            old.unlink()


def _damaged(path: Path, reason: str) -> StateError:
    return StateError(
        str(path), reason, "run the stage again: labkit rebuild", code="state.damaged-record"
    )
