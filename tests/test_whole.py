"""The whole lab, as a user has it made: one command, the real notebooks, and what is left of it.

One rebuild serves all tests of this file. The last two act on what it made, in their order: a remark is
written and the report published anew, then everything is taken down.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import pytest

from labkit import Lab
from labkit.checks import failed
from labkit.core import run
from labkit.core.run import Done
from labkit.core.undo import mount_points
from labkit.report import Stage
from labkit.report.stages.assignment import ROWS, STAGES
from labkit.wiki.client import session
from labkit.wiki.client.session import origin
from tests import stage_notebooks
from tests.conftest import lab_maker, open_place
from tests.inventory import control_groups
from tests.outside.axe import obstacles
from tests.test_jupyterlab import chromium
from tests.test_review import Reading
from tests.test_run import gone

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: The stages of a lab on one machine; a rebuild skips the others.
WANTED = [stage for stage in STAGES if not stage.only_with]
NAMES = [stage.name for stage in WANTED]
#: The pictures of a page that were loaded, below each of its second headings.
PICTURES = """() => {
    const found = {};
    let heading = "";
    for (const element of document.querySelectorAll("h2 .mw-headline, .mw-parser-output img")) {
        if (element.matches(".mw-headline")) found[heading = element.textContent] = [];
        else found[heading].push(element.complete && element.naturalWidth > 0 && element.alt !== "");
    }
    return found;
}"""
REMARK = "REX> Would twelve start as well? --~~~~"
LAST = "REX> Well reported. --~~~~"


@dataclass(frozen=True)
class Whole:
    """A lab of its own after two rebuilds: what each said, and what lay in its outputs after each."""

    lab: Lab
    file: Path
    empty: dict[str, set[str]]
    first: Done
    made: dict[str, bytes]
    second: Done
    kept: dict[str, bytes]

    def labkit(self, *arguments: str) -> Done:
        """The command on this lab, as a user's shell would run it."""
        return labkit(self.file, *arguments)


def labkit(file: Path, *arguments: str) -> Done:
    """The command in the folder of a lab's file, with a temporary folder that is closed to all others,
    as libpam-tmpdir gives to each user."""
    temporary = file.parent / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    env = {"PYTHONPATH": str(file.parent), "TMPDIR": str(temporary)}
    argv = [sys.executable, "-m", "labkit", *arguments, "-c", str(file)]
    return run.run(argv, cwd=file.parent, env=env, ok=range(256), timeout=840)


def contents(lab: Lab) -> dict[str, bytes]:
    """The lab's outputs, except the log of what was called when."""
    files = (path for path in lab.output_dir.rglob("*") if path.is_file())
    return {str(p.relative_to(lab.output_dir)): p.read_bytes() for p in files if p.name != "labkit.log"}  # fmt: skip


def link(path: Path) -> str:
    """Where a link of /proc leads, '' when the process is gone."""
    try:
        return str(path.readlink())
    except OSError:
        return ""


def inventory(lab: Lab, namespaces: set[str]) -> dict[str, set[str]]:
    """All that the machine has of the lab, found by its folder and its name; ``namespaces`` are those
    in which any process is the lab's."""
    mark = str(lab.state_dir.parents[1])
    processes = set()
    for process in Path("/proc").glob("[0-9]*"):
        seen = [link(process / name) for name in ("cwd", "root", "exe")]
        for name in ("cmdline", "environ", "cgroup"):
            try:
                seen.append((process / name).read_text(errors="replace"))
            except OSError:
                seen.append("")
        theirs = any(mark in text for text in seen) or f"labkit-{lab.name}" in seen[-1]
        if (theirs or link(process / "ns/net") in namespaces) and not gone(int(process.name)):
            processes.add(f"{process.name} {seen[3]}")
    return {
        "processes": processes,
        "mounts": {point for point in mount_points() if point.startswith(mark)},
        "links": {p.name for p in Path("/sys/class/net").iterdir() if lab.name in p.name},
        "namespaces": {p.name for p in Path("/run/netns").glob(f"*{lab.name}*")},
        "cgroups": set(map(str, control_groups(lab.name))),
    }


@pytest.fixture(scope="module")
def whole() -> Iterator[Whole]:
    """Nothing, then the whole lab, then the same again."""
    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make(subnet="10.87.0.0/24", proxy_port=8087, requests=300, seconds=2.0)
        file = stage_notebooks.clone(folder / "project", lab)
        yield Whole(
            lab=lab,
            file=file,
            empty=inventory(lab, set()),
            first=labkit(file, "rebuild"),
            made=contents(lab),
            second=labkit(file, "rebuild", "--json"),
            kept=contents(lab),
        )


# -- what the command says, and what it leaves ---------------------------------------------------


@pytest.mark.root
def test_one_command_passes_all_stages(whole: Whole) -> None:
    """From nothing: exit status 0, a summary that says that eight of eight have passed, and how to go on. All checks
    hold, not only those that the stages require. What browser, kernels and builds write for a while is gone."""
    assert whole.first.status == 0, whole.first.stderr[-3000:] + whole.first.stdout[-3000:]
    assert "9 stages: 8 passed, 1 skipped." in whole.first.stdout
    assert f"Review site: {whole.lab.output_dir}/review/index.html" in whole.first.stdout
    assert f"Report:      {origin(whole.lab)}/wiki/Report" in whole.first.stdout
    secrets = session.passwords(whole.lab).plain().values()
    assert not any(secret in whole.first.stdout for secret in secrets)
    for name in NAMES:
        record = Stage.load(whole.lab, name)
        assert [check.name for check in failed(record.checks)] == []
        assert len(record.checks) > 3
    assert list((whole.file.parent / "tmp").iterdir()) == []


@pytest.mark.root
@pytest.mark.parametrize("program", ["getent", "curl", "chromium"])
def test_printed_commands_show_a_site(whole: Whole, program: str) -> None:
    """What the command prints about the sites works when it is pasted."""
    [line] = [line for line in whole.first.stdout.splitlines() if f" {program} " in line]
    dump = ["--headless", "--dump-dom", "--disable-gpu"] if program == "chromium" else []
    words = [*shlex.split(line.partition("sudo ")[2]), *dump]
    done = run.run(words, env={"HOME": str(whole.file.parent)}, timeout=60)
    wanted = {"getent": str(whole.lab.gateway.ip)}.get(program, whole.lab.title(whole.lab.sites[0]))
    assert wanted in done.stdout


@pytest.mark.root
def test_second_rebuild_changes_nothing(whole: Whole) -> None:
    """No stage is run, and every file is byte by byte what it was: notebooks, results, figures, review site."""
    assert whole.second.status == 0, whole.second.stderr[-3000:]
    result = json.loads(whole.second.stdout)
    stages = result["value"]["stages"]
    seen = {stage["stage"]: stage["state"] for stage in stages}
    assert seen == {**dict.fromkeys(NAMES, "unchanged"), "09-engine": "skipped"}
    assert result["changed"] is False
    kept = {name for name in whole.made if name.startswith("notebooks/")}
    assert kept == {f"notebooks/{name}.ipynb" for name in NAMES}
    assert [name for name in whole.made if whole.made[name] != whole.kept.get(name)] == []
    assert whole.kept.keys() == whole.made.keys()


@pytest.mark.root
def test_logs_have_no_complaint(whole: Whole) -> None:
    """What went well leaves no traceback, no warning of Python's, and no parameter unknown to papermill;
    a kernel whose port another one took meanwhile, before any cell ran, is told and started again."""
    for path in (whole.lab.output_dir / "logs").iterdir():
        *_, last = path.read_text().split("The kernel's port was taken by another program: start")
        wrong = re.findall(r".*(?:Traceback|Error|Warning|unknown parameter).*", last)
        assert wrong == [], path.name


# -- the review site -----------------------------------------------------------------------------


@pytest.mark.root
def test_review_site_is_whole(whole: Whole) -> None:
    """An index and a page a stage; every link and picture leads to a file of the outputs, or to an anchor. Each figure
    that a stage recorded is on its page, and on the index. The index leads from each of the assignment's rows to the
    cells that answer it, all of whose checks hold."""
    folder = whole.lab.output_dir / "review"
    review = {path.name: Reading(path.read_text()) for path in folder.glob("*.html")}
    assert review.keys() == {"index.html", *(f"{name}.html" for name in NAMES)}
    for name, page in review.items():
        for address in page.addresses:
            parts = urlsplit(address)
            path = folder / unquote(parts.path)
            assert not parts.scheme and (not parts.path or path.is_file()), (name, address)
            if parts.fragment:
                assert unquote(parts.fragment) in review[parts.path or name].identifiers, address
    for name in NAMES:
        figures = {figure.alt for figure in Stage.load(whole.lab, name).figures}
        for page in (review[f"{name}.html"], review["index.html"]):
            assert figures <= {attrs.get("alt") for tag, attrs in page.elements if tag == "img"}, name  # fmt: skip
    index = (folder / "index.html").read_text()
    for row in ROWS:
        line = index.partition(f'<tr id="{row}">')[2].partition("</tr>")[0]
        cells = re.findall(r'href="([\w-]+\.html)#(cell-\d+)">[\w-]+, cell \d+<', line)
        assert cells, f"no cell answers {row}"
        assert all(anchor in review[page].identifiers for page, anchor in cells)
        assert "✔</span> met<" in line, Reading(line).text
        counted = re.search(r">(\d+) of (\d+)<", line)
        assert counted and counted[1] == counted[2], Reading(line).text


# -- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def page(whole: Whole) -> Iterator[Page]:
    """A browser on the machine itself, where the wiki is."""
    home = whole.file.parent / "home"
    home.mkdir(exist_ok=True)
    with chromium(home) as page:
        yield page


def address(lab: Lab, title: str, **more: str) -> str:
    """A page of the wiki's, or what may be done with it."""
    words = "&".join(f"{name}={value}" for name, value in {"title": title, **more}.items())
    return f"{origin(lab)}/w/index.php?{words}"


@pytest.mark.root
def test_wiki_page_shows_all_stages_with_figures(whole: Whole, page: Page) -> None:
    """Each stage has its heading, and below it as many pictures as it has figures, each with words for
    who does not see it."""
    page.goto(address(whole.lab, whole.lab.wiki.page))
    page.wait_for_load_state()
    shown = page.evaluate(PICTURES)
    for stage in WANTED:
        figures = Stage.load(whole.lab, stage.name).figures
        assert shown[stage.title] == [True] * len(figures), stage.name
    assert sum(len(pictures) for pictures in shown.values()) > 8


@pytest.mark.root
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_in_anybody_s_way(whole: Whole, page: Page, scheme: str) -> None:
    """Of the review site, and the report on the wiki (its own part of the page), by axe's rules."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    found = {}
    for path in sorted((whole.lab.output_dir / "review").glob("*.html")):
        page.goto(path.as_uri())
        found[path.name] = obstacles(page)
    page.goto(address(whole.lab, whole.lab.wiki.page))
    skin = {"without": ".toc", "but": ("link-in-text-block",)}  # Vector's own
    found["the wiki"] = obstacles(page, ".mw-parser-output", **skin)  # type: ignore[arg-type]
    assert {name: said for name, said in found.items() if said} == {}


# -- acting on it --------------------------------------------------------------------------------


def log_in_as_teacher(page: Page, lab: Lab) -> None:
    """The wiki's own form."""
    password = session.passwords(lab).teacher.get_secret_value()
    page.goto(address(lab, "Special:UserLogin"))
    page.locator("#wpName1").fill(session.TEACHER)
    page.locator("#wpPassword1").fill(password)
    page.locator("#wpLoginAttempt").click()
    page.get_by_text(session.TEACHER).first.wait_for()


def edit(page: Page, lab: Lab, change: Callable[[str], str]) -> None:
    """The report's page is changed in the wiki's own editor."""
    page.goto(address(lab, lab.wiki.page, action="edit"))
    text = page.locator("#wpTextbox1")
    before = text.input_value()
    after = change(before)
    assert after != before
    text.evaluate("(area, value) => { area.value = value }", after)  # typing it takes half a minute
    page.locator("#wpSave").click()
    page.locator("#ca-edit").wait_for()
    page.wait_for_load_state()


def source(page: Page, lab: Lab) -> str:
    """The page's text now."""
    page.goto(address(lab, lab.wiki.page, action="raw"))
    return str(page.evaluate("document.body.textContent"))


def remarked(text: str) -> str:
    """A page's text with the teacher's lines: one below a result inside a stage, one at the end."""
    lines = text.rstrip().splitlines()
    [place] = [place for place, line in enumerate(lines) if "6 containers waited at once" in line]
    return "\n".join([*lines[: place + 1], REMARK, *lines[place + 1 :], "", LAST, ""])


@pytest.mark.root
def test_teachers_remark_survives_a_changed_result(whole: Whole, page: Page) -> None:
    """A teacher remarks in the browser, inside a stage and at the end; a stage runs with another
    parameter and the report is published: the new result and both remarks are there."""
    lab = whole.lab
    log_in_as_teacher(page, lab)
    edit(page, lab, remarked)
    again = whole.labkit("run", "03-containers", "-p", "instances", "3")
    assert again.status == 0, again.stderr[-3000:]
    published = whole.labkit("publish")
    assert published.status == 0, published.stdout
    lines = source(page, lab).rstrip().splitlines()
    [inside] = [place for place, line in enumerate(lines) if line.startswith(REMARK[:30])]
    assert "3 containers waited at once" in lines[inside - 1]
    assert [line for line in lines if line.startswith(LAST[:20])] == [lines[-1]]


def host_namespaces(lab: Lab) -> set[str]:
    """The network namespaces of the lab, as /proc names those of a process."""
    named = Path("/run/netns").glob(f"*{lab.name}*")
    return {f"net:[{path.stat().st_ino}]" for path in named}


@pytest.mark.root
def test_down_leaves_nothing_behind(whole: Whole) -> None:
    """Before the first rebuild and after ``down`` the machine has the same of this lab: no process, mount,
    link, namespace or control group. A second ``down`` has nothing to do."""
    namespaces = host_namespaces(whole.lab)
    up = inventory(whole.lab, namespaces)
    # the links are in the namespace
    assert [kind for kind, found in up.items() if not found] == ["links"]
    down = whole.labkit("down")
    assert down.status == 0, down.stdout
    until = time.monotonic() + 10
    while (left := inventory(whole.lab, namespaces)) != whole.empty:
        assert time.monotonic() < until, left
        time.sleep(0.1)
    assert whole.empty == {kind: set() for kind in up}
    again: dict[str, Any] = json.loads(whole.labkit("down", "--json").stdout)
    assert (again["changed"], again["value"]["unmade"]) == (False, 0)
    assert "nothing was up" in again["summary"]
