"""Notebooks to run: small stages' for the tests of the batch and of the review, and copies of the real ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nbformat

from labkit import Lab
from labkit.report.batch.notebook import lab_file

ROOT = Path(__file__).parents[1]

PARAMETERS = """
from typing import Optional
lab_name: Optional[str] = None
replicas: Optional[int] = None
shown: str = "plain"
"""
OPENING = """
from labkit import Check; from labkit import Lab; from labkit import Outcome; from labkit import Table
from labkit.report import Stage; from labkit.report import figures; from labkit.report.stages import assignment
from labkit.report.figures import style
from labkit.core.result import action
lab = Lab.from_parameters(globals())
stage = Stage.open("{name}", lab)
"""
#: A result with every check that the stage requires, and one for each of its rows.
PROBE = """
wanted = assignment.plan("{name}")
names = [*(name + "x" if name.endswith(".") else name for name in wanted.required), *(f"row.{{row}}" for row in wanted.rows)]
checks = [Check(name=name, expected="1", seen="1", holds=True, rows=wanted.rows, again="true") for name in names]
probe = action("test.probe")(lambda: Outcome(value=shown, summary=f"{{shown}}, {{lab.replicas}} replicas", checks=tuple(checks)))
stage.record(probe())
"""
CLOSING = "stage.close()"


def write(
    folder: Path, name: str, *cells: str, kernel: str = "python3", close: bool = True
) -> Path:
    """A stage's notebook that opens, runs ``cells`` (default: what makes it pass), and closes."""
    v4 = nbformat.v4
    body = cells or (PROBE.format(name=name),)
    made = [
        v4.new_markdown_cell(f"# Stage {name}\n\nWhat is done, and *why*."),
        v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        v4.new_code_cell(OPENING.format(name=name)),
        *(v4.new_code_cell(cell.replace("PROBE", PROBE.format(name=name))) for cell in body),
        *([v4.new_code_cell(CLOSING)] if close else []),
    ]
    spec = {"name": kernel, "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=made, metadata={"kernelspec": spec})
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(notebook, path)
    return path


def clone(folder: Path, lab: Lab) -> Path:
    """The project's notebooks and package in ``folder``, with a ``lab.toml`` of the lab; that file.

    What runs there is neither changed by who edits the project meanwhile, nor writes into it.
    """
    for name in ("notebooks", "labkit"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns(".ipynb_*"))
    shutil.copy2(ROOT / "lab", folder / "lab")
    file = folder / "lab.toml"
    outputs = f"outputs = {json.dumps(str(lab.outputs))}"
    file.write_text(lab_file(lab).replace('outputs = ".."', outputs), encoding="utf-8")
    assert Lab.load(file) == lab
    return file
