"""Notebooks read from files, and those of a stage's last run.

A person may have edited one, and a program may have cut one short: what is not a notebook, or not as labkit signed
it, is not shown to anybody as that stage's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from labkit import reading
from labkit.model.lab import Lab
from labkit.report.stages import signing
from labkit.report.stages.record import StageRecord

#: A text in a notebook's file: whole, or line by line.
Text = str | list[str]


class _Stream(BaseModel):
    output_type: Literal["stream"]
    text: Text


class _Error(BaseModel):
    output_type: Literal["error"]
    ename: str
    evalue: str
    traceback: list[str]


class _Shown(BaseModel):
    output_type: Literal["display_data", "execute_result"]
    data: dict[str, Text | dict[str, Any]]


class _Metadata(BaseModel):
    tags: list[str] = []
    execution: dict[str, Any] = {}


class _Cell(BaseModel):
    cell_type: str
    source: Text
    metadata: _Metadata = _Metadata()
    execution_count: int | None = None
    outputs: list[Annotated[_Stream | _Error | _Shown, Field(discriminator="output_type")]] = []
    attachments: dict[str, dict[str, Text]] = {}

    @model_validator(mode="after")
    def _has_outputs(self) -> _Cell:
        if self.cell_type == "code" and "outputs" not in self.model_fields_set:
            raise ValueError("a code cell without its list of outputs")
        return self


class _Notebook(BaseModel):
    cells: list[_Cell]
    metadata: dict[str, Any] = {}


def read(path: Path) -> dict[str, Any] | None:
    """The notebook (nbformat 4) in a file as JSON; None when there is none, or what is there is none."""
    try:
        content: dict[str, Any] = reading.json_of(path)
        _Notebook.model_validate(content)
    except (OSError, ValueError):
        return None
    return content


def file(lab: Lab, stage: str, ending: str = "ipynb") -> Path:
    """Where the executed notebook of a stage's last passed run is (``failed.ipynb``: of a later failure)."""
    return lab.output_dir / "notebooks" / f"{stage}.{ending}"


def of(lab: Lab, record: StageRecord) -> dict[str, Any] | None:
    """The executed notebook of the record's run; None when it was not kept, or is not as labkit signed it."""
    path = file(lab, record.stage, "ipynb" if record.state == "passed" else "failed.ipynb")
    data = signing.read(lab, f"notebooks/{path.name}")
    found: dict[str, Any] | None = reading.parsed(data) if data else None
    return found
