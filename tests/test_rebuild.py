"""The batch rebuild: what is run, what is not, and what is kept when a stage fails or is ended."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from labkit import Lab
from labkit.cli.command import pair
from labkit.core import journal, run
from labkit.core.journal import Entry, Journal
from labkit.core.result import RESULT_MIME, Result
from labkit.errors import ConfigError, LockError
from labkit.report.batch import notebook
from labkit.report.batch.progress import Progress
from labkit.report.batch.rebuild import Rebuilt, rebuild
from labkit.report.batch.schedule import Ending, State, Wish, following, not_run, ready
from labkit.report.stages import build_cache
from labkit.report.stages import record as records
from labkit.report.stages.assignment import STAGES, plan
from labkit.report.stages.record import file
from labkit.report.stages.stage import Stage
from tests import stage_notebooks
from tests.waiting import until

STANDS = "from labkit.core.journal import Journal\nJournal.of(lab).intend('route', subnet='10.9.9.0/24', netns='')\n"


def a_lab(folder: Path, **other: Any) -> Lab:
    """A lab whose folders are all below ``folder``."""
    places = {name: str(folder / name) for name in ("outputs", "state", "run")}
    return Lab.of({"name": "batch", "replicas": 3, **places, **other})


def states(result: Result[Rebuilt]) -> dict[str, str]:
    """The state of each stage of a batch."""
    return {ending.stage: ending.state for ending in result.value.stages}


# -- pure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("over", "running", "expected"),
    [
        ({}, set(), ["01-wiki", "02-rootfs", "03-containers"]),
        ({}, {"01-wiki", "03-containers"}, ["02-rootfs"]),
        ({"03-containers": "passed"}, {"01-wiki", "02-rootfs"}, ["04-network"]),
        ({"03-containers": "unchanged"}, {"01-wiki", "02-rootfs"}, ["04-network"]),
        ({"03-containers": "failed"}, {"01-wiki", "02-rootfs"}, []),
        ({"03-containers": "passed", "04-network": "passed", "05-web": "passed"}, {"01-wiki", "02-rootfs"}, []),
    ],
)  # fmt: skip
def test_stages_begin_when_what_they_wait_for_is_good(
    over: dict[str, State], running: set[str], expected: list[str]
) -> None:
    """A stage begins when those that it waits for, and that are wanted, have passed or are unchanged; not before."""
    assert [stage.name for stage in ready(STAGES, over, running)] == expected
    wanted = Wish(stages=("06-balancer", "04-network")).plans(Lab())
    assert [stage.name for stage in ready(wanted, {}, set())] == ["04-network", "06-balancer"]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        ("04-network", {"04-network", "05-web", "06-balancer", "07-report"}),
        ("02-rootfs", {"02-rootfs", "06-balancer", "07-report"}),
        ("07-report", {"07-report"}),
    ],
)
def test_from_a_stage_means_it_and_what_depends_on_it(start: str, expected: set[str]) -> None:
    """``--from`` takes the stage and all that depend on it, directly or not."""
    assert following(start) == expected


@pytest.mark.parametrize(
    ("endings", "interrupted", "reason"),
    [
        ({"03-containers": "failed"}, "", "it waits for 03-containers"),
        ({"01-wiki": "failed", "03-containers": "passed"}, "", "01-wiki failed"),
        ({"03-containers": "passed"}, "SIGTERM", "the rebuild was ended by SIGTERM"),
    ],
)
def test_stage_that_was_not_run_says_why(
    endings: dict[str, State], interrupted: str, reason: str
) -> None:
    """A stage that was never begun names the stage or the signal that it is due to."""
    ended = {name: Ending(stage=name, state=state) for name, state in endings.items()}
    assert not_run(plan("04-network"), ended, interrupted).reasons == (reason,)


def test_marks_are_of_this_boot() -> None:
    """What stands says nothing of an earlier boot, of folders, or of the order of making."""
    one = Entry(seq=1, boot="b", kind="link", what={"name": "x"})
    two = Entry(seq=2, boot="b", kind="netns", what={"name": "x"})
    other = [Entry(seq=3, boot="a", kind="link"), Entry(seq=4, boot="b", kind="folder")]
    assert build_cache.marks([one, two, *other], "b") == build_cache.marks([two, one], "b")
    assert len(build_cache.marks([one, two], "b")) == 2
    assert build_cache.marks([one], "b") != build_cache.marks(
        [one.model_copy(update={"boot": "c"})], "c"
    )


def test_lab_file_is_the_whole_lab(tmp_path: Path) -> None:
    """The lab that a batch writes for its notebooks is read back equal, whatever is in it."""
    lab = a_lab(
        tmp_path,
        sites=[{"name": "a", "title": 'Ünï "q" \\ #', "weights": [1, 2, 3]}, {"name": "b", "replicas": 1}],
        traffic={"seconds": 0.5},
        host={"netns": "n"},
    )  # fmt: skip
    path = lab.output_dir / "lab.toml"
    path.parent.mkdir(parents=True)
    path.write_text(notebook.lab_file(lab))
    assert Lab.load(path) == lab


def test_traceback_does_not_say_where_labkit_is_installed() -> None:
    """A failed notebook names files from the project's folder on; what it printed stays as it is."""
    project = Path(notebook.__file__).parents[3]
    raised = {"output_type": "error", "ename": "E", "evalue": "", "traceback": [f"File {project}/labkit/run.py:3", f"File {sys.prefix}/lib/x.py:1"]}  # fmt: skip
    printed = {"output_type": "stream", "name": "stdout", "text": f"{project}/labkit"}
    cell = {"cell_type": "code", "source": "", "metadata": {}, "outputs": [raised, printed]}
    kept = json.loads(notebook.tidy({"cells": [cell], "metadata": {}}, "x"))["cells"][0]["outputs"]
    assert kept[0]["traceback"][0] == "File labkit/run.py:3"
    assert str(project) not in kept[0]["traceback"][1]
    assert kept[1] == printed


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("replicas=3", ("replicas", 3)),
        ("suite=bookworm", ("suite", "bookworm")),
        ("sites=[\"a\", \"b\"]", ("sites", ["a", "b"])),
        ("assignment=a=b.txt", ("assignment", "a=b.txt")),
    ],
)  # fmt: skip
def test_options_are_json_or_text(option: str, expected: tuple[str, object]) -> None:
    """A value on the command line is JSON where it is JSON, else the text itself."""
    assert pair(option) == expected


@pytest.mark.parametrize(
    ("wish", "variant", "reason"),
    [
        (Wish(stages=("04-netwrk",)), "web", "04-network"),
        (Wish(start="04-netwrk"), "web", "04-network"),
        (Wish(stages=("01-wiki",), parameters={"replcas": 1}), "web", "did you mean 'replicas'"),
        (Wish(stages=("01-wiki",), parameters={"shwn": 1}), "web", "did you mean 'shown'"),
        (Wish(stages=("01-wiki",)), "smalest", "did you mean 'smallest'"),
        (Wish(stages=("02-rootfs",)), "web", r"02-rootfs\.ipynb"),
    ],
)
def test_what_cannot_be_run_is_refused(
    tmp_path: Path, wish: Wish, variant: str, reason: str
) -> None:
    """A misspelt stage, parameter or variant, or a missing notebook: an error that names the nearest, and nothing is
    made or run."""
    stage_notebooks.write(tmp_path / "nb", "01-wiki")
    lab = a_lab(tmp_path / "lab", rootfs={"variant": variant})
    with pytest.raises(ConfigError, match=reason):
        rebuild(lab, wish, folder=tmp_path / "nb")
    assert not (tmp_path / "lab").exists()


def test_two_batches_of_one_lab_are_refused(tmp_path: Path) -> None:
    """While one batch works on a lab, another one is refused at once, with the first one's process."""
    lab = a_lab(tmp_path / "lab")
    stage_notebooks.write(tmp_path / "nb", "01-wiki")
    with (
        journal.lock(lab.run_dir, "session", wait=0),
        pytest.raises(LockError, match=f"process {os.getpid()}"),
    ):
        rebuild(lab, Wish(stages=("01-wiki",)), folder=tmp_path / "nb")


def test_progress_on_a_terminal_shows_each_stage() -> None:
    """On a terminal each stage is a line: its state in a mark and a word, and how far it is."""
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(console) as progress:
        progress.expect(["01-wiki", "02-rootfs"])
        progress.begin("01-wiki", "it was asked for")
        progress.cell("01-wiki", 3, 9)
        progress.end("02-rootfs", "failed", 2.5, "broken")
    lines = Text.from_ansi(console.file.getvalue()).plain.splitlines()  # type: ignore[attr-defined]
    assert any(re.fullmatch(r"01-wiki +▶ running +[\d.]+ s +cell 3 of 9 *", line) for line in lines)
    assert any(re.fullmatch(r"02-rootfs +✘ failed +2\.5 s +broken *", line) for line in lines)


def test_progress_in_a_log_tells_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Now and then what goes on, how much time has passed, and how much is left as far as that is known."""
    now, said = [100.0], io.StringIO()
    monkeypatch.setattr("labkit.report.batch.progress.time.monotonic", lambda: now[0])
    with Progress(Console(file=said, width=400)) as progress:
        progress.expect([stage.name for stage in STAGES[:2]])
        progress.estimate(STAGES[:2], {"01-wiki": 30.0, "02-rootfs": 80.0})
        progress.begin("02-rootfs", "never run")
        for second in (110.0, 125.0, 190.0):
            now[0] = second
            progress.tick()
        progress.end("02-rootfs", "passed", 91.0, "9 of 9 checks hold")
    lines = [line[9:] for line in said.getvalue().splitlines()]
    assert lines == [
        "02-rootfs: runs, never run",
        "25 s passed, about 55 s left · 02-rootfs: never run",
        "1 min 30 s passed, about 30 s left · 02-rootfs: never run",
        "02-rootfs: passed after 91.0 s, 9 of 9 checks hold (1 min 30 s passed, about 30 s left)",
    ]


# -- real notebooks ----------------------------------------------------------------------------------


class Built:
    """Two stages that passed in one batch, the second after the first."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lab = a_lab(root / "lab")
        self.notebooks = root / "notebooks"
        for name in ("03-containers", "04-network"):
            stage_notebooks.write(self.notebooks, name, STANDS + "PROBE")
        self.first = self.again()

    def again(self, **wish: Any) -> Result[Rebuilt]:
        """The same batch again."""
        stages = ("03-containers", "04-network")
        parameters = {"replicas": 3, "shown": "hello", "outputs": "elsewhere"}
        given = {"stages": stages, "parameters": parameters, **wish}
        return rebuild(self.lab, Wish.model_validate(given), folder=self.notebooks)

    def why(self) -> str:
        """Why the second stage would have to run now."""
        source = self.notebooks / "04-network.ipynb"
        now = build_cache.inputs_of(self.lab, plan("04-network"), source, {"shown": "hello"})
        recalled, standing = build_cache.recall(self.lab), build_cache.standing(self.lab)
        return build_cache.why_run(self.lab, plan("04-network"), recalled, now, standing)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Two stages run once for all the tests that only look."""
    built = Built(tmp_path_factory.mktemp("batch"))
    shutil.copytree(built.root, built.root.with_name("pristine"))
    return built


@pytest.fixture
def built(one: Built) -> Iterator[Built]:
    """The same for a test that damages it: put back afterwards."""
    yield one
    shutil.rmtree(one.root)
    shutil.copytree(one.root.with_name("pristine"), one.root)


def test_first_run_runs_all(one: Built) -> None:
    """On a fresh machine every stage runs, with the lab of the batch and the parameters that it declares. Its record
    names the cell that shows a result in the executed notebook; the run folder is empty afterwards."""
    assert states(one.first) == {"03-containers": "passed", "04-network": "passed"}
    assert one.first.holds
    record = Stage.load(one.lab, "04-network")
    assert record.run == one.first.value.run
    assert record.results[0].summary == "hello, 3 replicas"
    notebook = json.loads(records.notebook_file(one.lab, "04-network").read_text())
    cells = [cell["execution_count"] for cell in notebook["cells"]
             if any(RESULT_MIME in output.get("data", {}) for output in cell.get("outputs", ()))]  # fmt: skip
    assert [entry.cell for entry in record.entries] == cells
    assert [path.name for path in one.lab.run_dir.iterdir()] == ["session.lock"]
    assert "Executing Cell" in (one.lab.output_dir / "logs" / "04-network.log").read_text()


def test_outputs_do_not_say_where_they_are(one: Built) -> None:
    """Executed notebooks and records hold no path of the machine's: they are read elsewhere, too."""
    for path in [*one.lab.output_dir.rglob("*.ipynb"), *one.lab.output_dir.glob("results/*")]:
        text = path.read_text().replace(str(one.lab.state), "").replace(str(one.lab.run), "")
        assert str(one.root) not in text, path


def test_second_run_runs_nothing(built: Built) -> None:
    """Where nothing has changed no notebook is run, and no file but the log is written."""
    before = {path: path.read_bytes() for path in built.root.rglob("*") if path.is_file()}
    result = built.again()
    assert states(result) == {"03-containers": "unchanged", "04-network": "unchanged"}
    assert not result.changed
    after = {path: path.read_bytes() for path in built.root.rglob("*") if path.is_file()}
    assert after == before


def _edit(path: Path) -> None:
    path.write_text(path.read_text().replace("hello", "hallo"))


def _source(built: Built) -> None:
    stage_notebooks.write(built.notebooks, "04-network", "lab", "PROBE")


DAMAGE: dict[str, tuple[Callable[[Built], object], str]] = {
    "nothing": (lambda built: None, ""),
    "its notebook": (_source, "its notebook changed"),
    "another configuration": (lambda b: setattr(b, "lab", b.lab.model_copy(update={"replicas": 4})), "replicas was 3 and is 4 now"),
    "the stage before": (lambda b: file(b.lab, "03-containers").unlink(), "03-containers has no result"),
    "its record edited": (lambda b: _edit(file(b.lab, "04-network")), "record is gone or was changed"),
    "its record gone": (lambda b: file(b.lab, "04-network").unlink(), "record is gone"),
    "executed notebook edited": (lambda b: _edit(records.notebook_file(b.lab, "04-network")), "notebooks/04-network.ipynb is gone or was changed"),
    "a failure since": (lambda b: file(b.lab, "04-network", "failed.json").write_text(""), "failed since"),
    "taken down": (lambda b: Journal.of(b.lab).forget("route", subnet="10.9.9.0/24", netns=""), "1 of 1 thing that"),
    "memory damaged": (lambda b: build_cache.cache_file(b.lab).write_text("{"), "no run of it that passed"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_has_changed_runs_again(built: Built, damage: str) -> None:
    """Whatever a stage's result rests on, its change makes the stage run again; nothing else does."""
    act, reason = DAMAGE[damage]
    lab = built.lab
    act(built)
    try:
        why = built.why()
        assert reason in why
        assert bool(why) is bool(reason)
    finally:
        built.lab = lab


#: A figure that ends at a height of one's choice, recorded.
DRAWN = """
with style.axes(2.0) as (canvas, axes):
    axes.plot([1, 2], [3, {end}])
    line = style.save(lab, canvas, name="line", alt="A line", caption="A line.")
stage.record(line)
"""


def test_failure_keeps_the_last_good_run(built: Built) -> None:
    """A failed stage leaves its notebook, record, pictures and log beside its last good run, and no draft; the next
    good one takes them away."""
    place = built.lab.output_dir / "figures"
    stage_notebooks.write(built.notebooks, "04-network", "PROBE", DRAWN.format(end=4))
    assert states(built.again())["04-network"] == "passed"
    own, shown = file(built.lab, "04-network"), records.notebook_file(built.lab, "04-network")
    good = {
        path: path.read_bytes() for path in (own, shown, place / "line.png", place / "line.svg")
    }
    source = built.notebooks / "04-network.ipynb"
    whole = source.read_bytes()
    stage_notebooks.write(
        built.notebooks, "04-network", "PROBE", DRAWN.format(end=5), "raise ValueError('broken')"
    )
    result = built.again()
    assert states(result) == {"03-containers": "unchanged", "04-network": "failed"}
    assert "ValueError: broken" in result.checks[1].seen
    assert {path: path.read_bytes() for path in good} == good
    failed = json.loads(file(built.lab, "04-network", "failed.json").read_text())
    assert (failed["state"], failed["closed"]) == ("failed", False)
    assert failed["entries"][0]["result"]["summary"] == "hello, 3 replicas"
    assert failed["entries"][1]["figure"]["png"] == "figures/line.failed.png"
    assert (place / "line.failed.png").read_bytes() != good[place / "line.png"]
    assert sorted(path.name for path in place.iterdir()) == [
        "line.failed.png", "line.failed.svg", "line.png", "line.svg",
    ]  # fmt: skip
    failure = records.notebook_file(built.lab, "04-network", "failed.ipynb")
    assert "ValueError" in failure.read_text()
    assert "ValueError" in (built.lab.output_dir / "logs" / "04-network.log").read_text()
    source.write_bytes(whole)
    assert states(built.again())["04-network"] == "passed"
    assert not failure.exists()
    assert not file(built.lab, "04-network", "failed.json").exists()


#: Waits until the other stage has failed, at most a minute.
AFTER_FAILURE = """
import time
until = time.monotonic() + 60
while not (lab.output_dir / "results" / "01-wiki.failed.json").exists() and time.monotonic() < until:
    time.sleep(0.05)
"""


@pytest.mark.parametrize(
    ("keep_going", "expected"), [(False, "not run"), (True, "passed")], ids=["stop", "keep going"]
)
def test_failure_stops_what_has_not_begun(tmp_path: Path, keep_going: bool, expected: str) -> None:
    """After a failure nothing more begins; with ``keep_going`` only what depends on it does not."""
    stage_notebooks.write(tmp_path, "01-wiki", "1 / 0")
    stage_notebooks.write(tmp_path, "03-containers", AFTER_FAILURE, "PROBE")
    for name in ("04-network", "07-report"):
        stage_notebooks.write(tmp_path, name)
    stages = ("01-wiki", "03-containers", "04-network", "07-report")
    wish = Wish(stages=stages, keep_going=keep_going)
    seen = states(rebuild(a_lab(tmp_path / "lab"), wish, folder=tmp_path))
    assert seen == {
        "01-wiki": "failed",
        "03-containers": "passed",
        "04-network": expected,
        "07-report": "not run",
    }


def test_a_stage_that_the_lab_skips_is_told_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No notebook of it is run, no check is made of it, and what waits for it begins."""
    first = plan("09-engine").model_copy(update={"after": ()})
    last = plan("03-containers").model_copy(update={"after": (first.name,)})
    monkeypatch.setattr("labkit.report.batch.schedule.STAGES", (first, last))
    stage_notebooks.write(tmp_path, first.name, "1 / 0")
    stage_notebooks.write(tmp_path, last.name)
    lab = a_lab(tmp_path / "lab")
    done = rebuild(lab, folder=tmp_path)
    assert states(done) == {"09-engine": "skipped", "03-containers": "passed"}
    assert [check.name for check in done.checks] == ["rebuild.03-containers"]
    (row, _) = done.frames["stages"].to_dict("records")
    assert (row["state"], row["note"]) == ("skipped", "engine.host is not set")
    assert not rebuild(lab, folder=tmp_path).changed


#: A kernel that cannot have its port the first time: it ends before it is ready.
FLAKY = """
import pathlib, sys
mark = pathlib.Path(sys.argv[1])
if not mark.exists():
    mark.touch()
    sys.exit("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:1')")
from ipykernel.kernelapp import launch_new_instance
launch_new_instance(argv=sys.argv[2:])
"""


def test_kernel_that_lost_its_port_starts_again(tmp_path: Path) -> None:
    """A kernel that ends before it is ready, as one whose port was taken, is started again; one whose cell fails
    is not."""
    spec = tmp_path / "jupyter" / "kernels" / "flaky" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-c", FLAKY, str(tmp_path / "mark"), "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "flaky", "language": "python"}))
    env = notebook.environment(tmp_path / "none.toml", "r", tmp_path / "out")
    source = stage_notebooks.write(tmp_path / "nb", "01-wiki", "lab", kernel="flaky", close=False)
    lines: list[str] = []
    notebook.execute(
        source,
        tmp_path / "out" / "01-wiki.ipynb",
        parameters={},
        env={**env, "JUPYTER_PATH": str(tmp_path / "jupyter")},
        on_line=lines.append,
    )
    assert sum("start 2 of" in line for line in lines) == 1
    assert sum("Executing Cell 1-" in line for line in lines) == 1
    stage_notebooks.write(tmp_path / "nb", "01-wiki", "1 / 0", close=False)
    done = notebook.execute(
        source, tmp_path / "out" / "x.ipynb", parameters={}, env=env, on_line=lines.append
    )
    assert done.status == 1
    assert sum("start 2 of" in line for line in lines) == 1


#: Waits in another program, whose process number it leaves in a file.
WAITS = """
from labkit.core import run
mark = lab.run_dir / "waits"
run.run(["sh", "-c", 'echo $$ > "$0.part" && mv "$0.part" "$0" && exec sleep 600', str(mark)], timeout=700)
"""
BATCH = """
import sys
from pathlib import Path
from rich.console import Console
from labkit import Lab
from labkit.report.batch.progress import Progress
from labkit.report.batch.rebuild import rebuild
from labkit.report.batch.schedule import Wish
lab = Lab.load(Path(sys.argv[1]))
wish = Wish(stages=("01-wiki",))
result = rebuild(lab, wish, progress=Progress(Console()), folder=Path(sys.argv[2]))
print(result.summary)
"""


@contextmanager
def waiting(tmp_path: Path, lab: Lab) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A batch in a process of its own, and the number of the program that its notebook waits for."""
    stage_notebooks.write(tmp_path / "nb", "01-wiki", WAITS, "PROBE")
    argv = [sys.executable, "-c", BATCH, str(notebook.write_lab_file(lab)), str(tmp_path / "nb")]
    with (tmp_path / "said").open("wb") as said:
        batch = run.start(argv, env={"PYTHONPATH": str(Path.cwd())}, output=said)
        mark = lab.run_dir / "waits"
        try:
            until(lambda: mark.exists() or batch.poll() is not None, 300)
            yield batch, int(mark.read_text())
        finally:
            batch.kill()
            batch.wait()


def test_signal_ends_the_notebooks_and_their_programs(tmp_path: Path) -> None:
    """A signal ends what runs, down to the programs that cells wait for, and is said; no run that
    was ended counts as failed or passed."""
    lab = a_lab(tmp_path / "lab")
    with waiting(tmp_path, lab) as (batch, sleeper):
        batch.send_signal(signal.SIGTERM)
        assert batch.wait(60) == 0
    assert not Path(f"/proc/{sleeper}").exists()
    text = (tmp_path / "said").read_text()
    assert "SIGTERM: the running notebooks and their programs are ended" in text
    assert "Ended by SIGTERM. 1 stage: 1 ended." in text
    assert not list(lab.output_dir.glob("results/*.json"))
    assert not (lab.run_dir / "rebuild").exists()


def test_killed_batch_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    """What a batch that was killed left running is ended before the next one begins."""
    lab = a_lab(tmp_path / "lab")
    with waiting(tmp_path, lab) as (batch, sleeper):
        batch.kill()
        batch.wait(60)
        assert Path(f"/proc/{sleeper}").exists()
        stage_notebooks.write(tmp_path / "nb", "01-wiki")
        result = rebuild(lab, Wish(stages=("01-wiki",)), folder=tmp_path / "nb")
    assert states(result) == {"01-wiki": "passed"}
    assert not Path(f"/proc/{sleeper}").exists()
