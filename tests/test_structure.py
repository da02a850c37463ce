"""What holds of the project as a whole: names, sizes, pins, and nothing of the machine it was made on."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import labkit
from labkit import Lab
from labkit.core import run

PROJECT = Path(__file__).parents[1]
MODULES = sorted((PROJECT / "labkit").rglob("*.py"))


def committed() -> list[Path]:
    """The project's text files as they would be cloned."""
    if not (PROJECT / ".git").exists() or run.which("git") is None:
        pytest.skip("no clone of the project, or no git to ask")
    options = ["--cached", "--others", "--exclude-standard", "-z"]
    git = ["git", "-c", f"safe.directory={PROJECT}", "-C", str(PROJECT), "ls-files", *options]
    names = run.run(git).stdout.split("\0")
    paths = (PROJECT / name for name in names if name)
    return [p for p in paths if p.is_file() and b"\0" not in p.read_bytes()[:8000]]


def test_the_exported_names() -> None:
    """What `from labkit import …` offers is what is meant, and each name is there."""
    assert labkit.__all__ == ["Check", "Figure", "Lab", "LabkitError", "Outcome", "Result", "Table"]
    assert all(hasattr(labkit, name) for name in labkit.__all__)


def test_importing_labkit_is_cheap() -> None:
    """Slow libraries are imported where they are needed, so that every command starts at once."""
    slow = "pandas matplotlib scipy pyroute2 mwclient papermill nbconvert playwright dns IPython rich docker kubernetes"
    code = (
        "import sys, labkit, labkit.cli; "
        f"print([name for name in {slow.split()!r} if name in sys.modules])"
    )
    done = run.run([*python(), "-c", code], env={"PYTHONPATH": str(PROJECT)})
    assert done.stdout.strip() == "[]"


def python() -> list[str]:
    """The interpreter that runs these tests."""
    import sys

    return [sys.executable]


def test_imports_lead_downwards_and_in_no_circle() -> None:
    """The contracts of pyproject.toml hold of every module, with what is imported for types alone."""
    linter = [
        "-c",
        "import importlinter.cli, sys; sys.exit(importlinter.cli.lint_imports(no_cache=True))",
    ]
    done = run.run(
        [*python(), *linter], cwd=PROJECT, env={"PYTHONPATH": str(PROJECT)}, ok=range(256)
    )
    assert not done.status, done.stdout


def names_imported(source: str) -> set[str]:
    """The full names that a Python text imports."""
    nodes = [*ast.walk(ast.parse(source))]
    return {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names} | {
        f"{node.module}.{a.name}" for node in nodes if isinstance(node, ast.ImportFrom) for a in node.names
    }  # fmt: skip


@cache
def doors() -> dict[str, set[str]]:
    """Each package of labkit, and the names that others may import from it: its ``__all__``, and its own packages."""
    found = {}
    for file in (PROJECT / "labkit").rglob("__init__.py"):
        lists = (
            ast.literal_eval(node.value)
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        )
        inner = {path.parent.name for path in file.parent.glob("*/__init__.py")}
        room = ".".join(file.parent.relative_to(PROJECT).parts)
        modules = {path.stem for path in file.parent.glob("*.py")} if room == "labkit" else set()
        found[room] = {*next(lists, ()), *inner, *modules}
    return found


def private_imports(place: Path, source: str) -> list[str]:
    """What a text takes from a room behind the room's door."""
    room = f"{'.'.join(place.relative_to(PROJECT).parent.parts)}."
    return [
        f"{place.name}: {name}"
        for name in sorted(names_imported(source))
        for door, names in doors().items()
        if name.startswith(f"{door}.") and not room.startswith(f"{door}.")
        if name.removeprefix(f"{door}.").partition(".")[0] not in names
    ]


def test_rooms_and_notebooks_import_what_a_room_lists() -> None:
    """A room's ``__all__`` names all that other rooms and the notebooks take from it; each of these names is there."""
    texts = {path: path.read_text(encoding="utf-8") for path in MODULES}
    for path in (PROJECT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        texts[path] = "\n".join(re.sub(r"(?m)^\s*[%!].*$", "", text) for text in code)
    assert [fault for place, text in texts.items() for fault in private_imports(place, text)] == []
    for door, names in doors().items():
        assert [
            name
            for name in names
            if find_spec(f"{door}.{name}") is None and not hasattr(import_module(door), name)
        ] == []
    lines = ("from labkit.kernel.netns import enter", "from labkit.farm.network.bridge import x")
    assert [private_imports(PROJECT / "labkit/cli/x.py", line) for line in lines] == [
        [], ["x.py: labkit.farm.network.bridge.x"],
    ]  # fmt: skip


def machine_words() -> set[str]:
    """Hosts and paths of this machine's own settings, and where this clone is."""
    apt = run.run(["apt-get", "indextargets", "--format", "$(SITE)"], ok=(0, 100)).stdout.split()
    pip = run.run([*python(), "-m", "pip", "config", "list"], ok=(0, 1)).stdout
    found = {urlsplit(site).netloc for site in apt}
    for address in re.findall(r"(?:https?|file)://[^\s'\"]+", pip):
        found |= {urlsplit(address).netloc or urlsplit(address).path}
    if run.which("npm"):
        npm = run.run(["npm", "config", "get", "registry"], ok=range(256)).stdout.strip()
        found.add(urlsplit(npm).netloc)
    top = f"/{PROJECT.parts[1]}/"
    common = {f"/{name}/" for name in ("home", "opt", "root", "srv", "tmp", "usr", "var")}
    return {word for word in found if word} | {str(PROJECT)} | ({top} - common)


def test_nothing_of_this_machine_is_in_the_repository() -> None:
    """Neither a mirror's or an index' host from this machine's settings nor a path of its own."""
    words = machine_words()
    found = {
        f"{path.relative_to(PROJECT)}: {word}"
        for path in committed()
        for word in words
        if re.search(rf"(?<![\w.]){re.escape(word)}", path.read_text(errors="replace"))
    }
    assert found == set()


def requirements() -> dict[str, str]:
    """The lock's entries: name -> all of its lines."""
    text = (PROJECT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.findall(r"^([A-Za-z0-9._-]+)==(.*?)(?=^[A-Za-z0-9]|\Z)", text, re.M | re.S)
    return {name.lower(): rest for name, rest in blocks}


def test_every_library_is_pinned_by_hash() -> None:
    """What pyproject.toml asks for is in the lock; each entry has hashes, and none an address."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.split(r"[<>=!~\[; ]", line)[0].lower() for line in asked}
    locked = requirements()
    assert names <= locked.keys()
    assert all("--hash=sha256:" in rest for rest in locked.values())
    text = (PROJECT / "requirements.lock").read_text()
    assert not re.search(r"://|--index|--find|--trusted|@ file", text)


def test_the_conda_environment_is_the_package_itself() -> None:
    """environment.yml repeats no dependency: it installs the package, with its tests' libraries."""
    text = (PROJECT / "environment.yml").read_text()
    wanted = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"python={wanted.removeprefix('>=')}" in text
    assert "-e .[test]" in text


def test_the_script_is_executable_and_its_list_is_package_data() -> None:
    """A clone can be called at once, and an installed labkit knows the packages that it needs."""
    assert (PROJECT / "lab").stat().st_mode & 0o111
    assert (PROJECT / "labkit" / "debian-packages.txt").is_file()


def test_every_text_is_read_and_written_as_utf8() -> None:
    """Each call names its encoding, so that the locale of whoever imports labkit does not matter; of open() it is
    ruff that says so (PLW1514)."""
    calls = (
        (path, ast.unparse(node), node.lineno)
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    )
    text = re.compile(
        r"(.*\.(read|write)_text|os\.fdopen)\((?!.*(encoding=|'utf-8'|'\wb'))", re.DOTALL
    )
    assert [f"{path.name}:{line}: {call}" for path, call, line in calls if text.match(call)] == []


def test_the_development_container_has_what_the_lab_needs() -> None:
    """A Debian that ./lab accepts, all rights, and a file system for the lab's folders that is no overlay."""
    text = (PROJECT / ".devcontainer/devcontainer.json").read_text()
    found = json.loads(re.sub(r"(?m)(^|\s)//.*$", "", text))
    assert re.fullmatch("debian:(bookworm|trixie)", found["image"])
    assert found["privileged"]
    assert [mount["type"] for mount in found["mounts"]] == ["volume"]
    assert {mount["target"] for mount in found["mounts"]} == {"/var/lib/labkit"}
    assert found["forwardPorts"] == [Lab().wiki.port]
