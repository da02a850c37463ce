"""Sphinx's configuration, and the reference pages that are made from labkit's own code.

``sphinx-build -W docs FOLDER`` builds the pages; a broken link between them is an error.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import get_args

PROJECT = Path(__file__).parents[1]
sys.path.insert(0, str(PROJECT))

import click  # noqa: E402
import typer  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import labkit  # noqa: E402
from labkit.cli import app as commands  # noqa: E402
from labkit.model import config  # noqa: E402

project = "labkit"
author = "The labkit project"
version = release = labkit.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "labkit"
html_copy_source = html_show_sourcelink = False
autodoc_typehints = "none"
autodoc_member_order = "bysource"
add_module_names = False
#: What the code's docstrings refer to has no page of its own where it is private to its room.
suppress_warnings = ["ref.python"]

#: The packages whose doors (``__all__``) are the public API.
ROOMS = ("labkit", "labkit.farm.*", "labkit.wiki.*", "labkit.report")


def configuration() -> Iterator[str]:
    """The page of every key of lab.toml, from the model that reads it."""
    parameters = {key: name for name, key in config.PARAMETERS.items()}
    sections: dict[str, type[config.Section]] = {"": config.Configuration}
    for key, field in config.Configuration.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        if model := next(
            (k for k in kinds if inspect.isclass(k) and issubclass(k, config.Section)), None
        ):
            sections[key] = model
    yield "# Configuration\n"
    yield (
        "The keys of `lab.toml`. Every key has a default. A notebook's parameter, `papermill -p NAME VALUE` or `--set KEY=VALUE` "
        "overrides the file. An unknown key is an error that names the nearest known key.\n"
    )
    meanings = _attribute_docstrings(Path(config.__file__))
    for section, model in sections.items():
        heading = (
            f"`[{section}]`"
            if section and section != "sites"
            else "`[[sites]]`"
            if section
            else "Top level"
        )
        yield f"\n## {heading}\n\n{inspect.getdoc(model)}\n"
        yield "| key | parameter | default | allowed | meaning |\n| --- | --- | --- | --- | --- |"
        for name, field in model.model_fields.items():
            key = f"{section}.{name}" if section else name
            if key in sections and key != "sites":
                continue
            told = f"`{parameters[key]}`" if key in parameters else ""
            yield f"| `{name}` | {told} | {_default(field)} | {_allowed(field)} | {meanings[model.__name__, name]} |"


def _attribute_docstrings(module: Path) -> dict[tuple[str, str], str]:
    """What is written below each attribute of the classes of a module (PEP 257)."""
    found = {}
    for node in ast.parse(module.read_text(encoding="utf-8")).body:
        body = node.body if isinstance(node, ast.ClassDef) else []
        for item, below in itertools.pairwise(body):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
            ):
                found[node.name, item.target.id] = " ".join(below.value.value.split())  # type: ignore[union-attr]
    return found


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, tuple) and value and isinstance(value[0], config.Site):
        value = [site.name for site in value]
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return (
        f"`{list(value) if isinstance(value, tuple) else value!r}`".replace("'", '"')
        if not field.is_required()
        else "–"
    )


def _allowed(field: FieldInfo) -> str:
    """The type of a key, with its bounds, from the JSON schema."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    options = [item for item in schema.get("anyOf", [schema]) if item.get("type") != "null"]
    schema = options[0]
    if "enum" in schema:
        return ", ".join(f"`{item}`" for item in schema["enum"])
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true, false",
        "array": "list",
    }
    said = words.get(schema.get("type", ""), "")
    if low is not None and high is not None:
        said += f", {low:,} to {high:,}"
    return said


def command_pages() -> Iterator[str]:
    """The page of every command, from the command line's own help."""
    yield "# Commands\n\n`labkit COMMAND`, or `./lab COMMAND` in a clone. Each section shows the command's `--help`.\n"
    group = typer.main.get_command(commands)
    every = [{p.name for p in c.params} for c in group.commands.values()]  # type: ignore[attr-defined]
    common = {name for name in set.intersection(*every) if name}
    yield "\n## Options of every command\n\n| option | meaning |\n| --- | --- |"
    yield from _options(
        next(iter(group.commands.values())),
        {p.name or "" for p in next(iter(group.commands.values())).params} - common,
    )  # type: ignore[attr-defined]
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        usage = command.get_usage(click.Context(command, info_name=f"labkit {name}")).removeprefix(
            "Usage: "
        )
        yield f"\n## labkit {name}\n\n`{' '.join(usage.split())}`\n"
        yield f"{inspect.cleandoc(command.help or '')}\n"
        if rows := list(_options(command, common)):
            yield "| option | meaning |\n| --- | --- |"
            yield from rows


def _options(command: click.Command, left_out: set[str]) -> Iterator[str]:
    for option in command.params:
        if option.param_type_name == "option" and option.name not in left_out:
            names = ", ".join(f"`{name}`" for name in option.opts)
            yield f"| {names} | {(getattr(option, 'help', '') or '').replace('|', chr(92) + '|')} |"


def api() -> Iterator[str]:
    """The page of the public functions: the ``__all__`` of each package."""
    yield "# API\n\nThe `__all__` of each package names what is public. Everything else is private to the package.\n"
    for name in _rooms():
        room = importlib.import_module(name)
        yield f"\n## {name}\n\n{inspect.getdoc(room) or ''}\n"
        for public in sorted(getattr(room, "__all__", ())):
            item = getattr(room, public, None) or importlib.import_module(f"{name}.{public}")
            is_module = isinstance(item, ModuleType)
            kind = (
                "module"
                if is_module
                else "class"
                if inspect.isclass(item)
                else "function"
                if callable(item)
                else "data"
            )
            target = item.__name__ if is_module else f"{name}.{public}"
            members = "   :members:\n" if kind in {"module", "class"} else ""
            yield f"\n### {public}\n\n```{{eval-rst}}\n.. auto{kind}:: {target}\n{members}   :no-index:\n```\n"


def _rooms() -> Iterator[str]:
    for pattern in ROOMS:
        if not pattern.endswith(".*"):
            yield pattern
            continue
        folder = PROJECT / pattern.removesuffix(".*").replace(".", "/")
        yield from (
            f"{pattern[:-2]}.{item.parent.name}" for item in sorted(folder.glob("*/__init__.py"))
        )


def layers() -> str:
    """The map of the packages as SVG: one row a layer, as the contracts in pyproject.toml state and test them."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
        "importlinter"
    ]["contracts"]
    found = {c["containers"][0]: c["layers"] for c in contracts if c["type"] == "layers"}
    rows: list[tuple[str, list[str]]] = []
    for layer in found["labkit"]:
        for name in (part.strip() for part in layer.replace(":", "|").split("|")):
            inner = found.get(f"labkit.{name}")
            if inner:
                rows.append((name, inner))
        plain = [
            n.strip()
            for n in layer.replace(":", "|").split("|")
            if f"labkit.{n.strip()}" not in found
        ]
        if plain:
            rows.append(("", [" | ".join(plain)]))
    height, width, top = 34, 760, 10
    parts, y = [], top
    for name, inner in rows:
        for number, layer in enumerate(inner):
            cells = [cell.strip() for cell in layer.split("|")]
            each = (width - 120) / len(cells)
            for place, cell in enumerate(cells):
                x = 110 + place * each
                parts.append(
                    f'<rect x="{x + 3:.0f}" y="{y + 2}" width="{each - 6:.0f}" height="{height - 4}" rx="5" class="{"room" if name else "package"}"/>'
                )
                parts.append(
                    f'<text x="{x + each / 2:.0f}" y="{y + height / 2 + 5:.0f}" text-anchor="middle">{cell}</text>'
                )
            if name and number == 0:
                parts.append(
                    f'<text x="100" y="{y + height / 2 + 5:.0f}" text-anchor="end" class="name">{name}</text>'
                )
            y += height
        y += 8
    style = (
        "text{font:14px sans-serif;fill:#1f2933}.name{font-weight:bold}rect{stroke:#52606d}.package{fill:#e4e7eb}.room{fill:#d9e8f5}"
        "@media(prefers-color-scheme:dark){.name{fill:#e4e7eb}}"
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" role="img"><title>The packages of labkit: each imports only those below it</title><style>{style}</style>{"".join(parts)}</svg>\n'


#: What is made from the code, by the page that it is on.
GENERATED = {
    "reference/configuration": configuration,
    "reference/commands": command_pages,
    "reference/api": api,
}


def generate(_: Sphinx, page: str, source: list[str]) -> None:
    """Puts the text of a generated page, or the map, in the place of what the file has."""
    if page in GENERATED:
        source[0] = "\n".join(GENERATED[page]())
    source[0] = source[0].replace("<!-- map -->", layers())


def setup(app: Sphinx) -> None:
    """Connects the generated pages."""
    app.connect("source-read", generate)
