"""The review site: what it shows, that it stands alone, and that nothing in it can act."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

from labkit import Check, Figure, Lab, Result, Table
from labkit.core.result import FIGURE_MIME, RESULT_MIME
from labkit.report.site import hypertext, pages, review
from labkit.report.stages import record as records
from labkit.report.stages.assignment import ROWS, STAGES, TASKS, plan
from labkit.report.stages.closing import closing_table, coverage
from labkit.report.stages.record import Entry, Inputs, StageRecord
from tests import executed

if TYPE_CHECKING:
    from playwright.sync_api import Page

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A lab that touches nothing but its outputs."""
    return Lab.of({"name": "seen", "outputs": str(tmp_path / "outputs")})


def result(text: str = "Three replies.", **other: Any) -> Result[Any]:
    """A result whose every text is ``text``."""
    check = {
        "name": f"network.{text}",
        "expected": text,
        "seen": text,
        "holds": True,
        "again": text,
    }
    values = {
        "action": text, "subject": text, "summary": text, "changed": True, "value": {"text": text},
        "checks": [Check.model_validate({**check, "rows": ("R10",)})],
        "tables": [Table.of("t", text, [{text: text, "size": 1_500_000}], units={"size": "bytes"})],
        "commands": [{"command": text, "status": 0, "seconds": 0.1}],
        "run": "run1", "started": "2024-01-01T00:00:00Z", "seconds": 1.5,
    }  # fmt: skip
    return Result.model_validate({**values, **other})


def figure(name: str = "line", alt: str = "A line from 3 to 4") -> Figure:
    """A figure."""
    return Figure(name=name, png=f"figures/{name}.png", svg="figures/x.svg", alt=alt, caption=alt)


def keep(lab: Lab, stage: str, *entries: Entry, state: str = "passed", **other: Any) -> StageRecord:
    """Keeps a stage's record as the batch does."""
    values = {
        "stage": stage, "title": plan(stage).title, "state": state, "closed": True, "run": "run1",
        "started": "2024-01-01T12:30:00Z", "seconds": 75, "lab": lab.name, "parameters": {},
        "entries": entries,
    }  # fmt: skip
    record = StageRecord.model_validate({**values, **other})
    records.keep(lab, record)
    return record


def notebook(lab: Lab, stage: str, *cells: dict[str, Any], ending: str = "ipynb") -> None:
    """Adds an executed notebook to what a stage's run left."""
    text = json.dumps({"cells": cells, "metadata": {}, "nbformat": 4})
    executed.add_notebook(lab, stage, text, ending)


def prose(text: str) -> dict[str, Any]:
    """A markdown cell."""
    return {"cell_type": "markdown", "source": text, "metadata": {}}


def code(source: str, *outputs: dict[str, Any], count: int = 1) -> dict[str, Any]:
    """A code cell that ran."""
    cell = {"cell_type": "code", "source": source, "metadata": {}, "execution_count": count}
    return {**cell, "outputs": outputs}


def showing(data: dict[str, Any]) -> dict[str, Any]:
    """An output in these formats."""
    return {"output_type": "execute_result", "data": data, "metadata": {}}


def picture(shown: Figure) -> dict[str, Any]:
    """A figure's output."""
    image = base64.b64encode(PNG).decode()
    return showing({FIGURE_MIME: shown.model_dump(mode="json"), "image/png": image})


class Reading:
    """What a page holds: its elements with their attributes, their identifiers and addresses, its text."""

    def __init__(self, html: str) -> None:
        soup = BeautifulSoup(html, "html.parser")
        found = soup.find_all(True)
        self.elements = [(tag.name, {name: str(tag[name]) for name in tag.attrs}) for tag in found]
        self.text = soup.get_text()
        given = [attrs for _, attrs in self.elements]
        self.addresses = [
            attrs[name] for attrs in given for name in ("href", "src") if name in attrs
        ]
        self.identifiers = [attrs["id"] for attrs in given if "id" in attrs]


def site(lab: Lab) -> dict[str, Reading]:
    """The pages of the site, built now."""
    review.build(lab)
    folder = lab.output_dir / "review"
    return {path.name: Reading(path.read_text()) for path in sorted(folder.glob("*.html"))}


def test_empty_outputs_give_a_site(lab: Lab) -> None:
    """Before anything has run the site says so, for each stage, and answers no row."""
    pages_ = site(lab)
    assert list(pages_) == ["index.html"]
    wanted = [stage for stage in STAGES if not stage.only_with]
    assert pages_["index.html"].text.count("not run") == len(wanted) + len(TASKS) + len(ROWS)
    assert "0 of 23" in pages_["index.html"].text


def test_a_stage_is_told_on_the_index_and_on_its_page(lab: Lab) -> None:
    """The index has its state in a word and a mark, its checks, duration and time. Its page begins with its checks:
    expected, seen, how to see it again."""
    failing = Check(
        name="network.b", expected="two replies", seen="only one", holds=False, again="ping b"
    )
    holding = Check(name="network.a", expected="1", seen="1", holds=True, rows=("R10",))
    both = result(checks=[holding, failing])
    keep(lab, "04-network", Entry(cell=3, result=both))
    data = {RESULT_MIME: both.model_dump(mode="json")}
    notebook(lab, "04-network", prose("# The narrative"), code("x", showing(data), count=3))
    pages_ = site(lab)
    for said in ("✔ passed", "1 of 2", "1 min 15 s", "2024-01-01 12:30 UTC", "04-network, cell 3"):
        assert said in pages_["index.html"].text
    begins = ("✘ fails", "two replies", "only one", "ping b", "✔ holds", "The narrative")
    places = [pages_["04-network.html"].text.index(said) for said in begins]
    assert places == sorted(places)


def test_failed_stage_is_never_shown_as_passed(lab: Lab) -> None:
    """After a failure the index says failed, and the last good run is kept on a page that says so."""
    keep(lab, "04-network", Entry(cell=1, result=result()))
    keep(lab, "04-network", state="failed", closed=False, problems=("code cell 2 raised OSError",))
    shown = site(lab)
    index = shown["index.html"]
    assert "✘ failed" in index.text
    assert "✔ passed" not in index.text
    assert "code cell 2 raised OSError" in index.text
    assert "This run failed." in shown["04-network.failed.html"].text
    assert "This is an earlier run." in shown["04-network.html"].text


def test_second_build_changes_nothing(lab: Lab) -> None:
    """The same outputs give the same bytes; pages and pictures of what is gone are removed."""
    keep(lab, "04-network", Entry(cell=1, result=result()))
    notebook(lab, "04-network", code("x", showing({RESULT_MIME: result().model_dump(mode="json")})), code("y", picture(figure())))  # fmt: skip
    assert review.build(lab).changed
    assert not review.build(lab).changed
    records.file(lab, "04-network").unlink()
    assert review.build(lab).changed
    left = {path.name for path in (lab.output_dir / "review").rglob("*") if path.is_file()}
    assert left == {"index.html"}


def hostile_site(lab: Lab) -> dict[str, Reading]:
    """A site all of whose texts try to get out of their places."""
    bad = result(HOSTILE)
    drawn = figure("../../../escape", HOSTILE)
    keep(lab, "04-network", Entry(cell=1, result=bad), Entry(cell=2, figure=drawn))
    notebook(
        lab,
        "04-network",
        prose(f"# {HOSTILE}\n\n[a](javascript:alert(3)) ![b](http://192.0.2.1/x.png) <iframe src=x>"),
        code(HOSTILE, showing({RESULT_MIME: bad.model_dump(mode="json")})),
        code("x", picture(drawn), count=2),
        code("x", {"output_type": "stream", "name": "stdout", "text": f"\x1b[31m{HOSTILE}\x07"}, count=3),
        code("x", showing({"text/html": HOSTILE, "text/plain": HOSTILE}), count=4),
        code("x", {"output_type": "error", "ename": "E", "evalue": "v", "traceback": [HOSTILE]}, count=5),
    )  # fmt: skip
    keep(lab, "04-network", state="failed", problems=(HOSTILE,))
    return site(lab)


def test_hostile_text_is_only_text(lab: Lab) -> None:
    """Whatever a program wrote, no page has an element or an attribute that could act."""
    for name, page in hostile_site(lab).items():
        assert HOSTILE in page.text, name
        tags = {tag for tag, _ in page.elements}
        assert not tags & {"script", "iframe", "object", "embed", "form", "base", "link"}
        names = {attribute for _, attrs in page.elements for attribute in attrs}
        assert not [attribute for attribute in names if attribute.startswith("on")]


def test_site_stands_alone(lab: Lab) -> None:
    """Every link and picture leads to a file of the outputs or an anchor that exists: nothing from outside, nothing
    that only a server could give. A figure's name, whatever it is, names a file of the site's own."""
    (lab.output_dir).mkdir(parents=True)
    (lab.output_dir / "lab.toml").touch()
    shown = hostile_site(lab)
    folder = lab.output_dir / "review"
    for name, page in shown.items():
        assert len(page.identifiers) == len(set(page.identifiers)), name
        for address in page.addresses:
            parts = urlsplit(address)
            assert not parts.scheme and not parts.netloc, address
            assert not parts.path or (folder / unquote(parts.path)).is_file(), (name, address)
            if parts.fragment:
                target = parts.path or name
                assert unquote(parts.fragment) in shown[target].identifiers, (name, address)
    assert len([*(folder / "pictures").iterdir()]) == 1
    assert not list(lab.output_dir.parent.parent.glob("escape*"))


@pytest.mark.root  # as the browser is started everywhere else
def test_no_page_is_wider_than_a_phone(lab: Lab, page: Page) -> None:
    """A browser need not be scrolled sideways, however long the words are; what is wide scrolls by itself."""
    long = result("http://127.0.0.1:8060/" + "a" * 200)
    keep(lab, "04-network", Entry(cell=1, result=long))
    wide = {"output_type": "stream", "name": "stdout", "text": "b" * 500}
    shown = showing({RESULT_MIME: long.model_dump(mode="json")})
    notebook(lab, "04-network", prose("c" * 200), code("d" * 200, shown), code("x", wide, count=2))
    review.build(lab)
    made = sorted((lab.output_dir / "review").glob("*.html"))
    page.set_viewport_size({"width": 390, "height": 844})
    found = {}
    for path in made:
        page.goto(path.as_uri())
        found[path.name] = page.evaluate("document.documentElement.scrollWidth")
    assert found == {path.name: 390 for path in made}


def test_picture_has_its_alt_text(lab: Lab) -> None:
    """A figure is shown with its alt text and its caption, on its stage's page and on the index."""
    shown = result()
    keep(lab, "04-network", Entry(cell=1, result=shown), Entry(cell=1, figure=figure()))
    notebook(lab, "04-network", code("x", showing({RESULT_MIME: shown.model_dump(mode="json")}), picture(figure())))  # fmt: skip
    for page in site(lab).values():
        images = [attrs for tag, attrs in page.elements if tag == "img"]
        assert [image["alt"] for image in images] == ["A line from 3 to 4"]
        assert page.text.count("A line from 3 to 4") == 1


def test_run_by_hand_is_shown_from_its_record(lab: Lab) -> None:
    """A stage that was run in JupyterLab leaves no executed notebook: its results are shown still,
    and an older run's notebook is not shown in their place."""
    older = result("From the batch.")
    keep(lab, "04-network", Entry(cell=1, result=older))
    notebook(lab, "04-network", code("x", showing({RESULT_MIME: older.model_dump(mode="json")})))
    keep(lab, "04-network", Entry(cell=2, result=result("By hand.", run="run2")), run="run2")
    text = site(lab)["04-network.html"].text
    assert "By hand." in text
    assert "From the batch." not in text


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<b> & more", "&lt;b&gt; &amp; more"),
        ("see process.capabilities.effective", "see process.<wbr>capabilities.<wbr>effective"),
        ("a" * 50, f"{'a' * 24}<wbr>{'a' * 24}<wbr>aa"),
        ("/var/lib/labkit/lab/wiki/x", "/<wbr>var/<wbr>lib/<wbr>labkit/<wbr>lab/<wbr>wiki/<wbr>x"),
    ],
)
def test_only_long_words_break_and_where_one_would(text: str, html: str) -> None:
    """A column of a table never breaks a plain word; no character is lost, and none acts."""
    assert str(hypertext.breakable(text)) == html


def test_long_tables_show_little_and_texts_keep_their_blanks(lab: Lab) -> None:
    """Of hundreds of rows a few are shown, the rest is folded; a table of lines is a text; one
    without rows says so."""
    many = Table.of("many", "Many", [{"number": number} for number in range(600)])
    few = Table.of("few", "Few", [{"number": number} for number in range(16)])
    diff = Table.of("diff", "Diff", [{"line": '+    "indented": 1,'}])
    empty = Table.of("failed", "What failed", [], columns=("start", "status"))
    keep(lab, "04-network", Entry(cell=1, result=result(tables=[many, few, diff, empty])))
    review.build(lab)
    page = (lab.output_dir / "review" / "04-network.html").read_text()
    assert "<summary>596 more rows</summary>" in page
    assert "<summary>4 more rows</summary>" in page
    assert "What failed: none." in page
    assert "<pre>+    &#34;indented&#34;: 1,\n</pre>" in page


@pytest.mark.parametrize(("rows", "folded"), [(15, []), (16, ["4"] * 3)])
def test_a_small_rest_is_shown_not_folded(lab: Lab, rows: int, folded: list[str]) -> None:
    """Of a table, of a text and of the checks: to unfold three lines takes longer than to read them."""
    numbers = Table.of("numbers", "Numbers", [{"number": number} for number in range(rows)])
    text = Table.of("text", "Text", [{"line": f"line {number}"} for number in range(rows)])
    checks = [Check(name=f"c.{n}", expected="x", seen="x", holds=True) for n in range(rows)]
    keep(lab, "04-network", Entry(cell=1, result=result(tables=[numbers, text], checks=checks)))
    review.build(lab)
    page = (lab.output_dir / "review" / "04-network.html").read_text()
    assert re.findall(r"<summary>(\d+) more (?:rows|lines|checks)", page) == folded
    assert page.count(f"line {rows - 1}\n") == 1


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("a\x07b\x00c\td\n", "a␇b␀c\td\n"),
        ("\x1b]0;title\x07a", "a"),
        ("é ✔\u202f\u00a0", "é ✔\u202f\u00a0"),
        ("a\u202eb", "a[U+202E]b"),
        ("\u3000\u200c\U0001fae9", "\u3000\u200c\U0001fae9"),
    ],
)
def test_control_sequences_are_dropped_and_control_characters_visible(
    raw: str, expected: str
) -> None:
    """What a program wrote to steer a terminal is not on the page."""
    assert hypertext.plain(raw) == expected


def test_parameters_that_differ_are_named() -> None:
    """Only what differs from the defaults is listed, by its dotted key; sites by their names."""
    own = Lab.of({"sites": ["x", "y"], "proxy": {"port": 81}})
    assert pages.ran(own, ())[1] == [("sites", "x, y"), ("proxy.port", "81")]


# -- the closing table and the coverage ---------------------------------------------------------------


def checked(name: str, *, holds: bool, rows: tuple[str, ...] = ()) -> Result[Any]:
    """A result with one check."""
    check = Check(name=name, expected="1", seen="1" if holds else "0", holds=holds, rows=rows)
    return result(f"About {name}.", checks=[check])


def test_closing_table_is_what_checks_of_the_last_run_say(lab: Lab) -> None:
    """A task's comment says what was reported; a stage that failed since it passed is judged by its last run."""
    keep(lab, "06-balancer", *(Entry(cell=1, result=checked(f"dns.{n}", holds=True)) for n in "ab"))
    names = next(t for t in closing_table(lab).value.tasks if t.task == "Name the sites by DNS")
    assert (names.state, names.comment) == ("met", "About dns.a. About dns.b. 2 of 2 checks hold.")
    keep(lab, "06-balancer", Entry(cell=1, result=checked("dns.a", holds=False)), state="failed")
    tasks = {task.task: task for task in closing_table(lab).value.tasks}
    assert tasks["Name the sites by DNS"].state == "not met"


def web(*replicas: str, failing: tuple[str, ...] = ()) -> Result[Any]:
    """What a farm of these replicas (``red-1``) shows for the rows that ask for a number of things."""
    sites = sorted({name.rpartition("-")[0] for name in replicas})
    names = [
        *(f"{kind}.{name}" for kind in ("farm.replica", "browser", "proxy.worker") for name in replicas),
        *(f"{kind}.{site}" for kind in ("site.page", "proxy.site", "dns.name", "dns.reverse") for site in sites),
        *(f"traffic.{site}.distribution" for site in sites), "site.told-apart", f"failover.kill.{replicas[0]}.out",
    ]  # fmt: skip
    rows = ("E5", "R11")
    checks = [Check(name=n, expected="1", seen="1", holds=n not in failing, rows=rows) for n in names]  # fmt: skip
    return result("About the farm.", checks=checks)


TWICE = ("a-1", "a-2", "b-1", "b-2", "c-1", "c-2")


@pytest.mark.parametrize(
    ("replicas", "failing", "said"),
    [
        (TWICE, (), {"E5": "met", "R11": "met"}),
        (
            ("a-1", "a-2", "a-3", "a-4", "b-1", "c-1"), (),
            {
                "E5": "not met: 1 of 3 sites on two servers behind the balancer",
                "R11": "not met: 1 of 3 sites on two containers",
            },
        ),
        (
            TWICE, ("failover.kill.a-1.out", "browser.b-2"),
            {
                "E5": "in part: failing: browser.b-2, failover.kill.a-1.out",
                "R11": "in part: 5 of 6 pages seen in a browser, failing: browser.b-2, failover.kill.a-1.out",
            },
        ),
    ],
)  # fmt: skip
def test_a_row_is_met_by_all_that_it_asks_for(
    lab: Lab, replicas: tuple[str, ...], failing: tuple[str, ...], said: dict[str, str]
) -> None:
    """Four containers of one site are not two of each, however many checks hold on them; nor is a row met with a
    check that fails."""
    keep(lab, "05-web", Entry(cell=1, result=web(*replicas, failing=failing)))
    found = coverage(lab)
    for row in ("E5", "R11"):
        assert {line[2] for line in found.table("coverage").rows if line[0] == row} == {said[row]}
        assert (f"{row} {said[row]}" in found.checks[0].seen) is (said[row] != "met")
    tasks = {task.task: task.state for task in closing_table(lab).value.tasks}
    served = {tasks["Run the farm's containers"], tasks["Serve the web sites"]}
    assert (served == {"met"}) is (said["R11"] == "met")
    assert (tasks["Balance the load"] == "met") is (said["E5"] == "met")


def test_coverage_names_stage_and_cell(lab: Lab) -> None:
    """Each row has the stage, the cell and the checks that answer it; one without is named."""
    keep(lab, "04-network", Entry(cell=7, result=checked("network.a", holds=True, rows=("R10",))))
    old = Inputs(after={"04-network": "another"})
    keep(lab, "07-report", Entry(cell=1, result=checked("report.x", holds=False)), inputs=old)
    found = coverage(lab, checked("report.x", holds=True, rows=("R12",)))
    answers = {(answer.row, answer.stage, answer.cell) for answer in found.value.answers}
    assert answers == {("R10", "04-network", 7), ("R12", "07-report", 0)}
    assert "E1" in found.checks[0].seen
    assert not found.checks[0].holds
    assert len(found.table("coverage").rows) == len(ROWS)
    said = {line[0]: line[5] for line in found.table("coverage").rows}
    assert said["R12"] == "1 of 1 hold"  # of now, although that stage's last run is stale
