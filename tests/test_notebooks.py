"""The rules that every committed notebook keeps (thin, whole, without outputs), and each one alone."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labkit import Lab
from labkit.core import run
from labkit.core.run import Done
from labkit.model.config import PARAMETERS
from labkit.report import Stage, status
from labkit.report.stages.assignment import STAGES, plan
from tests import stage_notebooks

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(path.name for path in FOLDER.glob("*.ipynb"))
#: The statements that a notebook is made of; all logic is in the package.
PLAIN = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
#: Expressions that are logic, too.
LOGIC = (
    ast.Lambda, ast.IfExp, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.NamedExpr,
)  # fmt: skip
#: What a parameter may be: what JSON has. papermill cannot read ``str | None``.
JSON_TYPE = re.compile(r"(str|int|float|bool|list)|Optional\[(str|int|float|bool|list)\]")
#: What a person may want to say of every stage: which lab, and where its files are.
EVERYWHERE = ("lab_name", "netns", "outputs", "state", "cache", "run")


def read(name: str) -> dict[str, Any]:
    """A notebook as JSON."""
    content: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    return content


def sources(name: str, kind: str = "code") -> list[str]:
    """The text of a notebook's cells of one kind."""
    return ["".join(cell["source"]) for cell in read(name)["cells"] if cell["cell_type"] == kind]


def parameters(name: str) -> dict[str, ast.AnnAssign]:
    """The declarations in the cell that is tagged ``parameters``, by name; nothing else is in it."""
    cells = [c for c in read(name)["cells"] if "parameters" in c["metadata"].get("tags", ())]
    assert len(cells) == 1, "exactly one cell is tagged 'parameters'"
    first, *rest = ast.parse("".join(cells[0]["source"])).body
    assert ast.unparse(first) == "from typing import Optional"
    assert all(isinstance(statement, ast.AnnAssign) for statement in rest)
    return {ast.unparse(item.target): item for item in rest if isinstance(item, ast.AnnAssign)}


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
    """Each parameter is annotated with a JSON type, and the lab or a later cell knows it; those that say which lab
    are in every notebook, unset by default."""
    declared = parameters(name)
    later = {node.id for source in sources(name) for node in ast.walk(ast.parse(source))
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}  # fmt: skip
    for parameter, statement in declared.items():
        assert JSON_TYPE.fullmatch(ast.unparse(statement.annotation)), ast.unparse(statement)
        assert parameter in {*PARAMETERS, *later}
    for parameter in EVERYWHERE:
        assert ast.unparse(declared[parameter].value or ast.Constant(0)) == "None"


def test_papermill_tells_what_each_parameter_is_for() -> None:
    """``papermill --help-notebook`` lists every parameter with its type, its default and a sentence, so that none of
    them is "unknown" to it when it is given; one name has one type and one sentence in every notebook."""
    from papermill import inspect_notebook

    told: dict[str, set[str]] = {}
    for name in NOTEBOOKS:
        declared, listed = parameters(name), inspect_notebook(FOLDER / name)
        assert list(listed) == list(declared)
        for parameter, found in listed.items():
            statement = declared[parameter]
            assert found["inferred_type_name"] == ast.unparse(statement.annotation)
            assert ast.literal_eval(found["default"]) == ast.literal_eval(statement.value or "")
            assert len(found["help"]) > 10, parameter
            told.setdefault(parameter, set()).add(str(found))
    assert {parameter: texts for parameter, texts in told.items() if len(texts) > 1} == {}


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_has_no_logic(name: str) -> None:
    """A notebook defines, loops and decides nothing, calls no shell, and imports labkit (and a type) alone."""
    for source in sources(name):
        tree = ast.parse(source)  # a line that begins with ! or % is no Python
        for statement in tree.body:
            assert isinstance(statement, PLAIN), ast.unparse(statement)
        for node in ast.walk(tree):
            assert not isinstance(node, LOGIC), ast.unparse(node)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                modules = [getattr(node, "module", None) or alias.name for alias in node.names]
                assert all(module.split(".")[0] in ("labkit", "typing") for module in modules)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_opens_shows_and_closes_its_stage(name: str) -> None:
    """A notebook opens the stage of its own name, and its last cell closes it; each cell between ends in the one
    thing that it shows: it records it, or computes it of a result's DataFrames and changes nothing. The narrative begins with a title, and names each row of the
    assignment that the stage answers."""
    cells = [source for source in sources(name) if source.strip()]
    stage = name.removesuffix(".ipynb")
    opening = next(n for n, source in enumerate(cells) if f'Stage.open("{stage}", lab)' in source)
    for source in cells[opening + 1 :]:
        last = ast.parse(source).body[-1]
        assert isinstance(last, (ast.Expr, ast.Assign))
        recorded = source.count("stage.record(") + source.count("stage.close(")
        assert recorded == (0 if ".frames[" in source and isinstance(last, ast.Expr) else 1)
    assert cells[-1].strip() == "stage.close()"
    text = sources(name, "markdown")
    assert text[0].startswith("# ")
    bold = " ".join(re.findall(r"\*\*(.+?)\*\*", "\n".join(text)))
    assert set(plan(stage).rows) <= {*re.findall(r"\b[EIR]\d+\b", bold)}


# -- alone, by Jupyter's own programs ------------------------------------------------------------


def by_nbconvert(source: Path, target: Path, lab: Lab) -> Done:
    """``jupyter nbconvert --execute``, with a ``lab.toml`` in a folder above."""
    assert source.parent.with_name("lab.toml").exists()
    words = ("nbconvert", "--to", "notebook", "--execute", str(source), "--output", str(target))
    return launched("jupyter", words, source.parents[1])


def by_papermill(source: Path, target: Path, lab: Lab) -> Done:
    """``papermill -p NAME VALUE``, without a ``lab.toml``: what the notebook declares of the lab."""
    source.parent.with_name("lab.toml").unlink()
    told = {"lab_name": lab.name, "netns": lab.netns, "wiki_port": lab.wiki.port}
    told |= {name: str(getattr(lab, name)) for name in ("outputs", "state", "cache", "run")}
    given = [("-p", name, str(told[name])) for name in parameters(source.name) if name in told]
    words = (str(source), str(target), "--no-progress-bar", *(w for words in given for w in words))
    return launched("papermill", words, source.parents[1])


def launched(program: str, words: tuple[str, ...], project: Path) -> Done:
    """One of Jupyter's programs, in a project's folder; the kernel's files stay there."""
    env = {"PYTHONPATH": str(project), "IPYTHONDIR": str(project / "ipython")}
    here = str(Path(sys.executable).with_name(program))
    return run.run([here, *words], cwd=project, env=env, timeout=600)


@pytest.mark.root
@pytest.mark.parametrize(
    ("stage", "execute"),
    [
        ("01-wiki", by_nbconvert),
        ("02-rootfs", by_papermill),
        ("03-containers", by_nbconvert),
        ("04-network", by_papermill),
        ("05-web", by_nbconvert),
        ("06-balancer", by_nbconvert),
        ("07-report", by_papermill),
        ("08-smallest", by_papermill),
    ],
)
def test_notebook_runs_alone(
    stage: str,
    execute: Callable[[Path, Path, Lab], Done],
    make_lab: Callable[..., Lab],
    tmp_path: Path,
) -> None:
    """On a machine where no stage has run, without the ``labkit`` command: every cell runs and the stage passes."""
    lab = make_lab(**({"requests": 200, "seconds": 2.0} if stage == "06-balancer" else {}))
    project = stage_notebooks.clone(tmp_path / "project", lab).parent
    target = tmp_path / "executed.ipynb"
    done = execute(project / "notebooks" / f"{stage}.ipynb", target, lab)
    assert "unknown parameter" not in done.stderr
    cells = [cell for cell in json.loads(target.read_text())["cells"] if cell["source"]]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert Stage.load(lab, stage).state == "passed"
    assert [path.stem for path in (lab.output_dir / "results").glob("0*.json")] == [stage]
    status.down(lab)  # faster than one container after the other
