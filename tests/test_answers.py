"""Answers to remarks: what may be typed, and that each stands below its remark, once, in the student's name."""

from __future__ import annotations

import html
import re
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from labkit import Lab
from labkit.cli import app, command
from labkit.cli import report as page_commands
from labkit.errors import ConfigError, WikiError
from labkit.wiki.client import refusals, session
from labkit.wiki.client.mediawiki import MediaWiki
from labkit.wiki.client.session import api_url
from labkit.wiki.merge import fences
from labkit.wiki.remarks import answers, threads
from labkit.wiki.remarks.answers import Answer
from labkit.wiki.remarks.listing import Remarks
from tests.desks import WEB, Writers, parsed, run_stage, writers
from tests.test_dialogue import of_its_own
from tests.test_remarks import remark

REMARK = "REX> Quantify."
PAGE = run_stage(250).text.replace("250 MB.", f"250 MB.\n{REMARK}")
#: What breaks out of its place when it is not escaped, and harmless words between.
MARKUP = st.lists(
    st.sampled_from(
        ["REX>", "settled", "\n", ":", "*", "#", ";", "=", "<!--", "-->", "labkit:begin x 0", " ",
         "labkit:page", "{{x}}", "{|", "|}", "[[", "]]", "[[A|b]]", "[[A|]]", "~~~~", "~", "''", "'",
         "<code>", "</code>", "<pre>", "<nowiki>", "http://a.test/", "__TOC__", "-", "word", "&lt;",
         "(UTC)", "2026", "[[User:A|A]]"]
    ),
    min_size=1, max_size=12,
).map("".join)  # fmt: skip

BOTH = pytest.mark.parametrize("wiki_on", ["sqlite", "mariadb"], indirect=True)


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("171 MB.", "171 MB."),
        ("See [[#Network]] and [[#Web sites|there]].", "See [[#Network]] and [[#Web sites|there]]."),
        ("It is '''small''', ''really''.", "It is '''small''', ''really''."),
        ("<code>a | b</code>", "<code>a &#124; b</code>"),
        ("REX> settled", "REX&gt; settled"),
        ("one\nREX> two", "one<br />REX&gt; two"),
        ("* a", "&#42; a"),
        ("{{subst:x}} ~~~~", "&#123;&#123;subst&#58;x&#125;&#125; &#126;&#126;&#126;&#126;"),
        ("a <!-- b", "a &lt;!-- b"),
        ("[[A|]]", "&#91;&#91;A&#124;&#93;&#93;"),
        ("[[labkit:begin x]]", "&#91;&#91;labkit&#58;begin x&#93;&#93;"),
    ],
)  # fmt: skip
def test_what_is_typed_is_one_line_of_a_persons_wikitext(typed: str, line: str) -> None:
    """Links, emphasis and code work; everything else is shown as it was typed."""
    assert answers.composed(typed) == line


@pytest.mark.parametrize(
    ("typed", "said"),
    [("", "is empty"), (" \n ", "is empty"), ("x" * (answers.LONGEST + 1), "has 4,001 characters"),
     ("a\0b", "contains U+0000"), ("\x1b[31m", "contains U+001B"), ("a\ud800", "contains U+D800")],
)  # fmt: skip
def test_what_is_no_answer_is_refused(typed: str, said: str) -> None:
    """Nothing, too much, and what no page can have: before anything is asked."""
    with pytest.raises(ConfigError, match=f"the answer: {re.escape(said)}") as caught:
        answers.composed(typed)
    assert caught.value.remedy


#: A command line after ``labkit answer``, and what is answered; the options that were taken.
TYPED: dict[str, tuple[list[str], tuple[str, str], bool]] = {
    "plain": (["abcd", "It does."], ("abcd", "It does."), False),
    "like a long option": (["abcd", "--json is meant"], ("abcd", "--json is meant"), False),
    "an option behind it": (["abcd", "-5", "--json"], ("abcd", "-5"), True),
    "an option before": (["--json", "abcd", "-x"], ("abcd", "-x"), True),
    "after two hyphens": (["abcd", "--", "--json"], ("abcd", "--json"), False),
}  # fmt: skip


@pytest.mark.parametrize("case", TYPED)
def test_an_answer_may_begin_with_a_hyphen(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is an option to the letter is one."""
    words, wanted, as_json = TYPED[case]
    seen: list[tuple[str, str, bool]] = []
    monkeypatch.setattr(command, "log_to_file", lambda lab: None)
    monkeypatch.setattr(answers, "answer", lambda lab, identity, text: (identity, text))
    monkeypatch.setattr(
        page_commands, "finish", lambda done, choice: seen.append((*done, choice.as_json))
    )
    done = CliRunner().invoke(app, ["answer", *words])
    assert done.exit_code == 0, done.output
    assert seen == [(*wanted, as_json)]


@given(MARKUP)
def test_no_answer_breaks_thread_or_fence(typed: str) -> None:
    """Whatever is typed, the page has the answer as typed, and is else what it was."""
    if not typed.strip():
        return
    line = answers.composed(typed)
    assert "\n" not in line
    new = answers.below(PAGE, remark(PAGE), line)
    [found] = threads.parse(new)
    assert (found.text, found.answer, found.state) == ("Quantify.", f"{line} ~~~~", "answered")
    assert new.replace(f": {line} ~~~~\n", "") == PAGE
    assert fences.parse(new, "").blocks[0].digest == run_stage(250).digest


def test_an_answer_that_would_change_the_page_is_refused() -> None:
    """The last line of defence, for wikitext that was not composed here."""
    for line in ("<!-- labkit:end 02-rootfs -->", "x\n\nREX> y"):
        with pytest.raises(WikiError, match="would change the page around it"):
            answers.below(PAGE, remark(PAGE), line)


@pytest.mark.parametrize(
    ("identity", "said"),
    [("ffff", "is not a remark's identifier"), ("", "is not a remark"), ("0bad", "2 remarks' identifiers")],
)  # fmt: skip
def test_a_remark_is_named_by_its_identifier(identity: str, said: str) -> None:
    """Or by a beginning that is its own; else the error says where identifiers are told."""
    found = Remarks(
        page="Report", url="", remarks=(remark(REMARK), remark(REMARK, id="0bad0bad")), revision=1
    )
    assert answers.chosen(found, "0badc") == found.remarks[0]
    with pytest.raises(ConfigError, match=said):
        answers.chosen(found, identity)


@pytest.fixture
def page(wiki_on: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Writers]:
    """A page of the test's own with a published block and the teacher's remark in it."""
    title = request.node.originalname.removeprefix("test_").replace("_", " ").capitalize()
    with writers(wiki_on, title, tmp_path / "wiki") as made:
        made.publish(run_stage(250), WEB)
        made.after("All: 250 MB.", "REX> Quantify. ~~~~")
        yield made


def give(page: Writers, text: str) -> Answer:
    """The student answers the page's only remark."""
    [asked] = page.remarks().remarks
    line = answers.composed(text)
    return answers.give(page.student, page.page, asked.id, line, folder=page.folder)


@BOTH
@pytest.mark.root
def test_an_answer_stands_below_its_remark_in_the_students_name(page: Writers) -> None:
    """Signed, so that the history says so, and it stays through publications; given again it changes nothing. A second
    one follows it, also below a line that settles; the wiki shows the characters that were typed, nothing live but
    links and emphasis."""
    done = give(page, "It is [[#Web sites|171 MB]] {{now}}.")
    assert (done.added, done.author, page.revision.user) == (True, "Student", "Student")
    lines = page.lines
    place = next(n for n, line in enumerate(lines) if line.startswith("REX> Quantify."))
    assert lines[place + 1].startswith(": It is [[#Web sites|171 MB]] &#123;&#123;now&#125;&#125;. [[User:Student|")  # fmt: skip
    before = page.revision.number
    assert not give(page, "It is [[#Web sites|171 MB]] {{now}}.").added
    assert page.revision.number == before
    page.publish(run_stage(171, 2), WEB)
    assert lines[place : place + 2] == [
        line for line in page.lines if line in lines[place : place + 2]
    ]
    [answered] = page.remarks().remarks
    assert (answered.state, answered.author, answered.stale) == ("answered", "Teacher", True)
    page.after(next(line for line in page.lines if line.startswith(": It is")), "REX> settled")
    typed = "<b>&amp; {{PAGENAME}} <pre> <!-- ~~~~ {| | || '''bold''' [[#Network|here]] __TOC__ -->"
    second = give(page, typed)
    [found] = page.remarks().remarks
    assert (found.thread.answer.split("\n")[1], found.state) == (second.text, "settled")
    shown = re.search(r"<dl><dd>(.*) <a ", parsed(page.teacher, f": {second.text} [[User:x]]"), re.DOTALL)  # fmt: skip
    assert shown is not None
    text = html.unescape(re.sub(r"<(?:/?(?:b|a)\b[^>]*)>", "", shown[1]))
    assert text == "<b>&amp; {{PAGENAME}} <pre> <!-- ~~~~ {| | || bold here __TOC__ -->"


@pytest.mark.root
def test_an_edit_between_reading_and_answering_survives(page: Writers) -> None:
    """At the same line the wiki refuses and is asked again; nothing of either is lost."""
    original, calls = MediaWiki.save, []

    def meanwhile(*args, **kwargs):  # type: ignore[no-untyped-def]
        if not calls:
            calls.append(page.after("The end.", "A word at the end."))
            signed = next(line for line in page.lines if line.startswith("REX>"))
            page.after(signed, "REX> And how small?")
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediaWiki, "save", lambda *a, **k: meanwhile(*a, **k) if a[0] is page.student else original(*a, **k))  # fmt: skip
        done = give(page, "171 MB.")
    assert done.attempts > 1
    [found] = page.remarks().remarks
    assert (found.thread.text, found.thread.answer) == ("Quantify.\nAnd how small?", "171 MB.")
    assert "A word at the end." in page.lines


@pytest.mark.root
def test_an_action_answers(wiki_lab: Lab, tmp_path: Path) -> None:
    """For notebook and command line: changed the first time, not the second; a wrong name is an error."""
    lab = of_its_own(wiki_lab, tmp_path, "Answered by an action")
    with writers(lab, lab.wiki.page, tmp_path / "wiki") as page:
        page.publish(run_stage(250))
        page.after("All: 250 MB.", REMARK)
        [asked] = page.remarks().remarks
    first, second = (answers.answer(lab, asked.id, "171 MB.") for _ in range(2))
    assert (first.changed, second.changed) == (True, False)
    assert first.summary == f"Student now answers the remark {asked.id} on the page {lab.wiki.page}: Quantify."  # fmt: skip
    with pytest.raises(ConfigError, match="is not a remark's identifier"):
        answers.answer(lab, "zzz", "171 MB.")


@pytest.mark.root
def test_everybody_at_once(wiki_lab: Lab, tmp_path: Path) -> None:
    """Two publishers, two teachers who remark and a student who answers: nothing is lost or doubled."""
    with (
        writers(wiki_lab, "Everybody at once", tmp_path / "one") as one,
        writers(wiki_lab, "Everybody at once", tmp_path / "two") as two,
        ThreadPoolExecutor(5) as pool,
    ):
        one.publish(run_stage(0), WEB)
        asked = [f"REX> {who} asks {n}" for who in "ab" for n in range(4)]

        def teach(page: Writers, who: str) -> None:
            for line in asked:
                if line.startswith(f"REX> {who}"):
                    place = ("The end.", "Six pages.")[int(line[-1]) % 2]
                    persistently(lambda line=line, place=place: page.after(place, f"\n{line}\n"))  # type: ignore[misc]

        def publish(page: Writers, start: int) -> None:
            for number in range(start, start + 4):
                page.publish(run_stage(number, number % 10), WEB)

        def reply() -> None:
            done = 0
            while done < len(asked):
                for item in one.remarks().of("open"):
                    line = answers.composed(f"to {item.thread.text}")
                    answers.give(one.student, one.page, item.id, line, folder=one.folder)
                    done += 1

        work = [
            (teach, one, "a"),
            (teach, two, "b"),
            (publish, one, 100),
            (publish, two, 200),
            (reply,),
        ]
        for future in [pool.submit(*job) for job in work]:  # type: ignore[arg-type]
            future.result()
        one.publish(run_stage(999), WEB)
        found = one.remarks()
        assert sorted(item.thread.line for item in found.remarks) == sorted(asked)
        for item in found.remarks:
            assert item.thread.answer == f"to {item.thread.text}"
            assert item.author == "Teacher"
        said = {item.thread.line for item in found.remarks}
        left = [line for line in one.lines if line not in said and not line.startswith(": to ")]
        machine = [line for line in left if line]
        names = fences.listed(("02-rootfs", "05-web"))
        wanted = f"{names}\n{run_stage(999).text}\n\n{WEB.text}"
        assert machine == [line for line in wanted.split("\n") if line]


def persistently(edit) -> None:  # type: ignore[no-untyped-def]
    """A person's edit, made again on the page of now after each conflict."""
    while True:
        try:
            edit()
        except refusals.ConflictError:
            continue
        return


@pytest.mark.root
def test_a_student_logs_in_without_a_word(
    wiki_lab: Lab, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the person that they are, on the lab's own wiki or, by a variable, on an existing one."""
    wiki = wiki_lab.wiki.model_copy(update={"url": api_url(wiki_lab)})
    existing = wiki_lab.model_copy(update={"wiki": wiki})
    name, secret = session.credentials(wiki_lab, student=True)
    monkeypatch.setenv("LABKIT_WIKI_STUDENT", name)
    monkeypatch.setenv("LABKIT_WIKI_STUDENT_PASSWORD", secret.get_secret_value())
    for lab in (wiki_lab, existing):
        with closing((site := session.open(lab, student=True)).connection):
            assert site.account == "Student"
    assert "Main-account" not in caplog.text
    monkeypatch.setenv("LABKIT_WIKI_STUDENT_PASSWORD", "wrong-secret")
    with pytest.raises(WikiError, match="refuses the password") as error:
        session.open(existing, student=True)
    assert "wrong-secret" not in "".join(traceback.format_exception(error.value))
    monkeypatch.delenv("LABKIT_WIKI_STUDENT_PASSWORD")
    with pytest.raises(WikiError, match="has no LABKIT_WIKI_STUDENT_PASSWORD"):
        session.open(existing, student=True)


@BOTH
@pytest.mark.root
def test_a_line_that_the_wikis_merge_dropped_is_put_back(page: Writers) -> None:
    """What was saved is read again: it has every line of before, or gets it."""
    page.after("All: 250 MB.", "A word of mine.")
    original, calls = MediaWiki.save, []

    def dropping(site, title, text, **other):  # type: ignore[no-untyped-def]
        calls.append(site)
        text = text.replace("A word of mine.\n", "") if len(calls) == 1 else text
        return original(site, title, text, **other)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MediaWiki, "save", dropping)
        done = give(page, "171 MB.")
    assert done.attempts == 2
    assert page.lines[page.lines.index("A word of mine.") - 1] == "All: 250 MB."
    assert page.remarks().remarks[0].thread.answer == "171 MB."
