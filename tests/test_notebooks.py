"""The rules that every committed notebook keeps: thin, whole, and without outputs."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from labkit.config import PARAMETERS
from labkit.report.plan import STAGES, plan

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
#: The statements that a notebook is made of; all logic is in the package.
PLAIN = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
#: Expressions that are logic, too.
LOGIC = (
    ast.Lambda, ast.IfExp, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr,
)  # fmt: skip
#: What a parameter may be: what JSON has.
JSON_TYPE = re.compile(r"(str|int|float|bool|list(\[.+\])?|dict\[str, .+\])( \| None)?")


def read(name: str) -> dict[str, Any]:
    """A notebook as JSON."""
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def sources(name: str, kind: str = "code") -> list[str]:
    """The text of a notebook's cells of one kind."""
    return ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == kind]


def parameters(name: str) -> list[ast.stmt]:
    """The statements of the cell that is tagged ``parameters``."""
    cells = [c for c in read(name)["cells"] if "parameters" in c["metadata"].get("tags", ())]
    assert len(cells) == 1, "exactly one cell is tagged 'parameters'"
    return ast.parse("".join(cells[0]["source"])).body


def test_notebooks_are_stages() -> None:
    """Every notebook is a stage's, under the stage's name."""
    assert {name.removesuffix(".ipynb") for name in NOTEBOOKS} <= {stage.name for stage in STAGES}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_has_no_outputs(name: str) -> None:
    """A notebook is committed as it is before it runs, in a format that every Jupyter reads."""
    content = read(name)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["metadata"]["kernelspec"]["name"] == "python3"
    for cell in content["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters_are_json_and_known(name: str) -> None:
    """Each parameter is annotated with a JSON type, and the lab or a later cell knows it."""
    later = {node.id for source in sources(name) for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}  # fmt: skip
    for statement in parameters(name):
        assert isinstance(statement, ast.AnnAssign), ast.unparse(statement)
        assert isinstance(statement.target, ast.Name)
        assert JSON_TYPE.fullmatch(ast.unparse(statement.annotation)), ast.unparse(statement)
        assert statement.target.id in {*PARAMETERS, *later}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_told_which_lab(name: str) -> None:
    """The lab's name and its host's namespace are parameters of every notebook, unset by default."""
    targets = {ast.unparse(item.target): item for item in parameters(name) if isinstance(item, ast.AnnAssign)}  # fmt: skip
    for parameter in ("lab_name", "netns"):
        assert ast.unparse(targets[parameter].value or ast.Constant(0)) == "None"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_has_no_logic(name: str) -> None:
    """A notebook defines, loops and decides nothing, calls no shell, and imports labkit alone."""
    for source in sources(name):
        tree = ast.parse(source)  # a line that begins with ! or % is no Python
        for statement in tree.body:
            assert isinstance(statement, PLAIN), ast.unparse(statement)
        for node in ast.walk(tree):
            assert not isinstance(node, LOGIC), ast.unparse(node)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [getattr(node, "module", None) or alias.name for alias in node.names]
                assert all(module.split(".")[0] == "labkit" for module in modules)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_opens_and_closes_its_stage(name: str) -> None:
    """A notebook opens the stage of its own name, and its last cell closes it."""
    cells = [source for source in sources(name) if source.strip()]
    stage = name.removesuffix(".ipynb")
    assert any(f'Stage.open("{stage}", lab)' in source for source in cells)
    assert cells[-1].strip() == "stage.close()"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_each_cell_shows_its_result(name: str) -> None:
    """Each cell after the opening ends in the one thing that it records, so that it is shown."""
    cells = sources(name)
    opening = next(place for place, source in enumerate(cells) if "Stage.open(" in source)
    for source in cells[opening + 1 :]:
        body = ast.parse(source).body
        assert isinstance(body[-1], (ast.Expr, ast.Assign))
        assert source.count("stage.record(") + source.count("stage.close(") == 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_narrative_names_the_rows(name: str) -> None:
    """The narrative begins with a title, and names each row of the assignment that the stage answers."""
    text = sources(name, "markdown")
    assert text[0].startswith("# ")
    named = set(
        re.findall(r"\b[EIR]\d+\b", " ".join(re.findall(r"\*\*(.+?)\*\*", "\n".join(text))))
    )
    assert set(plan(name.removesuffix(".ipynb")).rows) <= named
