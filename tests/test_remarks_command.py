"""``labkit remarks`` and ``labkit answer``, as a user's shell calls them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from labkit import Lab
from labkit.core.run import Done
from labkit.report.batch.notebook import write_lab_file
from tests.desks import Writers, run_stage, writers
from tests.test_cli import labkit
from tests.test_dialogue import of_its_own

Command = Callable[..., Done]
pytestmark = pytest.mark.root


@pytest.fixture
def lab(wiki_lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    """A lab with the real wiki, and a page and outputs of the test's own."""
    return of_its_own(wiki_lab, tmp_path, f"Command {request.node.name[5:]}".replace("_", " "))


@pytest.fixture
def command(lab: Lab) -> Command:
    """Calls labkit with that lab, whatever the exit status."""
    file = write_lab_file(lab)
    return lambda *words: labkit(*words, "-c", file)


@pytest.fixture
def page(lab: Lab, tmp_path: Path) -> Iterator[Writers]:
    """The published page with two remarks."""
    with writers(lab, lab.wiki.page, tmp_path / "wiki") as made:
        made.publish(run_stage(250))
        made.after("All: 250 MB.", "REX> Quantify.")
        made.write(lambda text: f"{text}\n\nREX> Good.\nREX> settled")
        yield made


def test_remarks_are_listed(page: Writers, command: Command) -> None:
    """In words and as JSON, all or the open ones, each with an identifier that the next command takes."""
    said = command("remarks")
    assert said.status == 0, said.stderr
    assert "Quantify." in said.stdout
    assert f"2 remarks on the page {page.page}: 1 open, 0 answered, 1 settled." in said.stdout
    assert not said.stderr
    [found] = json.loads(command("remarks", "--open", "--json").stdout)["value"]["remarks"]
    assert (found["thread"]["text"], found["author"], found["state"]) == ("Quantify.", "Teacher", "open")  # fmt: skip
    assert found["id"] in said.stdout
    done = command("answer", found["id"], "It is 171 MB.")
    assert done.status == 0, done.stderr
    assert not done.stderr
    assert "Student now answers the remark" in done.stdout
    assert any(line.startswith(": It is 171 MB. [[User:Student|") for line in page.lines)
    assert json.loads(command("remarks", "--open", "--json").stdout)["value"]["remarks"] == []


def test_an_audit_ends_with_its_status(page: Writers, command: Command) -> None:
    """0 when nothing was ever taken away, 1 when the bot's account did, with line, author and revision."""
    clean = command("remarks", "--audit")
    assert (clean.status, "taken away none of the lines" in clean.stdout) == (0, True)
    page.write(lambda text: text.replace("REX> Quantify.\n", ""), page.bot)
    found = command("remarks", "--audit")
    assert found.status == 1
    for words in ("REX> Quantify.", "Teacher", str(page.revision.number)):
        assert words in found.stdout


@pytest.mark.parametrize("words", [("remarks",), ("remarks", "--audit"), ("answer", "0bad", "x")])
def test_a_wiki_that_was_never_up_is_said_so(
    make_lab: Callable[..., Lab], words: tuple[str, ...]
) -> None:
    """In a sentence with its remedy, without a traceback."""
    done = labkit(*words, "-c", write_lab_file(make_lab()))
    assert done.status == 1
    assert "bring the wiki up first" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_page_that_was_never_published_is_said_so(lab: Lab, command: Command) -> None:
    """There are no remarks, and nothing to audit; an answer has nothing to answer."""
    said = command("remarks")
    assert (said.status, "nothing was published there" in said.stdout) == (0, True)
    assert command("remarks", "--audit").status == 0
    refused = command("answer", "0badcafe", "x")
    assert refused.status == 1
    assert "is not a remark's identifier" in refused.stderr


def test_what_others_changed_is_listed(page: Writers, command: Command) -> None:
    """A number in a block, a remark that somebody else deleted, one that somebody else calls settled: each with who;
    an audit has the former text, too, and finds no fault of labkit's."""
    page.write(lambda text: text.replace("All: 250 MB.", "All: 990 MB."), page.student)
    page.write(lambda text: text.replace("REX> Good.\nREX> settled", ""), page.student)
    page.after("REX> Quantify.", "REX> settled", page.student)
    said = command("remarks")
    assert said.status == 0, said.stderr
    shown = " ".join(said.stdout.replace("│", " ").split())
    for words in ("All: 250 MB.", "All: 990 MB.", "REX> Good.", "deleted", "settled by Student"):
        assert words in shown, words
    assert "1 open, 0 answered, 0 settled. 2 lines of remarks deleted or rewritten" in shown
    assert "1 change of labkit's lines, by Student." in shown
    audit = command("remarks", "--audit")
    assert audit.status == 0
    assert "REX> Good." in audit.stdout
    assert "2 lines of remarks deleted or rewritten by others than the writers." in " ".join(
        audit.stdout.split()
    )
