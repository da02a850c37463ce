"""Fixtures: a lab of the test's own, whose host side lives in a namespace of the test's own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

from labkit import Lab
from labkit.core import undo
from tests import proc

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.desks import Desk

#: What root tests share with the machine's labs: downloaded packages and root file systems.
CACHE = "/var/lib/labkit/.cache"

#: Where tests stand, and the folders of a lab that a test gives none: without it, they would see the project's
#: own lab.toml, and what the machine's own lab has made.
NOWHERE = Path(tempfile.gettempdir(), f"labkit-tests-{secrets.token_hex(4)}")
for _key in ("state", "run"):
    Lab.model_fields[_key].default = str(NOWHERE / _key)
Lab.model_rebuild(force=True)

# No database of hypothesis' in the project's folder.
hypothesis.settings.register_profile("labkit", database=None)
hypothesis.settings.load_profile("labkit")


def pytest_configure(config: pytest.Config) -> None:
    """Tests stand in a folder of their own; who only hands them out to workers stays, for those begin there."""
    # Who runs in the background of a shell's script is deaf to it, and so would be all that is tried.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hands_out = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if not hands_out:
        NOWHERE.mkdir(mode=0o755)
        os.chdir(NOWHERE)


def pytest_unconfigure() -> None:
    """The folder is gone."""
    shutil.rmtree(NOWHERE, ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that act on the machine are skipped, with that reason, for who is not root."""
    if os.geteuid() == 0:
        return
    for item in items:
        if "root" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="acts on the machine: needs root"))


@contextmanager
def open_place() -> Iterator[Path]:
    """A folder that every account may enter (tmp_path is root's alone): servers that have given up
    their rights have their files below it."""
    folder = Path(tempfile.mkdtemp(prefix="labkit-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        left = [point for point in undo.mount_points() if point.startswith(f"{folder}/")]
        assert not left  # nothing is removed through a mount
        shutil.rmtree(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Such a folder for one test."""
    with open_place() as folder:
        yield folder


def free_port() -> int:
    """A TCP port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def port() -> int:
    """Such a port."""
    return free_port()


@contextmanager
def watching() -> Iterator[set[str]]:
    """Collects the command lines of all processes while the block runs."""
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(text for _, text in proc.texts("cmdline"))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.fixture
def watched() -> AbstractContextManager[set[str]]:
    """A block that collects the command lines of all processes meanwhile."""
    return watching()


@contextmanager
def lab_maker(folder: Path, outputs: Path) -> Iterator[Callable[..., Lab]]:
    """Makes labs (flat parameters as a notebook's) and, afterwards, unmakes all that they made."""
    made: list[Lab] = []

    def make(**parameters: object) -> Lab:
        name = f"t{secrets.token_hex(3)}"
        defaults: dict[str, object] = {
            "lab_name": name,
            "netns": name,
            "state": str(folder / "state"),
            "run": str(folder / "run"),
            "wiki_port": free_port(),
            "cache": CACHE,
            "outputs": str(outputs),
        }
        made.append(Lab.load(None, **{**defaults, **parameters}))
        return made[-1]

    try:
        yield make
    finally:
        for lab in made:
            _, failed = undo.unmake_all(lab)
            assert not failed, [str(error) for _, error in failed]


@pytest.fixture
def make_lab(tmp_path: Path, open_folder: Path) -> Iterator[Callable[..., Lab]]:
    """Makes labs for one test."""
    with lab_maker(open_folder, tmp_path / "outputs") as make:
        yield make


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """One such lab with everything else at its default."""
    return make_lab()


@pytest.fixture
def page(open_folder: Path) -> Iterator[Page]:
    """A page of Debian's Chromium, whose files are the test's own (its socket's path has to be short), and which
    resolves no name but loopback's address."""
    from playwright.sync_api import sync_playwright

    from labkit.farm.services import browser

    confined = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    home = {"HOME": str(open_folder), "TMPDIR": str(open_folder), "PATH": "/usr/bin:/bin"}
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=f"/usr/bin/{browser.PROGRAM}",
            args=[*browser.FLAGS, confined],
            env=home,
        )
        context = found.new_context()
        context.set_default_timeout(60_000)
        yield context.new_page()
        found.close()


@contextmanager
def _wiki(database: str) -> Iterator[Lab]:
    from labkit.wiki import server

    with open_place() as folder, lab_maker(folder, folder / "outputs") as make:
        lab = make(wiki_database=database)
        server.up(lab)
        yield lab


@pytest.fixture(scope="session")
def wiki_lab() -> Iterator[Lab]:
    """A lab whose own wiki (SQLite) is up, for all tests that leave it up and its settings alone."""
    with _wiki("sqlite") as lab:
        yield lab


@pytest.fixture(scope="session")
def mariadb_wiki_lab() -> Iterator[Lab]:
    """The same on MariaDB."""
    with _wiki("mariadb") as lab:
        yield lab


@pytest.fixture
def wiki_on(request: pytest.FixtureRequest) -> Lab:
    """A lab whose wiki is up on SQLite, or on the database that the test's parameter names."""
    database = getattr(request, "param", "sqlite")
    found: Lab = request.getfixturevalue("wiki_lab" if database == "sqlite" else "mariadb_wiki_lab")
    return found


@pytest.fixture
def desk(wiki_on: Lab, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Desk]:
    """A page of the test's own."""
    from tests.desks import opened

    page = request.node.originalname.removeprefix("test_").replace("_", " ").capitalize()
    with opened(wiki_on, page, tmp_path / "pristine") as made:
        yield made
