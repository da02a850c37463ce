"""Results: frozen, with a JSON round trip, made by actions that look, act and look again."""

from __future__ import annotations

import inspect
import pydoc
import sys
from collections.abc import Callable
from pathlib import Path
from types import NoneType

import pandas
import pytest
from pydantic import ValidationError

from labkit import Check, Lab, Outcome, Result, Table
from labkit.checks import equal, failed
from labkit.core import run
from labkit.core.result import FIGURE_MIME, RESULT_MIME, Figure, action, run_id
from labkit.errors import FarmError, MachineError, StateError
from labkit.records import Record


class Value(Record):
    """What the action of these tests returns."""

    size: int
    names: tuple[str, ...] = ()


@action("test.act")
def act(names: tuple[str, ...] = ("a",), *, changed: bool = True) -> Outcome[Value]:
    """An action that starts a real program."""
    run.run(["true"])
    run.run(["false"], ok=(1,))
    return Outcome(
        value=Value(size=len(names), names=names),
        subject="names",
        summary=f"{len(names)} names.",
        changed=changed,
        checks=(equal("test.size", 1, len(names), rows=("R1",), again="true"),),
        tables=(Table.of("names", "Names", [{"name": name} for name in names]),),
    )


def test_an_action_says_who_when_how_long_and_by_which_commands() -> None:
    """The record has what every action has, and each program that it ran, with its exit status."""
    result = act()
    assert (result.action, result.subject, result.changed) == ("test.act", "names", True)
    assert [(c.command, c.status) for c in result.commands] == [("true", 0), ("false", 1)]
    assert result.seconds >= sum(c.seconds for c in result.commands)
    assert result.started.utcoffset() is not None


def test_a_result_has_a_round_trip_through_json() -> None:
    """What is written is read back equal, with its typed value for who names the type; another is not equal."""
    result = act(("ä", "<b>"))
    text = result.model_dump_json()
    assert Result.model_validate_json(text) == result
    assert hash(Result.model_validate_json(text)) == hash(result)
    again = Result[Value].model_validate_json(text)
    assert again == result
    assert again.value.names == ("ä", "<b>")
    assert result not in (result.model_copy(update={"summary": "Another."}), text)


def test_what_a_student_sees_is_a_result() -> None:
    """The signature, print() and the DataFrames by their tables' names."""
    assert str(inspect.signature(act)).endswith("-> 'Result[Value]'")
    assert "Result[Value]" in pydoc.render_doc(act, renderer=pydoc.plaintext)
    result = act(("a", "b"))
    assert str(result).splitlines()[0].startswith("2 names. [test.act, changed")
    assert str(result).splitlines()[-1] == '  2 rows in frames["names"]'
    assert result.frames["names"]["name"].tolist() == ["a", "b"]
    assert "frames" in dir(result)


def test_tab_completes_the_names_of_the_tables() -> None:
    """In a notebook that has opened its stage; so a student finds the DataFrames without their names."""
    code = """if True:
        from IPython.core.interactiveshell import InteractiveShell
        from labkit import Lab
        from labkit.report import Stage
        from tests.test_result import act
        shell = InteractiveShell.instance(history_manager=None)
        shell.Completer.use_jedi = False
        stage = Stage.open("04-network", Lab())
        shell.user_ns["names"] = act()
        print(shell.complete('names.frames["')[1])
    """
    project = str(Path(__file__).parents[1])
    said = run.run([sys.executable, "-c", code], env={"PYTHONPATH": project}, cwd=project)
    assert said.stdout.strip() == repr(['names.frames["names'])


def test_a_result_is_frozen_and_knows_its_keys() -> None:
    """Nothing is changed afterwards, and a key too many is a damaged file."""
    result = act()
    with pytest.raises(ValidationError, match="frozen"):
        result.changed = False  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs"):
        Result[Value].model_validate({**result.model_dump(), "more": 1})


def test_an_error_of_an_action_is_its_callers() -> None:
    """There is no half result: what an action raises goes through."""

    @action("test.fail")
    def fail() -> Outcome[Value]:
        raise FarmError("bridge", "is gone", "bring it up", "ip link")

    with pytest.raises(
        FarmError, match="bridge: is gone\n  remedy: bring it up\n  see it: ip link"
    ):
        fail()


def test_an_action_inside_another_counts_its_commands_for_both() -> None:
    """The outer result has the commands of the inner action too."""

    @action("test.outer")
    def outer() -> Outcome[Value]:
        return Outcome(value=act().value, summary="Outer.")

    assert len(outer().commands) == 2


def test_a_result_holds_when_every_check_does() -> None:
    """One check that fails is enough."""
    assert act().holds
    assert not act(("a", "b")).holds
    assert [check.name for check in failed(act(("a", "b")).checks)] == ["test.size"]


def test_a_table_knows_its_columns_and_units() -> None:
    """Columns are those of the first row unless given; a missing cell is None."""
    rows = [{"name": "a", "size": 1}, {"name": "b"}]
    table = Table.of("t", "T", rows, units={"size": "bytes"})
    assert [column.heading for column in table.columns] == ["name", "size (bytes)"]
    assert table.rows == (("a", 1), ("b", None))
    assert Table.of("t", "T", [], columns=["x"]).frame().columns.tolist() == ["x"]
    assert Table.of("t", "T", []).rows == ()
    assert Table.of("t", "T", [{"a": float("nan"), "b": float("inf")}]).rows == ((None, None),)


FRAME = pandas.DataFrame(
    {
        "whole": [1, 2, 2], "part": [1.5, float("nan"), float("inf")], "holds": [True, False, True],
        "kind": pandas.Categorical(["x", "y", None]), "text": [None, "t", "u"],
        "day": pandas.to_datetime(["2026-01-02", None, "2026-01-03"]),
        "some": pandas.array([1, None, 3], dtype="Int64"),
    }
)  # fmt: skip


@pytest.mark.parametrize(
    ("frame", "names", "rows"),
    [
        (FRAME, [*FRAME], ((1, 1.5, True, "x", None, "2026-01-02 00:00:00", 1),
                           (2, None, False, "y", "t", None, None),
                           (2, None, True, None, "u", "2026-01-03 00:00:00", 3))),
        (FRAME[:0], [*FRAME], ()),
        (FRAME.groupby("whole")[["part"]].agg(["min", "size"]), ["whole", "part min", "part size"],
         ((1, 1.5, 1), (2, None, 2))),
        (FRAME.pivot_table(index="whole", columns="kind", values="part", aggfunc="count", observed=True),
         ["whole", "x", "y"], ((1, 1.0, None), (2, None, 0.0))),
        (FRAME.set_index("text").loc[["t"], ["whole"]], ["text", "whole"], (("t", 2),)),
    ],
    ids=["native types", "empty", "group", "pivot", "index"],
)  # fmt: skip
def test_a_table_is_made_of_a_data_frame(
    frame: pandas.DataFrame, names: list[str], rows: tuple[object, ...]
) -> None:
    """Plain cells that JSON brings back; what is no value is None, and an index that has a name is a column."""
    table = Table.of("t", "T", frame)
    assert ([column.name for column in table.columns], table.rows) == (names, rows)
    assert {type(cell) for row in table.rows for cell in row} <= {int, float, bool, str, NoneType}
    result = act().model_copy(update={"tables": (table,)})
    assert Result.model_validate_json(result.model_dump_json()) == result


def test_an_unknown_table_names_those_that_there_are() -> None:
    """A misspelt table's name is answered with the right ones."""
    with pytest.raises(KeyError, match="names"):
        act().table("nmaes")


def test_a_notebook_keeps_the_whole_result() -> None:
    """Beside text and HTML stands the record itself, from which everything else is made."""
    result = act(("<script>",))
    bundle = result._repr_mimebundle_()
    assert Result[Value].model_validate(bundle[RESULT_MIME]) == result
    assert "<script>" not in bundle["text/html"]
    assert bundle["text/plain"].startswith("1 names. [test.act, changed")


def test_a_figure_holds_its_picture_outside_its_json() -> None:
    """A notebook shows the PNG with its alt text; what is written has neither."""
    figure = Figure(name="f", png="f.png", svg="f.svg", alt="A bar.", caption="Bars.")
    shown, metadata = figure.holding(b"png")._repr_mimebundle_()
    assert shown["image/png"] == "cG5n"
    assert metadata["image/png"]["alt"] == "A bar."
    assert Figure.model_validate(shown[FIGURE_MIME]) == figure
    assert "image/png" not in figure._repr_mimebundle_()[0]


def test_the_runs_id_is_the_batchs_or_the_processes_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """All results of a batch carry one id, those of a process without a batch another."""
    monkeypatch.delenv("LABKIT_RUN", raising=False)
    own = run_id()
    assert run_id() == own
    monkeypatch.setenv("LABKIT_RUN", "20260102T030405Z-0001")
    assert act().run == "20260102T030405Z-0001"


@pytest.mark.parametrize("state", [True, False])
def test_a_check_needs_no_colour(state: bool) -> None:
    """State in a word and a mark, beside what was expected and seen."""
    check = Check(name="a.b", expected="1", seen="2", holds=state)
    assert (check.state, check.icon) == (("holds", "✔") if state else ("fails", "✘"))


def _missing() -> None:
    run.run(["no-such-program"])


def _status() -> None:
    run.run(["sh", "-c", "echo why >&2; exit 3"])


@pytest.mark.parametrize(
    ("failing", "kind", "said"),
    [(_missing, MachineError, "remedy: let"), (_status, Exception, "exit status 3: why")],
)
def test_an_error_has_value_reason_and_a_command(
    failing: Callable[[], None], kind: type[Exception], said: str
) -> None:
    """The message of every error is the three of them, and a command that shows it."""
    with pytest.raises(kind) as caught:
        failing()
    assert said in str(caught.value)
    assert "see it: " in str(caught.value)


def test_what_was_taken_away_meanwhile_is_said(tmp_path: Path) -> None:
    """Somebody took the lab down beside an action on it: an error of labkit's, not of the system's."""
    lab = Lab.load(None, lab_name="gone", state=str(tmp_path))

    @action("test.linking")
    def linking(lab: Lab) -> Outcome[None]:
        (lab.state_dir / "uses").symlink_to(tmp_path)
        return Outcome(value=None, summary="")

    with pytest.raises(StateError, match="was removed while") as caught:
        linking(lab)
    assert caught.value.code == "state.taken-away"
