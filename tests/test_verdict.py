"""The verdict on a stage's run, against what papermill really leaves in each case."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import Lab
from labkit.core import run
from labkit.report.batch import notebook as notebooks
from labkit.report.batch.notebook import Execution, verdict
from labkit.report.stages import record as records
from labkit.report.stages.record import StageRecord
from tests import stage_notebooks

STAGE = "01-wiki"
#: What a cell of the stage does; None: the stage passes.
CASES = {
    "well": "PROBE",
    "exception": "PROBE\nraise ValueError('no such thing')",
    "kernel killed": "PROBE\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "sys.exit(0)": "PROBE\nimport sys; sys.exit(0)",
    "SIGTERM": "PROBE\nimport os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(600)",
    "exits after closing": "PROBE\nstage.close()\nimport sys; sys.exit(0)",
    "check missing": "lab",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Each case run by a real papermill, several side by side: its exit status and the verdict."""
    root = tmp_path_factory.mktemp("lies")
    cases = list(CASES)
    return dict(zip(cases, run.spread(lambda case: papermill(root, case), cases), strict=True))


def papermill(root: Path, case: str) -> tuple[int, tuple[str, ...]]:
    """One case in folders of its own."""
    folder = root / case.replace(" ", "-").replace("(", "").replace(")", "")
    lab = Lab.of({"name": "lies", "outputs": str(folder / "outputs")})
    source = stage_notebooks.write(folder, STAGE, CASES[case])
    file = lab.output_dir / "lab.toml"
    file.parent.mkdir(parents=True)
    file.write_text(notebooks.lab_file(lab))
    env = notebooks.environment(file, case, folder / "work")
    done = notebooks.execute(
        source, folder / "out.ipynb", parameters={}, env=env, on_line=lambda line: None
    )
    return done.status, verdict(done, records.read_pending(lab, STAGE, case), case)


@pytest.mark.parametrize(
    ("case", "status", "reason"),
    [
        ("well", 0, ""),
        ("exception", 1, "code cell 3 of 4 raised ValueError: no such thing"),
        ("kernel killed", 138, "code cell 3 of 4 did not run to its end"),
        ("sys.exit(0)", 0, "code cell 3 of 4 raised SystemExit: 0"),
        ("SIGTERM", -15, "code cell 3 of 4 did not run to its end"),
        ("exits after closing", 0, "code cell 3 of 4 raised SystemExit: 0"),
        ("check missing", 1, "code cell 4 of 4 raised StageError"),
    ],
)
def test_only_a_whole_run_passes(
    outcomes: dict[str, tuple[int, tuple[str, ...]]], case: str, status: int, reason: str
) -> None:
    """Whatever papermill's status says, a run passes only when it is whole; else it says why."""
    seen, reasons = outcomes[case]
    assert seen == status
    assert bool(reasons) is bool(reason)
    assert "; ".join(reasons).startswith(reason)


def code(source: str, count: int | None = 1) -> dict[str, object]:
    """A code cell that ran, or (None) did not."""
    return {"cell_type": "code", "source": source, "execution_count": count, "outputs": []}


WHOLE = {"cells": [code("a"), code(""), code("stage.close()", 2)]}


def record(**other: object) -> StageRecord:
    """A passed record of run ``r``."""
    values = {
        "stage": STAGE, "title": "T", "state": "passed", "closed": True, "run": "r",
        "started": "2024-01-01T00:00:00Z", "seconds": 1, "lab": "l", "parameters": {},
    }  # fmt: skip
    return StageRecord.model_validate({**values, **other})


@pytest.mark.parametrize(
    ("status", "notebook", "kept", "reason"),
    [
        (0, WHOLE, record(), ""),
        (1, WHOLE, record(), "papermill ended with exit status 1"),
        (143, WHOLE, record(), "papermill was ended by signal 15"),
        (-9, WHOLE, record(), "papermill was ended by signal 9"),
        (138, WHOLE, record(), "the notebook's kernel died"),
        (0, None, record(), "papermill left no notebook"),
        (0, WHOLE, None, "the closing cell left no record"),
        (0, WHOLE, record(run="q"), "the record is of another run (q)"),
        (0, WHOLE, record(closed=False), "the record says that the stage was not closed"),
        (0, WHOLE, record(state="failed"), "the record says that the stage failed"),
        (0, WHOLE, record(state="failed", problems=("no check x was made",)), "no check x was made"),
        (0, {"cells": [code("a")]}, record(), "the notebook does not end in stage.close()"),
        (0, {"cells": []}, record(), "the notebook does not end in stage.close()"),
        (0, {"cells": [code("stage.close()", None)]}, record(), "code cell 1 of 1 did not run to its end"),
    ],
)  # fmt: skip
def test_each_witness_can_deny(
    status: int, notebook: dict[str, object] | None, kept: StageRecord | None, reason: str
) -> None:
    """Exit status, notebook and record must all agree; any one of them suffices to deny."""
    found = verdict(Execution(status=status, notebook=notebook), kept, "r")
    assert found == ((reason,) if reason else ())


def test_a_cell_that_prints_without_end_is_ended_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it printed is the first reason; the log stays small."""
    monkeypatch.setattr(notebooks, "MOST", 100_000)
    monkeypatch.setattr(notebooks, "INTERRUPTED", 2.0)
    endless = "while True: print('x' * 1000)"
    source = stage_notebooks.write(tmp_path / "nb", STAGE, endless)
    lab = Lab.of({"name": "floods", "outputs": str(tmp_path / "outputs")})
    said: list[str] = []
    done = notebooks.execute(
        source,
        tmp_path / "work" / "out.ipynb",
        parameters={},
        env=notebooks.environment(notebooks.write_lab_file(lab), "r", tmp_path / "work"),
        on_line=said.append,
    )
    reasons = verdict(done, None, "r")
    assert reasons[0] == "cell 4 printed more than 0.1 MB, and was ended: print less"
    assert any(reason.startswith("code cell 3 of 4 ") for reason in reasons)
    assert sum(map(len, said)) < 110_000


def test_each_cell_may_print_so_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new cell begins anew; each is reported as it begins, with how many there are."""
    monkeypatch.setattr(notebooks, "MOST", 1000)
    source = stage_notebooks.write(tmp_path / "nb", STAGE, *["print('x' * 600)"] * 3, close=False)
    lab = Lab.of({"name": "prints", "outputs": str(tmp_path / "outputs")})
    said: list[str] = []
    cells: list[tuple[int, int]] = []
    done = notebooks.execute(
        source,
        tmp_path / "work" / "out.ipynb",
        parameters={"shown": "this"},
        env=notebooks.environment(notebooks.write_lab_file(lab), "r", tmp_path / "work"),
        on_line=said.append,
        on_cell=lambda number, total: cells.append((number, total)),
    )
    assert (done.status, done.cause) == (0, "")
    assert cells == [(number, 7) for number in range(1, 8)]
    assert said.count("x" * 600) == 3


def test_what_is_kept_of_a_cells_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed notebook that is kept says how much is left out."""
    monkeypatch.setattr(notebooks, "MOST", 100)
    outputs = [{"output_type": "stream", "name": "stdout", "text": ["x" * 99, "y" * 99]}]
    kept = notebooks.tidy({"cells": [{"outputs": outputs}], "metadata": {}}, STAGE)
    assert f"{'x' * 99}y\\n… 98 characters left out" in kept
