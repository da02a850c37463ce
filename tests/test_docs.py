"""The documentation: its pages are built without a warning, and what they lead to is there."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from labkit.core import run

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]


class Links(HTMLParser):
    """The links of a page, and the names that it can be entered by."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.names: set[str] = {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Notes what an element leads to, and its name."""
        for key, value in attrs:
            if key == "id" and value:
                self.names.add(value)
            elif key in ("href", "src") and value and not urlsplit(value).scheme:
                self.links.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages as they are built; a warning is an error."""
    place = tmp_path_factory.mktemp("docs")
    words = [
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-d",
        place / "trees",
        PROJECT / "docs",
        place / "site",
    ]
    done = run.run([sys.executable, "-m", *words], ok=range(256), timeout=300)
    assert done.status == 0, done.stderr
    return place / "site"


def test_every_link_of_the_pages_leads_somewhere(site: Path) -> None:
    """Within a page and between them, and to what stands beside."""
    found = {page: Links(page) for page in site.rglob("*.html")}
    assert len(found) > 20
    broken = []
    for page, said in found.items():
        for link in said.links:
            path, _, name = link.partition("#")
            path = path.partition("?")[0]
            target = (page.parent / unquote(path)).resolve() if path else page
            if not target.exists() or (
                target in found and unquote(name) not in found[target].names
            ):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_the_reference_has_every_key_and_command(site: Path) -> None:
    """What the code accepts is on the pages, with a meaning."""
    from labkit.cli import app
    from labkit.model.config import PARAMETERS

    keys = (site / "reference/configuration.html").read_text(encoding="utf-8")
    assert [name for name in PARAMETERS if f">{name}<" not in keys] == []
    assert "<td><p></p></td>\n</tr>" not in keys
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    names = [
        item.name or item.callback.__name__ for item in app.registered_commands if item.callback
    ]
    assert [name for name in names if f"labkit {name}" not in commands] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_in_the_repository(page: Path) -> None:
    """Links, and files that are written as code."""
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)\)", text)
    files = re.findall(r"`((?:labkit|tests|docs|notebooks|outputs)/[\w./-]+)`", text)
    named = [item for item in (*links, *files) if not urlsplit(item).scheme]
    assert [item for item in named if not (PROJECT / item).exists()] == []


def test_each_promise_names_a_test_that_there_is() -> None:
    """Also those of SECURITY.md."""
    text = (PROJECT / "docs/explanation/promises.md").read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("|")][2:]
    assert len(rows) > 20
    assert [row for row in rows if "tests" not in row and "by hand" not in row] == []
    text += (PROJECT / "SECURITY.md").read_text(encoding="utf-8").replace("`", "`tests/")
    named = re.findall(r"tests/((?:\w+/)?test_\w+\.py)", text)
    assert [name for name in named if not (PROJECT / "tests" / name).exists()] == []
    benchmarks = re.findall(r"python3? -m (tests\.[\w.]+)", text)
    assert [
        name for name in benchmarks if not (PROJECT / f"{name.replace('.', '/')}.py").exists()
    ] == []
