"""The journal and the locks: what survives a kill, what is damage, who waits for whom."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from labkit.core import run
from labkit.core.journal import Journal, boot_id, lock, parse
from labkit.errors import LockError, MachineError, StateError

ENTRY = '{"seq": 1, "boot": "b", "kind": "mount", "what": {"target": "/x"}}'


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal that does not exist yet."""
    return Journal(tmp_path / "lab" / "journal.jsonl")


def test_what_is_about_to_be_made_is_written_first(journal: Journal) -> None:
    """The entry stands before anything is made, with the boot that it was made in."""
    journal.intend("mount", target="/a")
    assert [(e.kind, e.what, e.boot) for e in journal.standing()] == [
        ("mount", {"target": "/a"}, boot_id())
    ]
    assert journal.owns("mount", target="/a")


def test_what_was_unmade_stands_no_more_and_may_be_made_again(journal: Journal) -> None:
    """Forgetting leaves the others, forgetting what is not there writes nothing; only a thing's last state counts."""
    journal.intend("mount", target="/a")
    journal.intend("mount", target="/b")
    journal.forget("mount", target="/a")
    before = journal.path.read_bytes()
    journal.forget("mount", target="/a")
    journal.forget("netns", name="a")
    assert journal.path.read_bytes() == before
    assert [entry.what["target"] for entry in journal.standing()] == ["/b"]
    assert not journal.owns("mount", target="/a")
    for _ in range(3):
        journal.intend("mount", target="/a")
        journal.forget("mount", target="/a")
    journal.intend("mount", target="/a")
    assert [entry.what["target"] for entry in journal.standing()] == ["/b", "/a"]


def test_many_intents_are_one_and_the_standing_ones_are_left_out(journal: Journal) -> None:
    """In their order, each once; those that stand already are not written again; many are forgotten at once."""
    journal.intend("mount", target="/b")
    journal.intend_all([("mount", {"target": name}) for name in ("/a", "/b", "/c", "/a")])
    assert [entry.what["target"] for entry in journal.standing()] == ["/b", "/a", "/c"]
    assert [entry.seq for entry in journal.standing()] == [1, 2, 3]
    before = journal.path.read_bytes()
    journal.intend_all([("mount", {"target": "/c"})])
    journal.intend_all([])
    assert journal.path.read_bytes() == before
    journal.forget_all([("mount", {"target": name}) for name in ("/c", "/x", "/a")])
    assert [entry.what["target"] for entry in journal.standing()] == ["/b"]


def test_what_another_process_wrote_counts_at_once(journal: Journal) -> None:
    """Lines that came, lines that were changed, and a file that was begun anew, even one as long."""
    journal.intend("mount", target="/a")
    line = journal.path.read_text()
    journal.path.write_text(line + line.replace('"seq": 1', '"seq": 2').replace("/a", "/b"))
    assert [entry.what["target"] for entry in journal.standing()] == ["/a", "/b"]
    journal.path.write_text(line.replace("/a", "/c"))
    assert [entry.what["target"] for entry in journal.standing()] == ["/c"]
    journal.path.unlink()
    assert journal.standing() == ()
    journal.intend("mount", target="/d")
    assert [(entry.seq, entry.what["target"]) for entry in journal.standing()] == [(1, "/d")]


def test_a_thing_of_an_earlier_boot_is_written_again(journal: Journal) -> None:
    """Else what is made now would count as gone with that boot, and stay; both are forgotten at once."""
    journal.path.parent.mkdir()
    journal.path.write_text(ENTRY + "\n")
    assert len(journal.standing()) == 1
    assert not journal.owns("mount", target="/x")  # that name may be anybody's now
    journal.intend("mount", target="/x")
    assert journal.owns("mount", target="/x")
    journal.forget("mount", target="/x")
    assert journal.standing() == ()


def test_an_empty_journal_is_removed_and_a_standing_one_is_not(journal: Journal) -> None:
    """The file starts anew when nothing stands; looking makes none."""
    journal.clear()
    assert journal.standing() == ()
    assert not journal.path.exists()
    journal.intend("mount", target="/a")
    journal.clear()
    assert journal.path.exists()
    journal.forget("mount", target="/a")
    journal.clear()
    assert not journal.path.exists()


@pytest.mark.parametrize("length", range(1, len(ENTRY)))
def test_a_torn_line_counts_as_unwritten(length: int) -> None:
    """Wherever the writer was killed: the beginning of a line is no entry and no damage."""
    text = f"{ENTRY}\n{ENTRY[:length]}"
    assert len(parse(text, Path("j"))) == 1
    assert len(parse(f"{text}\n{ENTRY}\n", Path("j"))) == 2


def test_the_next_entry_does_not_hang_on_a_torn_line(journal: Journal) -> None:
    """After a torn line the journal goes on, on a line of its own."""
    journal.intend("mount", target="/a")
    with journal.path.open("a") as file:
        file.write('{"seq": 2, "bo')
    journal.intend("mount", target="/b")
    assert [entry.what["target"] for entry in journal.standing()] == ["/a", "/b"]


DAMAGE = [
    pytest.param("hello", id="a foreign line"),
    pytest.param("[1]", id="no object"),
    pytest.param("{}", id="an empty object"),
    pytest.param('{"seq": 1}', id="a key missing"),
    pytest.param(ENTRY.replace('"kind"', '"knid"'), id="a misspelt key"),
    pytest.param(ENTRY.replace('"/x"', "5"), id="a wrong type"),
    pytest.param(ENTRY.replace(", ", " "), id="a whole line that is no JSON"),
    pytest.param("\x00" * 20, id="zeros"),
    pytest.param("\udcff\udcfe", id="bytes that are no text"),
]


@pytest.mark.parametrize("line", DAMAGE)
def test_damage_is_named_with_its_line(journal: Journal, line: str) -> None:
    """A hand-edited line stops everything, and the error says where it is; nothing is guessed."""
    journal.path.parent.mkdir()
    text = f"{ENTRY}\n{line}\n{ENTRY}\n".encode(errors="surrogateescape")
    journal.path.write_bytes(text)
    with pytest.raises(StateError, match="line 2"):
        journal.standing()
    with pytest.raises(StateError, match="line 2"):
        journal.intend("mount", target="/b")
    assert journal.path.read_bytes() == text


def test_a_journal_that_is_a_folder_is_an_error_of_the_state(journal: Journal) -> None:
    """What stands in the journal's place is named, with the system's reason."""
    journal.path.mkdir(parents=True)
    with pytest.raises(StateError, match="Is a directory"):
        journal.standing()


def python(code: str, *words: str | Path) -> list[str]:
    """The arguments that run some Python code with labkit at hand."""
    return [sys.executable, "-c", code, *map(str, words)]


WRITERS = f"""
import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from labkit.core.journal import Journal
journal = Journal(Path(sys.argv[1]))
for number in range(40):
    journal.intend("mount", target=f"/{{sys.argv[2]}}/{{number}}")
    if number % 2:
        journal.forget("mount", target=f"/{{sys.argv[2]}}/{{number}}")
"""


def test_writers_side_by_side_lose_nothing(journal: Journal) -> None:
    """Several processes write: every entry is there once, with a number of its own."""
    run.spread(lambda name: run.run(python(WRITERS, journal.path, name)), ["a", "b", "c"])
    found = journal.standing()
    assert len(found) == 60
    assert len({entry.seq for entry in found}) == 60
    numbers = [json.loads(line)["seq"] for line in journal.path.read_text().splitlines()]
    assert numbers == list(range(1, 181))


KILLED = f"""
import os, signal, sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from labkit.core.journal import Journal
Journal(Path(sys.argv[1])).intend("folder", path=sys.argv[2])
os.kill(os.getpid(), signal.SIGKILL)
Path(sys.argv[2]).mkdir()
"""


def test_a_kill_between_intent_and_act_leaves_the_intent(journal: Journal, tmp_path: Path) -> None:
    """What may have been made can be found, and nobody holds the journal."""
    run.run(python(KILLED, journal.path, tmp_path / "x"), ok=(-signal.SIGKILL,))
    assert not (tmp_path / "x").exists()
    assert [entry.kind for entry in journal.standing()] == ["folder"]
    journal.intend("mount", target="/b")


HOLDER = f"""
import sys, time; sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
from labkit.core.journal import lock
with lock(Path(sys.argv[1]), "farm"):
    Path(sys.argv[1], "held").touch()
    time.sleep(60)
"""


@contextmanager
def holder(folder: Path) -> Iterator[Popen[str]]:
    """Another process that holds the lock ``farm`` in ``folder``."""
    process = run.start(python(HOLDER, folder))
    try:
        while not (folder / "held").exists():
            assert process.poll() is None
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    """Who waits in vain is told the process that works on the lab."""
    with holder(tmp_path) as process:
        message = f"process {process.pid}"
        with pytest.raises(LockError, match=message), lock(tmp_path, "farm", wait=0.2):
            pytest.fail("two at once")
        with lock(tmp_path, "wiki", wait=0):
            pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    """The kernel ends the lock with the process, and a block's error ends it too; the file that stays is in nobody's
    way."""
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ZeroDivisionError), lock(tmp_path, "farm", wait=10):
            assert (tmp_path / "farm.lock").read_text() == f"{os.getpid()}\n"
            _ = 1 / 0
        with lock(tmp_path, "farm", wait=0):
            pass


@pytest.mark.root
def test_nobody_else_holds_a_lock(open_folder: Path) -> None:
    """Not the file's, not the journal's, made now or by a labkit that left them open: flock(1) as another user."""
    places = (open_folder / "farm.lock", open_folder)
    for file, folder in ((0o644, 0o755), (0o600, 0o711)):
        places[0].touch()
        places[0].chmod(file)
        open_folder.chmod(folder)
        with lock(open_folder, "farm"):
            intend(open_folder)
        for place in places:
            words = [
                "setpriv",
                "--reuid=65534",
                "--clear-groups",
                "flock",
                "--nonblock",
                place,
                "true",
            ]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert (done.returncode, "Permission denied" in done.stderr) == (66, True), place


@contextmanager
def as_nobody() -> Iterator[None]:
    """The block runs as a user without rights."""
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def intend(folder: Path) -> None:
    """Writes into a journal."""
    Journal(folder / "journal.jsonl").intend("mount", target="/a")


def hold(folder: Path) -> None:
    """Takes a lock."""
    with lock(folder, "farm"):
        pass


@pytest.mark.root
@pytest.mark.parametrize("act", [intend, hold])
@pytest.mark.parametrize("inner", ["", "new"])
def test_who_is_not_root_is_told_so(
    open_folder: Path, act: Callable[[Path], None], inner: str
) -> None:
    """Neither journal nor lock can be written by others; the remedy is sudo."""
    with as_nobody(), pytest.raises(MachineError, match="user 65534") as caught:
        act(open_folder / inner)
    assert "sudo" in caught.value.remedy
    assert list(open_folder.iterdir()) == []


@pytest.mark.root
def test_a_journal_that_may_not_be_read_is_an_error_of_the_machine(open_folder: Path) -> None:
    """Who may not look is told so, and does not see an empty journal."""
    closed = Journal(open_folder / "journal.jsonl")
    closed.intend("mount", target="/a")
    closed.path.chmod(0o600)
    with as_nobody(), pytest.raises(MachineError, match="needs root"):
        closed.standing()
