"""What labkit keeps of its own lines: kept whole, damaged lines left out, old ones forgotten."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from labkit.wiki.merge import fences
from labkit.wiki.publish import last_written
from labkit.wiki.publish.last_written import Store

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
EMPTY = fences.parse("", "Report")


def block(number: int, name: str = "05-web") -> fences.Block:
    """A block that is told apart by its number."""
    return fences.block(name, "== Web ==", f"line {number}\n<pre> {{{{x}}}} é\n~~~~")


@given(bodies=st.lists(st.text(st.characters(codec="utf-8"), max_size=40), max_size=4))
def test_a_store_comes_back_from_its_page(bodies: list[str]) -> None:
    """Whatever the blocks hold, the page's text gives them back."""
    blocks = [fences.block(f"b{n}", "== é ==", body) for n, body in enumerate(bodies)]
    store = Store().adding(blocks, EMPTY, NOW)
    assert last_written.parse(last_written.dump(store)) == store
    assert all(store.find(one.name, one.digest) == one for one in blocks)


def test_a_store_s_page_is_inert_and_a_damaged_line_of_it_left_out() -> None:
    """No markup, fence or signature of a block is live there; a line that somebody changed does not have its hash."""
    text = last_written.dump(Store().adding([block(1), block(2, "06-balancer")], EMPTY, NOW))
    assert not {"{{", "~~~~"} & set(re.findall(r"\{\{|~~~~", text))
    assert fences.parse(text, "Report").blocks == ()
    packed = text.split("\n")[2].split()[3]
    changed = text.replace(packed, packed[:-8] + "AAAA" + packed[-4:])
    assert last_written.parse(changed).names == ("06-balancer",)
    assert last_written.parse("anything else") == Store()


def test_two_machines_stores_are_joined() -> None:
    """Each block once, in the order of time."""
    one = Store().adding([block(1)], EMPTY, NOW)
    other = Store().adding([block(1), block(2)], EMPTY, NOW + timedelta(1))
    joined = one.joined(other)
    assert [kept.block for kept in joined.kept] == [block(1), block(2)]
    assert joined == other.joined(one)


def test_old_blocks_are_forgotten_but_for_the_page_s() -> None:
    """The last few are kept, whatever the page carries, however old, and young ones: another labkit may be about to
    put one of them on the page."""
    page = fences.parse(block(0).text, "Report")
    store = Store()
    for day in range(10):
        store = store.adding([block(day)], page, NOW + timedelta(day))
    assert [kept.block for kept in store.kept] == [block(0), block(7), block(8), block(9)]
    for second in range(10):
        store = store.adding([block(20 + second)], EMPTY, NOW + timedelta(10, second))
    assert [kept.block for kept in store.kept][-10:] == [block(n) for n in range(20, 30)]


def test_a_file_that_is_not_there_is_an_empty_store(tmp_path: Path) -> None:
    """So is one that is no text; names of pages never lead out of the folder."""
    path = last_written.local_file(tmp_path, "../../Réport: x")
    assert path.parent == tmp_path
    assert last_written.read_local(path) == Store()
    path.write_bytes(b"\xff\xfe")
    assert last_written.read_local(path) == Store()
