"""Whether the outputs are as labkit signed them: every file and signature, each difference by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from labkit.checks import Check
from labkit.core.result import Outcome, action
from labkit.core.tables import Table
from labkit.display import counted
from labkit.errors import ConfigError, StateError
from labkit.model.lab import Lab
from labkit.records import Record
from labkit.report.stages import record as records
from labkit.report.stages import signing
from labkit.report.stages.signing import MANIFEST, NEXT, Difference, Seal


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
    else:
        if not folder.is_dir():
            raise ConfigError(
                str(folder),
                "there is no such folder",
                "give the folder of a lab's outputs: outputs/LAB",
                f"ls -la {folder}",
                code="config.no-folder",
            )
        found = signing.seal(folder, key)
        differences = tuple(differing(found))
    return _told(lab, found, differences, key)


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
    listed = [item for part in found.manifest.parts for item in signing.differences(found, part)]
    names = {name for name in found.manifest.files if name.startswith("results/")}
    wrong = {name: said for name in names | _records(found) if (said := _wrong(found, name))}
    for name, said in sorted(wrong.items()):
        run = next((p.run for p in found.manifest.parts.values() if name in p.files), "")
        expected = f"the record of run {run}, {signer}" if run else f"{signer}, in {MANIFEST}"
        yield Difference(file=name, expected=expected, found=said)
    yield from (item for item in listed if item.file not in wrong)
    for name in () if found.reason else signing.added(found):
        if name not in wrong:
            seen = signing.described(found.folder / name)
            yield Difference(
                file=name, expected=f"not there: {MANIFEST} has no such file", found=seen
            )


def _records(found: Seal) -> set[str]:
    """The records that are there."""
    there = (f"results/{path.name}" for path in (found.folder / "results").glob("*.json"))
    return set(there) - signing.OUTSIDE


def _wrong(found: Seal, name: str) -> str:
    """What is wrong with a record, '' if nothing is."""
    try:
        records.judged(found, name)
    except StateError as error:
        return error.reason if error.value != str(found.folder / MANIFEST) else ""
    return ""


def _told(
    lab: Lab, found: Seal, differences: tuple[Difference, ...], key: str
) -> Outcome[Verified]:
    own = bool(found.key) and found.key == signing.public(lab)
    name = found.manifest.lab or found.folder.name
    files = len(found.manifest.files)
    named = "the key that was asked for" if key else "the key that the folder itself names"
    whose = "this machine's key of this lab" if own else named
    wrong = {item.file for item in differences}
    signed_by = f"signed by lab {name} with {whose}: {found.key}"
    checks = (
        Check(
            name="verify.signature",
            expected=f"{MANIFEST} is signed by the lab's key",
            seen=found.reason or signed_by,
            holds=not found.reason,
            again=f"labkit verify {found.folder}",
        ),
        Check(
            name="verify.files",
            expected=f"{counted(files, 'file')} of the runs as signed, and no other",
            seen=f"{counted(len(wrong), 'file', 'differ')}: {', '.join(sorted(wrong))}"
            if wrong
            else "all as signed",
            holds=not wrong,
            again=f"labkit verify {found.folder}",
        ),
    )
    summary = (
        f"{counted(len(wrong), 'file')} in {found.folder} not as signed: run the stages again (labkit rebuild)."
        if wrong
        else f"All {counted(files, 'file')} of the runs in {found.folder} are as they were {signed_by}."
    )
    rows = ({"file": d.file, "expected": d.expected, "found": d.found} for d in differences)
    runs = sorted({part.run for part in found.manifest.parts.values() if part.run})
    return Outcome(
        value=Verified(
            folder=str(found.folder), lab=name, key=found.key, own=own,
            runs=tuple(runs), files=files, differences=differences,
        ),
        subject=name,
        summary=summary,
        checks=checks,
        tables=(Table.of("differences", "Not as signed", rows),) if differences else (),
    )  # fmt: skip
