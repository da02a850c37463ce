"""Where a remark's line comes from, told from the page's history."""

from __future__ import annotations

from functools import reduce

import pytest

from labkit.wiki.client.protocol import Revision
from labkit.wiki.merge import fences
from labkit.wiki.remarks import threads
from labkit.wiki.remarks.provenance import Provenance, advance


def revision(number: int, *lines: str, hidden: bool = False) -> Revision:
    """A revision of a page of these lines."""
    return Revision(number=number, text="\n".join(lines), user=f"user {number}", hidden=hidden)


def followed(*history: Revision) -> Provenance:
    """What is known after a history, the oldest revision first."""
    return reduce(advance, history, Provenance())


def numbers(found: Provenance, line: str) -> list[int]:
    """The revisions that brought a line's copies."""
    return [origin.by.revision for origin in found.here.get(line, ())]


def test_a_line_is_traced_to_who_brought_it() -> None:
    """Each of two equal lines has its own author, whoever saved the page since."""
    found = followed(
        revision(1, "REX> b"),
        revision(2, "REX> a", "REX> b"),
        revision(3, "REX> a", "x", "REX> a", "REX> b"),
        revision(4, "y", "REX> a", "REX> a", "REX> b"),
    )
    assert (numbers(found, "REX> a"), numbers(found, "REX> b")) == ([2, 3], [1])
    assert found.here["REX> b"][0].by.user == "user 1"


def test_an_equal_line_above_does_not_take_the_others_place() -> None:
    """Of two equal lines each keeps its own origin as long as it stays in its section."""
    first = ["== A ==", "== B ==", "REX> why?"]
    found = followed(revision(1, *first), revision(2, "== A ==", "REX> why?", *first[1:]))
    assert numbers(found, "REX> why?") == [2, 1]


@pytest.mark.parametrize("between", [("gone",), ("",)])
def test_a_line_that_comes_back_is_still_its_writers(between: tuple[str, ...]) -> None:
    """After a revert, or when lines were put back, the first writer stays the author."""
    found = followed(
        revision(1, "REX> a"), revision(2, *between), revision(3, "x"), revision(4, "REX> a")
    )
    assert numbers(found, "REX> a") == [1]
    assert found.gone == {}


def test_a_hidden_revision_is_passed_over() -> None:
    """What its text was is not known, and nothing follows from it."""
    found = followed(revision(1, "REX> a"), revision(2, hidden=True), revision(3, "REX> a"))
    assert numbers(found, "REX> a") == [1]
    assert found.revision == 3


def test_a_trail_goes_on_where_it_had_come_to() -> None:
    """Kept as JSON and read again, it gives what the whole history gives."""
    history = [
        revision(1, "REX> a"),
        revision(2, "x"),
        revision(3, "REX> b"),
        revision(4, "REX> a"),
    ]
    half = Provenance.model_validate_json(followed(*history[:2]).model_dump_json())
    assert half.at(history[1])
    assert not half.at(revision(2, "another wiki's text"))
    assert reduce(advance, history[2:], half) == followed(*history)


def test_a_line_keeps_its_blocks_run() -> None:
    """The run that the block named in the revision that brought the line."""
    old, new = (
        fences.block("02-rootfs", "== R ==", f"Good. <small>12 s · run {run}</small>\n250 MB")
        for run in ("20260101T000000Z-abcd", "20260102T000000Z-abcd")
    )
    found = followed(
        revision(1, old.text, "REX> under it"),
        revision(2, new.text.replace("250", "REX> in it\n250"), "REX> under it"),
        revision(3, "no block", "REX> under it", "REX> in it"),
    )
    under, inside = (found.here[f"REX> {words} it"][0] for words in ("under", "in"))
    assert (under.run, under.digest) == ("20260101T000000Z-abcd", old.digest)
    assert (inside.run, inside.digest) == ("20260102T000000Z-abcd", new.digest)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("It weighs 250 MB.", "It weighs 171 MB.", False),
        ("Good. <small>12 s · run a</small>", "Good. <small>15 s · run b</small>", True),
        ("Good. <small>12 s</small>", "Bad. <small>12 s</small>", False),
        ("| 2026-01-01 10:32 || ok", "| 2026-02-11 09:00 || ok", True),
        ("| 2026-01-01 10:32 || ok", "| 2026-01-01 10:32 || failed", False),
        ("made at 2026-01-01T10:32:01Z", "made at 2026-01-02T10:32:01Z", True),
        ("ip link add vx1  # 0, 0.12 s", "ip link add vx2  # 0, 0.31 s", True),
        ("answered in 0.055 ms", "answered in 0.041 ms", True),
        ("24.5 k requests/s, 2 lost", "9,301 requests/s, 2 lost", True),
        ("24.5 k requests/s, 2 lost", "24.5 k requests/s, 3 lost", False),
        ("6 sites, 3 min 20.5 s", "6 sites, 59 s", True),
        ("6 sites in 20.5 s", "5 sites in 20.5 s", False),
        ("of 20260101T000000Z-abcd", "of 20260102T000000Z-0000", True),
    ],
)
def test_what_a_reader_sees(one: str, other: str, same: bool) -> None:
    """Numbers and words count; moments, run ids, times, rates, small print and the commands do not."""
    assert (threads.seen_lines([one]) == threads.seen_lines([other])) is same


def test_a_column_of_times_is_not_seen() -> None:
    """Its unit stands in the table's head; other columns and other tables count."""

    def table(time: str, size: str, head: str = "time (ms)") -> tuple[str, ...]:
        rows = ["|-", f'| a || style="text-align:right" | {time} || {size}', "|}", "| not a table"]
        return threads.seen_lines(
            ['{| class="wikitable"', f"! name !! {head} !! size (bytes)", *rows]
        )

    assert table("0.055", "12") == table("0.041", "12")
    assert table("0.055", "12") != table("0.055", "13")
    assert table("0.055", "12", "height") != table("0.041", "12", "height")


def vanished(*history: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """What others than the writers made of remarks in a history of (user, line, …): line, by whom, now."""
    revisions = [
        Revision(number=n, user=user, text="\n".join(lines))
        for n, (user, *lines) in enumerate(history, 1)
    ]
    found = reduce(advance, revisions, Provenance(bot="Labkit")).vanished
    return [(item.line, item.by.user, item.by.line) for item in found]


@pytest.mark.parametrize(
    ("history", "found"),
    [
        ((("T", "REX> a b c"), ("S", "")), [("REX> a b c", "S", "")]),
        ((("T", "REX> a b c"), ("S", "REX> a b d")), [("REX> a b c", "S", "REX> a b d")]),
        ((("T", "REX> a b c"), ("S", "a b c")), [("REX> a b c", "S", "")]),
        ((("T", "REX> a b c"), ("T", "")), []),
        ((("T", "REX> a b c"), ("T", "REX> a b d")), []),
        ((("T", "REX> a b c"), ("S", ""), ("T", "REX> a b c")), []),
        ((("T", "REX> a b c"), ("S", ""), ("S", "REX> a b c")), []),
        ((("T", "REX> a b c"), ("S", "== H ==", "REX> a b c")), []),
        ((("T", "REX> a b c"), ("S", "REX> a b d"), ("T", "")), [("REX> a b c", "S", "REX> a b d")]),
        ((("T", "REX> a b c"), ("S", "REX> a b d"), ("T", "REX> a b c")), []),
        ((("T", "REX> a b c", "REX> settled"), ("S", "REX> a b d", "REX> settled")), [("REX> a b c", "S", "REX> a b d")]),
        ((("T", "REX> a b c", "REX> settled"), ("S", "REX> x", "REX> a b c", "REX> settled")),
         [("REX> settled", "S", "REX> settled")]),
        ((("T", "REX> a b c"), ("S", "REX> a b d", "REX> settled"), ("T", "REX> a b c", "REX> settled")), []),
        ((("T", "REX> a b c", "REX> settled"), ("S", "REX> a b c")), [("REX> settled", "S", "")]),
    ],
)  # fmt: skip
def test_what_others_made_of_a_remark_is_known(
    history: tuple[tuple[str, ...], ...], found: list[tuple[str, str, str]]
) -> None:
    """Until it is back, whoever brings it; what its writer makes of it is the writer's own."""
    assert vanished(*history) == found
