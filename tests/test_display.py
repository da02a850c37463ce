"""How values, checks, tables and results look."""

from __future__ import annotations

import re

import pytest

from labkit import Check, Table
from labkit.core.result import checks_html, summary_html
from labkit.core.tables import Cell, table_html
from labkit.display import about, counted, duration, human, ink_on


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "", "–"),
        (True, "", "yes"),
        (False, "bytes", "no"),
        ("a", "bytes", "a"),
        (0, "bytes", "0 B"),
        (999, "bytes", "999 B"),
        (1000, "bytes", "1.0 kB"),
        (171_300_000, "bytes", "171.3 MB"),
        (2_500_000_000, "bytes", "2.5 GB"),
        (-4_600_000, "bytes", "−4.6 MB"),
        (-5, "bytes", "−5 B"),
        (1234, "", "1,234"),
        (0.12345, "s", "0.123"),
        (24500.4, "", "24,500"),
        (-3.5, "s", "-3.500"),
    ],
)
def test_a_value_is_shown_as_a_person_reads_it(value: Cell, unit: str, shown: str) -> None:
    """Bytes in powers of ten, numbers rounded, truth in words."""
    assert human(value, unit) == shown


def test_nothing_in_a_table_is_markup() -> None:
    """Title, name, headings and cells are text, whatever they hold."""
    evil = "<img src=x onerror=alert(1)>"
    shown = table_html(Table.of(evil, evil, [{evil: evil}]))
    assert "<img" not in shown
    assert shown.count("&lt;img") == 4


def test_nothing_in_a_check_is_markup() -> None:
    """Name, expectation, observation and command are text."""
    evil = "<b>"
    check = Check(name=evil, expected=evil, seen=evil, holds=False, again=evil)
    assert checks_html([check]).count("&lt;b&gt;") == 4
    assert "<b>" not in checks_html([check])
    assert "<b>" not in summary_html(evil, [evil])


def test_a_long_table_is_folded() -> None:
    """Rows past the limit are there, folded, and their number is told."""
    shown = table_html(Table.of("t", "T", [{"n": n} for n in range(25)]))
    assert "<summary>5 more rows</summary>" in shown
    assert shown.count("<tr>") == 25 + 2


def test_numbers_stand_to_the_right_and_words_do_not() -> None:
    """A number is aligned; truth and text are no numbers."""
    shown = table_html(Table.of("t", "T", [{"a": 1, "b": "x", "c": True}]))
    assert shown.count("text-align:right") == 1


def test_a_unit_heads_its_column_except_bytes() -> None:
    """Bytes are shown with a unit of their own in each cell."""
    table = Table.of("t", "T", [{"wait": 1.5, "size": 1000}], units={"wait": "s", "size": "bytes"})
    assert re.findall(r"<th[^>]*>([^<]*)</th>", table_html(table)) == ["wait (s)", "size"]


@pytest.mark.parametrize(
    ("colour", "ink"),
    [
        ("#000000", "#ffffff"), ("#ffffff", "#1f2933"), ("#0072B2", "#ffffff"),
        ("#56B4E9", "#1f2933"), ("#F0E442", "#1f2933"), ("#009E73", "#1f2933"),
    ],
)  # fmt: skip
def test_text_on_a_colour_has_the_ink_that_reads_best(colour: str, ink: str) -> None:
    """White on dark grounds, dark on light ones, whichever contrasts more."""
    assert ink_on(colour) == ink


@pytest.mark.parametrize(
    ("count", "noun", "verb", "said"),
    [
        (1, "replica", "", "1 replica"),
        (0, "replica", "", "0 replicas"),
        (1200, "request", "", "1,200 requests"),
        (2, "address", "", "2 addresses"),
        (1, "check", "hold", "1 check holds"),
        (2, "check", "hold", "2 checks hold"),
        (1, "thing", "were", "1 thing was"),
        (3, "replica", "have", "3 replicas have"),
    ],
)
def test_what_is_counted_agrees_in_number(count: int, noun: str, verb: str, said: str) -> None:
    """The noun, and the verb that follows it."""
    assert counted(count, noun, verb) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (60, "1 min 0 s"), (200, "3 min 20 s")]
)
def test_durations_are_readable(seconds: float, said: str) -> None:
    """Seconds below a minute, minutes and seconds above."""
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(1, "0 s"), (43, "45 s"), (58, "1 min"), (101.2, "1 min 40 s")]
)
def test_expected_durations_are_round(seconds: float, said: str) -> None:
    """In steps of five seconds: more is not known."""
    assert about(seconds) == said
