"""What the assignment asks for, and when it is met."""

from __future__ import annotations

import pytest

from labkit.checks import Check
from labkit.report.stages.assignment import ASSIGNMENT, ROWS, STAGES, TASKS, Number, judge, matches

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
