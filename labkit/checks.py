"""A check: what was expected, what was seen, and how to see it again."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict


class Check(BaseModel):
    """One observation held against one expectation.

    ``name`` is unique within a lab (``network.ping.site1-1``); ``rows`` are the rows of the
    assignment that it answers (``R10``); ``again`` is a command or an address that shows it again.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    expected: str
    seen: str
    holds: bool
    rows: tuple[str, ...] = ()
    again: str = ""

    @property
    def icon(self) -> str:
        """A mark that needs no colour."""
        return "✔" if self.holds else "✘"

    @property
    def state(self) -> str:
        """The state in a word."""
        return "holds" if self.holds else "fails"


def equal(
    name: str, expected: object, seen: object, *, rows: Iterable[str] = (), again: str = ""
) -> Check:
    """A check that holds when both sides are equal."""
    return Check(
        name=name,
        expected=str(expected),
        seen=str(seen),
        holds=expected == seen,
        rows=tuple(rows),
        again=again,
    )


def failed(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Those that do not hold."""
    return tuple(check for check in checks if not check.holds)
