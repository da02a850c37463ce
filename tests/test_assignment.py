"""What the assignment asks for, and when it is met."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit import Check, Lab
from labkit.errors import ConfigError
from labkit.report.stages.assignment import (
    ASSIGNMENT,
    FILE,
    ROWS,
    STAGES,
    TASKS,
    Number,
    judge,
    matches,
    plan,
    read,
    skipped,
)

TWO = Number(check="a.", least=2, what="things")
PAIRS = Number(check="a.", least=1, what="pairs", each=2)
ENDS = Number(check="a.", least=1, what="ends", end=".end")


def checks(*names: str) -> list[Check]:
    """Checks of these names; those that begin with an exclamation mark fail."""
    return [
        Check(name=name.lstrip("!"), expected="1", seen="?", holds=name[0] != "!", again="")
        for name in names
    ]


@pytest.mark.parametrize(
    ("made", "needs", "numbers", "told"),
    [
        ((), ("a.",), (TWO,), "not run"),
        (("a.1", "a.2"), ("a.",), (TWO,), "met"),
        (("a.1", "b"), ("a.", "b"), (), "met"),
        (("b.1",), ("b",), (), "in part: no check b was made"),
        (("a.1",), ("a.", "b."), (), "in part: no check b.* was made"),
        (("b",), ("a.", "b"), (TWO,), "in part: no check a.* was made"),
        (("a.1", "!b"), ("a.",), (), "in part: failing: b"),
        (("a.1", "!a.2"), ("a.",), (TWO,), "in part: 1 of 2 things, failing: a.2"),
        (("!a.1", "!a.2"), ("a.",), (TWO,), "not met: 0 of 2 things, failing: a.1, a.2"),
        (("a.1",), ("a.",), (TWO,), "not met: 1 of 2 things"),
        (("a.1", "a.1"), ("a.",), (TWO,), "not met: 1 of 2 things"),
        (("a.1", "!a.1"), ("a.",), (TWO,), "not met: 0 of 2 things, failing: a.1"),
        (("a.x-1", "a.y-1"), ("a.",), (PAIRS,), "not met: 0 of 1 pairs"),
        (("a.x-1", "a.x-2"), ("a.",), (PAIRS,), "met"),
        (("a.x-y-1", "a.x-2"), ("a.",), (PAIRS,), "not met: 0 of 1 pairs"),
        (("a.1",), ("a.",), (ENDS,), "not met: 0 of 1 ends"),
        (("a.1.end",), ("a.",), (ENDS,), "met"),
        (("a", "!b", "!c", "!d", "!e", "!f"), ("a",), (), "in part: failing: b, c, d, 2 more"),
    ],
)
def test_states(
    made: tuple[str, ...], needs: tuple[str, ...], numbers: tuple[Number, ...], told: str
) -> None:
    """Nothing that fails or is missing is met, nor fewer things than asked for."""
    assert judge(checks(*made), needs, numbers).told == told


def test_only_what_is_met_can_be_stale() -> None:
    """What a lab of before met."""
    assert judge(checks("a.1"), ("a.",), stale=True).state == "stale"
    assert judge(checks("!a.1"), ("a.",), stale=True).state == "not met"


def test_each_row_is_of_a_stage_and_needs_checks() -> None:
    """Which is where it is answered; without needs it would be met by any check."""
    assert all(row.needs for row in ASSIGNMENT.rows.values())
    assert {row for stage in STAGES for row in stage.rows} == set(ROWS)


def test_what_a_task_needs_belongs_to_it() -> None:
    """Else it would never be met."""
    for task in TASKS:
        for wanted in task.needs:
            assert any(matches(wanted, own) for own in task.checks), task.name


def test_a_stage_is_skipped_where_its_key_is_not_set(tmp_path: Path) -> None:
    """A key that lab.toml does not have is refused, and the nearest is named."""
    stage = plan("09-engine")
    assert skipped(stage, Lab()) == "engine.host is not set"
    assert not skipped(stage, Lab.of({"engine": {"host": "unix:///run/docker.sock"}}))
    assert [item.name for item in STAGES if skipped(item, Lab())] == ["09-engine"]
    file = tmp_path / "assignment.toml"
    file.write_text(FILE.read_text().replace("engine.host", "engine.hots"))
    with pytest.raises(ConfigError, match=r"did you mean 'engine\.host'"):
        read(file)
