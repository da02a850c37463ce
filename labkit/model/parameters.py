"""A notebook's parameters: what its parameters cell, and the one that papermill injects, assign. Pure.

The cells are those that a kernel has executed (IPython's ``In``), which know nothing of the notebook's tags:
the parameters cell is the last one that annotates a parameter (``replicas: Optional[int] = None``).
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType
from typing import NamedTuple

from labkit.model.config import unknown

#: How papermill's own cell begins.
INJECTED = "# Parameters\n"


class Assignment(NamedTuple):
    """An assignment in a cell: the expression, if any, and whether the name has an annotation."""

    value: ast.expr | None
    annotated: bool


def assigned(source: str) -> dict[str, Assignment]:
    """The names that a cell assigns at its top level; raises SyntaxError for a cell that is not Python."""
    found: dict[str, Assignment] = {}
    for node in ast.parse(source).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            annotated = isinstance(node, ast.AnnAssign)
            found |= {name: Assignment(node.value, annotated) for name in names}
    return found


def parameters(
    cells: Sequence[str], namespace: Mapping[str, object], known: Collection[str]
) -> dict[str, object]:
    """The parameters that a notebook gives, with their values in its ``namespace``; where no cell declares any,
    all ``known`` names that have a value there.

    Raises :class:`ConfigError`, with the nearest name, for one that is declared and that nothing knows.
    """
    own, injected = _parameters(cells, known), _injected(cells)
    declared = {name for name, item in own.items() if item.annotated and not _misspelt(name, known)}
    _refuse_unknown(own, {*known, *declared}, "a parameter of the lab or of this notebook")
    _refuse_unknown(injected, own or known, "a parameter of this notebook")
    said = {**own, **injected}
    if not said:
        there = [name for name in known if name in namespace]
        return {name: namespace[name] for name in there if _is_value(namespace[name])}
    return {name: _value(name, said[name], namespace) for name in said if name in known}


def _parameters(cells: Sequence[str], known: Collection[str]) -> dict[str, Assignment]:
    """The assignments of the parameters cell; none without one."""
    for cell in reversed(cells):
        found = {} if "from_parameters(" in cell else _read(cell)
        if any(item.annotated and name in known for name, item in found.items()):
            return found
    return {}


def _injected(cells: Sequence[str]) -> dict[str, Assignment]:
    return next((_read(cell) for cell in reversed(cells) if cell.startswith(INJECTED)), {})


def _read(cell: str) -> dict[str, Assignment]:
    """The assignments of a cell; none for a cell that only IPython understands (``%run``)."""
    try:
        return assigned(cell)
    except SyntaxError:
        return {}


def _refuse_unknown(names: Collection[str], known: Collection[str], what: str) -> None:
    for name in names:
        if name not in known:
            raise unknown(name, {*known}, what)


def _misspelt(name: str, known: Collection[str]) -> bool:
    """Whether a notebook's variable is so similar to a parameter of the lab that it must be a misspelling."""
    return name not in known and bool(difflib.get_close_matches(name, known, 1, 0.85))


def _value(name: str, said: Assignment, namespace: Mapping[str, object]) -> object:
    """The parameter's value; the one in its cell if an import has replaced it meanwhile."""
    value = namespace.get(name)
    if said.value is None or _is_value(value):
        return value
    try:
        return ast.literal_eval(said.value)
    except ValueError:  # computed
        return value


def _is_value(value: object) -> bool:
    """Whether a value can be a parameter: modules and functions (``import requests``) cannot."""
    return not isinstance(value, ModuleType) and not callable(value)
