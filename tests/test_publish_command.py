"""``labkit publish``: what it would do, what it does, and how it mends."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from labkit import Lab
from labkit.cli.terminal import show_difference
from labkit.core import run
from labkit.core.result import Figure
from labkit.core.run import Done
from labkit.errors import WikiError
from labkit.report.batch.notebook import lab_file
from labkit.report.page import publication
from labkit.report.site import discussion
from labkit.wiki.client import session
from labkit.wiki.merge import fences
from tests import executed
from tests.test_publication import PNG, ran, result, written

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[1]


@pytest.fixture
def wiki(wiki_lab: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Lab:
    """A lab with the real wiki, a page and outputs of the test's own."""
    page = wiki_lab.wiki.model_copy(update={"page": request.node.name.replace("_", " ")})
    return wiki_lab.model_copy(update={"wiki": page, "outputs": str(tmp_path / "outputs")})


@pytest.fixture
def labkit(wiki: Lab, tmp_path: Path) -> Callable[..., Done]:
    """Calls ``labkit publish`` for that lab as a user's shell would."""
    (tmp_path / "lab.toml").write_text(lab_file(wiki))

    def call(*options: str) -> Done:
        outputs = f"outputs={wiki.outputs}"
        argv = [sys.executable, "-m", "labkit", "publish", "--set", outputs, *options]
        return run.run(argv, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, ok=range(256))

    return call


def footprint(lab: Lab) -> Any:
    """All that anybody ever did on the wiki: its recent changes and its log, logging in included."""
    with closing((site := session.open(lab)).connection):
        answer = site.post("query", list="recentchanges|logevents", rclimit=500, lelimit=500)
    return answer["query"]["recentchanges"], answer["query"]["logevents"]


def text_of(lab: Lab) -> str:
    """The report's page now, '' when there is none."""
    with closing((site := session.open(lab)).connection):
        revision = site.read(lab.wiki.page).revision
    return revision.text if revision else ""


def figure(lab: Lab) -> Figure:
    """A figure that the run has drawn."""
    # a picture that no other test has uploaded
    executed.draw(lab, "run-1", "a.png", PNG + lab.wiki.page.encode())
    return Figure(name="a", png="figures/a.png", svg="", alt="alt", caption="c")


def test_publishing_does_what_the_dry_run_showed(wiki: Lab, labkit: Callable[..., Done]) -> None:
    """Every block that would change and every missing picture is told, with the lines' numbers on the page, and the
    wiki stays as it was; with --json the plan has the page's text as it then is. Afterwards nothing is left to do."""
    ran(wiki, result(300))
    publication.publish(wiki)
    old = text_of(wiki).split("\n")
    before = footprint(wiki)
    ran(wiki, result(171), figure(wiki))
    told = labkit("--dry-run")
    assert told.status == 0, told.stderr
    lines = told.stdout.splitlines()
    assert "02-rootfs: changed" in lines
    assert [line for line in lines if line.startswith("picture to upload: Labkit-a-")]
    assert "1 picture is missing" in lines[-1]
    shown = json.loads(labkit("--dry-run", "--json").stdout)["value"]
    assert footprint(wiki) == before
    changes = {change["name"]: change for change in shown["changes"]}
    diff = changes["02-rootfs"]["diff"]
    assert "-'''It weighs 300 MB.'''\n+'''It weighs 171 MB.'''" in diff
    hunks = [line.split() for line in diff.splitlines() if line.startswith("@@")]
    new = shown["text"].split("\n")
    place = old.index("'''It weighs 300 MB.'''"), new.index("'''It weighs 171 MB.'''")
    assert any(
        starts(minus) <= place[0] < ends(minus) and starts(plus) <= place[1] < ends(plus)
        for _, minus, plus, _ in hunks
    )
    assert changes["04-network"]["state"] == "unchanged"
    assert len(shown["missing"]) == 1
    done = labkit()
    assert done.status == 0, done.stderr
    assert text_of(wiki) == shown["text"]
    again = labkit("-n")
    assert again.status == 0
    assert again.stdout.count("\n") == 1
    assert "publishing would write nothing" in again.stdout


def starts(span: str) -> int:
    """The first line, from 0, of a hunk's side (``-3,4``)."""
    return int(span[1:].split(",", maxsplit=1)[0]) - 1


def ends(span: str) -> int:
    """The line after its last one."""
    return starts(span) + int([*span.split(","), "1"][1])


def test_colours_are_for_terminals() -> None:
    """Added lines are green and removed ones red where the output is a terminal, plain elsewhere."""
    diff = "@@ -1,1 +1,1 @@\n-old\n+new [b]\n \x1b[2J"
    shown = []
    for terminal, colours in ((True, "standard"), (False, "auto")):
        out = io.StringIO()
        console = Console(
            file=out, force_terminal=terminal, color_system=colours, highlight=False, markup=False
        )
        show_difference("a block", diff, console)
        shown.append(out.getvalue())
    assert "\x1b[32m+new [b]" in shown[0]
    assert "\x1b[31m-old" in shown[0]
    assert "\x1b[2J" not in shown[0]
    assert shown[1] == "a block\n@@ -1,1 +1,1 @@\n-old\n+new [b]\n ␛[2J\n"


def test_a_block_is_restored_by_name(wiki: Lab, labkit: Callable[..., Done]) -> None:
    """A block that a person deleted stays so. An unknown name is an error with the nearest; the right one brings the
    block back."""
    ran(wiki, result(300))
    publication.publish(wiki)
    found = fences.parse(text_of(wiki), "").find("02-rootfs")
    assert found
    written(wiki, lambda text: text[: found.start] + text[found.end :])
    ran(wiki, result(171))
    states = {change.name: change.state for change in publication.plan(wiki).value.changes}
    assert (states["summary"], states["02-rootfs"], states["04-network"]) == ("changed", "deleted", "unchanged")  # fmt: skip
    done = publication.publish(wiki)
    assert done.value.deleted == ("02-rootfs",)
    assert done.holds
    wrong = labkit("--restore", "02-rootf")
    assert wrong.status == 1
    assert "did you mean '02-rootfs'?" in wrong.stderr
    assert "02-rootfs: deleted by a person (--restore 02-rootfs)" in labkit("--dry-run").stdout
    assert labkit("--restore", "02-rootfs").status == 0
    assert fences.parse(text_of(wiki), "").find("02-rootfs")


def test_a_damaged_page_is_mended_on_demand(wiki: Lab, labkit: Callable[..., Done]) -> None:
    """Publishing stops and says how to mend; --repair --dry-run shows it, --repair does it and publishes."""
    ran(wiki, result(300))
    publication.publish(wiki, repair=True)  # which changes nothing on a whole page
    assert not publication.mend(wiki).value.diff
    line, end = "'''It weighs 300 MB.'''\n", "<!-- labkit:end 02-rootfs -->"
    written(wiki, lambda text: text.replace(line, f"{line}REX> Quantify.\n").replace(end, ""))
    ran(wiki, result(171))
    before = footprint(wiki)
    stopped = labkit()
    assert stopped.status == 1
    assert "labkit publish --repair" in stopped.stderr
    shown = labkit("--repair", "--dry-run")
    assert shown.status == 0, shown.stderr
    assert f"+{end}" in shown.stdout.splitlines()
    assert footprint(wiki) == before
    done = labkit("--repair", "--json")
    assert done.status == 0, done.stderr
    value = json.loads(done.stdout)["value"]
    assert f"+{end}" in value["mended"]
    assert value["people"] == value["there"] == 1
    text = text_of(wiki)
    body = fences.parse(text, "").find("02-rootfs").block.body  # type: ignore[union-attr]
    assert "'''It weighs 171 MB.'''\nREX> Quantify.\n" in body
    assert "300 MB" not in text.replace("Quantify", "")
    assert "|| 02-rootfs || Quantify. ||" in text
    [remark] = discussion.remarks(wiki).value.remarks
    assert remark.thread.text == "Quantify."
    assert not publication.publish(wiki).changed


def test_what_cannot_be_read_is_said_with_its_line(wiki: Lab) -> None:
    """A plan of a damaged page is refused as the publication is."""
    ran(wiki, result(300))
    publication.publish(wiki)
    written(wiki, lambda text: text + "\n<!-- labkit:end 02-rootfs -->")
    line = text_of(wiki).count("\n") + 1
    with pytest.raises(WikiError, match=f"line {line}: this block ends without having begun"):
        publication.plan(wiki)
