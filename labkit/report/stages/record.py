"""Records of stages: the data model of one run, and how runs are read from the outputs, verified and written there.

A record has the results, figures and checks of one run of a stage, in a signed JSON file. Beside it are the run's
pictures, its tables as CSV and its executed notebook. :func:`verify` holds all of them against their signatures.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from labkit import reading
from labkit.checks import Check, failed
from labkit.core.result import (
    FIGURE_MIME,
    RESULT_MIME,
    Figure,
    Outcome,
    Result,
    action,
    drafts,
    summary_html,
)
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import ConfigError, StateError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages import signing
from labkit.report.stages.assignment import STAGES, plan
from labkit.report.stages.signing import MANIFEST, NEXT, Difference, New, Seal


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

    @property
    def digest(self) -> str:
        """The hash of its content, which its file notes."""
        return signing.content_digest(json.loads(self.model_dump_json()))


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
    return tuple(
        Entry.model_validate({"cell": cell.get("execution_count") or 0, kind: output["data"][mime]})
        for cell in notebook["cells"]
        for output in cell.get("outputs", ())
        for kind, mime in (("result", RESULT_MIME), ("figure", FIGURE_MIME))
        if mime in output.get("data", {})
    )


# -- reading ---------------------------------------------------------------------------------------


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
        return signed_record(seal, f"results/{stage}.{ending}")


def signed_record(seal: Seal, name: str) -> StageRecord | None:
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


def read_pending(lab: Lab, stage: str, run: str) -> StageRecord | None:
    """The record that a stage in a batch left, None when it left none; :class:`StateError` as :func:`parse`."""
    path = pending(lab, stage, run)
    text = _text(path)
    return None if text is None else parse(text, path, signing.public(lab))


def _text(path: Path) -> str | None:
    try:
        return reading.text(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _damaged(path, f"cannot be read ({error})") from None


def _damaged(path: Path, reason: str) -> StateError:
    return StateError(
        str(path), reason, "run the stage again: labkit rebuild", code="state.damaged-record"
    )


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


def notebook_of(lab: Lab, record: StageRecord) -> dict[str, Any]:
    """The executed notebook of the record's run, as labkit signed it; without one, a notebook that shows the
    record's results and figures."""
    path = notebook_file(lab, record.stage, "ipynb" if record.state == "passed" else "failed.ipynb")
    if data := signing.read(lab, f"notebooks/{path.name}"):
        found: dict[str, Any] = reading.parsed(data)
        return found
    return {"cells": [_cell(lab, entry) for entry in record.entries]}


def _cell(lab: Lab, entry: Entry) -> dict[str, Any]:
    """A cell that shows a recorded result or figure."""
    shown = {RESULT_MIME: entry.result, FIGURE_MIME: entry.figure}
    data: dict[str, Any] = {m: item.model_dump(mode="json") for m, item in shown.items() if item}
    if entry.figure and (drawn := signing.read(lab, entry.figure.png)):
        data["image/png"] = base64.b64encode(drawn).decode()
    outputs = [{"output_type": "display_data", "data": data}]
    return {"cell_type": "code", "source": "", "execution_count": entry.cell, "outputs": outputs}


# -- verification ----------------------------------------------------------------------------------


class Verified(Record):
    """A folder of outputs, held against its signatures: of which lab it is, whose key signed it (``own``: this
    machine's key of this lab), the runs, the number of files that were looked at, and what differs."""

    folder: str
    lab: str
    key: str
    own: bool
    runs: tuple[str, ...]
    files: int
    differences: tuple[Difference, ...]


@action("report.verify")
def verify(lab: Lab, folder: Path | None = None, *, key: str = "") -> Outcome[Verified]:
    """Holds every file of a run in a folder against the signed manifest, and each record against its signature.

    The lab's own outputs (the default) must be signed by the lab's key on this machine. Another folder, such as a
    copy, is held against the key that it names itself: the result says which one that is. Nothing is changed.

    :param key: the public key that must have signed another folder, as its lab's ``signing.pub`` has it.
    :raises ConfigError: there is no such folder.
    """
    if folder is None or folder.resolve() == lab.output_dir.resolve():
        with signing.reading(lab) as found:
            differences = tuple(differing(found))
    elif folder.is_dir():
        found = signing.seal(folder, key)
        differences = tuple(differing(found))
    else:
        raise ConfigError(
            str(folder),
            "there is no such folder",
            "give the folder of a lab's outputs: outputs/LAB",
            f"ls -la {folder}",
            code="config.no-folder",
        )
    own = bool(found.key) and found.key == signing.public(lab)
    name = found.manifest.lab or found.folder.name
    files = counted(len(found.manifest.files), "file")
    named = "the key that was asked for" if key else "the key that the folder itself names"
    whose = "this machine's key of this lab" if own else named
    signed_by = f"signed by lab {name} with {whose}: {found.key}"
    wrong = sorted({item.file for item in differences})
    differ = f"{counted(len(wrong), 'file', 'differ')}: {', '.join(wrong)}"
    again = f"labkit verify {found.folder}"
    checks = (
        Check(
            name="verify.signature", expected=f"{MANIFEST} is signed by the lab's key",
            seen=found.reason or signed_by, holds=not found.reason, again=again,
        ),
        Check(
            name="verify.files", expected=f"{files} of the runs as signed, and no other",
            seen=differ if wrong else "all as signed", holds=not wrong, again=again,
        ),
    )  # fmt: skip
    as_signed = f"All {files} of the runs in {found.folder} are as they were {signed_by}."
    changed = f"{counted(len(wrong), 'file')} in {found.folder} not as signed: run the stages again (labkit rebuild)."
    table = Table.of("differences", "Not as signed", (d.model_dump() for d in differences))
    runs = sorted({part.run for part in found.manifest.parts.values() if part.run})
    return Outcome(
        value=Verified(
            folder=str(found.folder), lab=name, key=found.key, own=own,
            runs=tuple(runs), files=len(found.manifest.files), differences=differences,
        ),
        subject=name,
        summary=changed if wrong else as_signed,
        checks=checks,
        tables=(table,) if wrong else (),
    )  # fmt: skip


def require(lab: Lab) -> None:
    """Raises :class:`StateError`, which names the files, when something of a stage's is not as it was signed."""
    with signing.reading(lab) as found:
        own = [d for d in differing(found) if not d.file.startswith("review/")]
        nothing = not (_records(found) or (found.folder / MANIFEST).exists())
    if own and not nothing:
        raise StateError(
            str(lab.output_dir),
            f"is not as signed: {'; '.join(f'{d.file}: {d.found}' for d in own)}",
            "run the stages again: labkit rebuild",
            "labkit verify",
            code="state.not-as-signed",
        )


def differing(found: Seal) -> Iterator[Difference]:
    """Each file that is not as it was signed, and each that was added."""
    signer = f"signed by the key {found.key}" if found.key else "signed by the lab's key"
    if found.reason:
        yield Difference(file=MANIFEST, expected=signer, found=found.reason)
    if (found.folder / NEXT).is_dir():
        yield Difference(file=NEXT, expected="no such folder", found="a write that was cut off")
    run_of = {name: part.run for part in found.manifest.parts.values() for name in part.files}
    names = {name for name in run_of if name.startswith("results/")} | _records(found)
    wrong = {name: said for name in sorted(names) if (said := _wrong(found, name))}
    for name, said in wrong.items():
        run = run_of.get(name, "")
        expected = f"the record of run {run}, {signer}" if run else f"{signer}, in {MANIFEST}"
        yield Difference(file=name, expected=expected, found=said)
    for item in signing.differences(found, *found.manifest.parts):
        if item.file not in wrong:
            yield item
    for name in () if found.reason else sorted(_added(found) - wrong.keys()):
        seen = signing.described(found.folder / name)
        yield Difference(file=name, expected=f"not there: {MANIFEST} has no such file", found=seen)


def _records(found: Seal) -> set[str]:
    """The records that are there."""
    there = (f"results/{path.name}" for path in (found.folder / "results").glob("*.json"))
    return set(there) - signing.OUTSIDE


def _wrong(found: Seal, name: str) -> str:
    """What is wrong with a record, '' if nothing is."""
    try:
        signed_record(found, name)
    except StateError as error:
        return error.reason if error.value != str(found.folder / MANIFEST) else ""
    return ""


def _added(found: Seal) -> set[str]:
    """The files in the folders of the outputs that the manifest does not have; hidden ones do not count."""
    paths = (path for name in signing.FOLDERS for path in (found.folder / name).rglob("*"))
    names = (p.relative_to(found.folder) for p in paths if p.is_symlink() or not p.is_dir())
    visible = {str(name) for name in names if not any(part[0] == "." for part in name.parts)}
    return visible - signing.OUTSIDE - found.manifest.files.keys()


# -- writing ---------------------------------------------------------------------------------------

#: A picture's path in the JSON of a record, relative to the lab's outputs.
PICTURE = re.compile(r'"(figures/[a-z0-9][a-z0-9.-]*\.(?:png|svg))"')
#: Drafts of a run that was killed are removed after so many seconds.
OLD = 86_400.0


def keep(lab: Lab, record: StageRecord, notebook: str = "") -> None:
    """Writes and signs a record where it is read from: a passed one with its pictures, its tables as CSV and the
    text of its executed notebook (if that was kept), in the place of any failure; a failed one beside the last
    that passed, which stays with its own.

    Pictures that neither run has any more are removed.
    """
    stage, passed = record.stage, record.state == "passed"
    text = record.model_dump_json()
    drawn = {name: _drawn(lab, record.run, name) for name in PICTURE.findall(text)}
    ending = "" if passed else "failed."
    shown: dict[str, bytes | None] = {}
    if notebook:
        shown[f"notebooks/{stage}.{ending}ipynb"] = notebook.encode()
    if passed:
        shown |= {**drawn, **_tables(record)}
    else:
        aside = {name: f"{name[:-4]}.failed{name[-4:]}" for name, data in drawn.items() if data}
        shown |= {aside[name]: drawn[name] for name in aside}
        text = PICTURE.sub(lambda found: f'"{aside.get(found[1], found[1])}"', text)
    kept = StageRecord.model_validate_json(text)
    shown[f"results/{stage}.{ending}json"] = dump(lab, kept).encode()
    new = New(record.run, shown)
    if passed:  # also what no manifest has: an earlier labkit's
        old = (
            "tables/{}/*.csv",
            "notebooks/{}.ipynb",
            "notebooks/{}.failed.ipynb",
            "results/{}.failed.json",
        )
        found = (path for name in old for path in lab.output_dir.glob(name.format(stage)))
        strays = {str(path.relative_to(lab.output_dir)) for path in found} - shown.keys()
        signing.commit(lab, {stage: new, f"{stage}.failed": None}, strays)
    else:
        signing.commit(lab, {f"{stage}.failed": new})
    sweep_drafts(lab)


def _drawn(lab: Lab, run: str, name: str) -> bytes | None:
    """What the run drew of a picture; None when it did not draw it, and an earlier run's stays."""
    draft = drafts(lab, run) / name.removeprefix("figures/")
    return draft.read_bytes() if draft.is_file() else None


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


def _tables(record: StageRecord) -> dict[str, bytes]:
    """The record's tables as CSV files of the outputs (RFC 4180 but for the line ends): headings with units, then
    plain values; a repeated name gets a number."""
    import pandas  # a third of a second, and a record is also read without its tables

    texts: dict[str, bytes] = {}
    for table in (table for result in record.results for table in result.tables):
        name, number = table.name, 1
        while f"tables/{record.stage}/{name}.csv" in texts:
            number += 1
            name = f"{table.name}-{number}"
        heads = [column.heading for column in table.columns]
        text = pandas.DataFrame(table.rows, columns=heads, dtype=object).to_csv(index=False)
        texts[f"tables/{record.stage}/{name}.csv"] = str(text).encode()
    return texts


def discard_drafts(lab: Lab, run: str) -> None:
    """The run's drafts are gone."""
    shutil.rmtree(drafts(lab, run), ignore_errors=True)


def sweep_drafts(lab: Lab) -> None:
    """The drafts of runs that ended long ago are gone: their stages will not close any more."""
    for path in (lab.output_dir / "figures").glob(".*/"):
        if time.time() - path.stat().st_mtime > OLD:
            shutil.rmtree(path, ignore_errors=True)
