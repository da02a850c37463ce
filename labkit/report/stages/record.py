"""A stage's record: its results, figures and checks in one signed JSON file; and its pictures and executed notebook."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from labkit import reading
from labkit.checks import Check, failed
from labkit.core.result import FIGURE_MIME, RESULT_MIME, Figure, Result, drafts, summary_html
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import StateError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages import signing
from labkit.report.stages.assignment import STAGES, plan
from labkit.report.stages.signing import New, Seal


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
    what its run did not know. :mod:`labkit.report.stages.build_cache` makes and compares them.
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
            "text/html": summary_html(self.sentence, self.problems),
        }


def fingerprint(record: StageRecord) -> str:
    """The hash of a record's content, which its file notes."""
    return signing.content_digest(json.loads(record.model_dump_json()))


def dump(lab: Lab, record: StageRecord) -> str:
    """The record as the text of its file: its JSON with its hash and the lab's signature."""
    return signing.signed(lab, "record", json.loads(record.model_dump_json()))


def parse(text: str, path: Path, key: str) -> StageRecord:
    """The record of a file's text; raises :class:`StateError` when it is not as the owner of ``key`` signed it."""
    try:
        content, _ = signing.opened(text, "record", key)
        return StageRecord.model_validate(content)
    except (reading.NoJsonError, ValidationError) as error:
        raise _damaged(path, f"is not a stage's record ({str(error).splitlines()[0]})") from None
    except ValueError as error:
        raise _damaged(path, str(error)) from None


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


def read(lab: Lab, stage: str, ending: str = "json") -> StageRecord | None:
    """The record of a stage, None when it has none; :class:`StateError` when it is not the one that the lab signed
    last."""
    with signing.reading(lab) as seal:
        return judged(seal, f"results/{stage}.{ending}")


def judged(seal: Seal, name: str) -> StageRecord | None:
    """The record in a file of the outputs, as :func:`read`: signed by their key, of their lab and of the stage that
    the file is named for, and listed in their manifest."""
    path, listed = seal.folder / name, seal.manifest.files.get(name)
    text = _text(path)
    if text is None and listed is None:
        return None
    if text is None:
        raise _damaged(path, f"is missing: {signing.MANIFEST} has it")
    record = parse(text, path, seal.key)
    stage, _, ending = path.name.partition(".")
    if seal.reason:
        raise _damaged(seal.folder / signing.MANIFEST, seal.reason)
    if record.lab != seal.manifest.lab:
        raise _damaged(path, f"is of the lab {record.lab!r}, not of {seal.manifest.lab!r}")
    if record.stage != stage or (record.state == "failed") is not (ending == "failed.json"):
        raise _damaged(path, f"is of a run of {record.stage} that {record.state}")
    if listed != signing.digest(text.encode()):
        part = seal.manifest.parts.get(stage if ending == "json" else f"{stage}.failed")
        last = f"the last one is {part.run}" if part else f"{signing.MANIFEST} has none"
        raise _damaged(path, f"is of another run: {record.run}; {last}")
    return record


def put_aside(lab: Lab, stage: str) -> None:
    """A record that :func:`read` refuses is out of the way of the stage's next run, as a hidden file, and what the
    manifest had of that run is gone: an earlier labkit's, for one, which is not signed."""
    for ending, part in (("json", stage), ("failed.json", f"{stage}.failed")):
        try:
            read(lab, stage, ending)
        except StateError:
            path = file(lab, stage, ending)
            if path.is_file():
                path.replace(path.with_name(f".{path.name}.refused"))
            signing.commit(lab, {part: None})


def read_pending(lab: Lab, stage: str, run: str) -> StageRecord | None:
    """The record that a stage in a batch left, None when it left none; :class:`StateError` as :func:`parse`."""
    path = pending(lab, stage, run)
    text = _text(path)
    return None if text is None else parse(text, path, signing.public(lab))


def _text(path: Path) -> str | None:
    if path.exists() and not path.is_file():
        raise _damaged(path, "is not a file")
    try:
        return reading.text(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from None


def load(lab: Lab, stage: str) -> StageRecord:
    """The last run of a stage that passed; :class:`StateError` when there is none, or it is damaged."""
    plan(stage)
    record = read(lab, stage)
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
    found = (read(lab, stage.name, "failed.json") or read(lab, stage.name) for stage in STAGES)
    return tuple(record for record in found if record)


def keep(lab: Lab, record: StageRecord, notebook: str = "") -> None:
    """Writes and signs a record where it is read from: a passed one with its pictures, its tables as CSV and the
    text of its executed notebook (if that was kept), in the place of any failure; a failed one beside the last
    that passed, which stays with its own.

    Pictures that neither run has any more are removed.
    """
    stage = record.stage
    good, bad = file(lab, stage), file(lab, stage, "failed.json")
    text = record.model_dump_json()
    drawn = drawn_pictures(lab, record.run, pictures_named(text))
    ending = "failed." if record.state == "failed" else ""
    shown: dict[str, bytes | None] = (
        {f"notebooks/{stage}.{ending}ipynb": notebook.encode()} if notebook else {}
    )
    if ending:
        aside = {name: failed_name(name) for name, data in drawn.items() if data}
        kept = StageRecord.model_validate_json(with_pictures(text, aside))
        shown |= {aside[name]: drawn[name] for name in aside}
        shown[f"results/{bad.name}"] = dump(lab, kept).encode()
        strays = {name for name in _named_in(bad) if is_failed_picture(name)} - shown.keys()
        signing.commit(lab, {f"{stage}.failed": New(record.run, shown)}, strays)
    else:
        shown |= {**drawn, **_tables(record)}
        shown[f"results/{good.name}"] = dump(lab, record).encode()
        strays = {
            *_named_in(good),
            *(name for name in _named_in(bad) if is_failed_picture(name)),
            *(f"tables/{stage}/{path.name}" for path in tables(lab, stage)),
            f"results/{bad.name}",
            *(f"notebooks/{stage}.{end}ipynb" for end in ("", "failed.")),
        } - shown.keys()
        signing.commit(lab, {stage: New(record.run, shown), f"{stage}.failed": None}, strays)
    sweep_drafts(lab)


def tables(lab: Lab, stage: str) -> list[Path]:
    """The tables of a stage's last passed run, as CSV."""
    return sorted((lab.output_dir / "tables" / stage).glob("*.csv"))


def _named_in(path: Path) -> frozenset[str]:
    """The pictures that a record's file names, whatever else is the matter with it."""
    return (
        pictures_named(path.read_text(encoding="utf-8", errors="replace"))
        if path.is_file()
        else frozenset()
    )


def table_csv(table: Table) -> str:
    """A table as CSV (RFC 4180 but for its line ends): headings with units, then plain values."""
    import pandas  # a third of a second, and a record is also read without its tables

    heads = [column.heading for column in table.columns]
    return str(pandas.DataFrame(table.rows, columns=heads, dtype=object).to_csv(index=False))


def _tables(record: StageRecord) -> dict[str, bytes]:
    """The record's tables as files of the outputs; a repeated name gets a number."""
    texts: dict[str, bytes] = {}
    for table in (table for result in record.results for table in result.tables):
        name, number = table.name, 1
        while f"tables/{record.stage}/{name}.csv" in texts:
            number += 1
            name = f"{table.name}-{number}"
        texts[f"tables/{record.stage}/{name}.csv"] = table_csv(table).encode()
    return texts


def _damaged(path: Path, reason: str) -> StateError:
    return StateError(
        str(path), reason, "run the stage again: labkit rebuild", code="state.damaged-record"
    )


def read_notebook(path: Path) -> dict[str, Any] | None:
    """The notebook (nbformat 4) in a file as JSON; None when there is none, or what is there is none."""
    from nbformat.validator import ValidationError as Invalid
    from nbformat.validator import (
        iter_validate,  # a quarter of a second, and few commands read notebooks
    )

    try:
        content = reading.json_of(path)
        wrong = not isinstance(content, dict) or content.get("nbformat") != 4
        if wrong or any(iter_validate(content, relax_add_props=True)):  # type: ignore[no-untyped-call]
            return None
    except (OSError, ValueError, Invalid):
        return None
    return dict(content)


def notebook_file(lab: Lab, stage: str, ending: str = "ipynb") -> Path:
    """Where the executed notebook of a stage's last passed run is (``failed.ipynb``: of a later failure)."""
    return lab.output_dir / "notebooks" / f"{stage}.{ending}"


def notebook_of(lab: Lab, record: StageRecord) -> dict[str, Any] | None:
    """The executed notebook of the record's run; None when it was not kept, or is not as labkit signed it."""
    path = notebook_file(lab, record.stage, "ipynb" if record.state == "passed" else "failed.ipynb")
    data = signing.read(lab, f"notebooks/{path.name}")
    found: dict[str, Any] | None = reading.parsed(data) if data else None
    return found


#: A picture's path in the JSON of a record, relative to the lab's outputs.
PICTURE = re.compile(r'"(figures/[a-z0-9][a-z0-9.-]*\.(?:png|svg))"')
#: Drafts of a run that was killed are removed after so many seconds.
OLD = 86_400.0


def pictures_named(text: str) -> frozenset[str]:
    """The pictures that a record names, in its figures and its results; ``text`` is its JSON."""
    return frozenset(PICTURE.findall(text))


def drawn_pictures(lab: Lab, run: str, names: Collection[str]) -> dict[str, bytes | None]:
    """What the run drew of these pictures; None for one that it did not draw, of which an earlier run's stays."""
    drafts_of = {name: drafts(lab, run) / name.removeprefix("figures/") for name in names}
    return {name: path.read_bytes() if path.is_file() else None for name, path in drafts_of.items()}


def failed_name(name: str) -> str:
    """What a picture of a failed run is called."""
    stem, _, ending = name.rpartition(".")
    return f"{stem}.failed.{ending}"


def is_failed_picture(name: str) -> bool:
    """Whether a picture is one of a failed run."""
    return ".failed." in name


def with_pictures(text: str, paths: Mapping[str, str]) -> str:
    """The JSON of a record with other paths of its pictures."""
    return PICTURE.sub(lambda found: f'"{paths.get(found[1], found[1])}"', text)


def discard_drafts(lab: Lab, run: str) -> None:
    """The run's drafts are gone."""
    shutil.rmtree(drafts(lab, run), ignore_errors=True)


def sweep_drafts(lab: Lab) -> None:
    """The drafts of runs that ended long ago are gone: their stages will not close any more."""
    for path in (lab.output_dir / "figures").glob(".*/"):
        if time.time() - path.stat().st_mtime > OLD:
            shutil.rmtree(path, ignore_errors=True)
