"""What is wrong with a configuration, in words: the key, the value, and the nearest known one. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from labkit.errors import ConfigError
from labkit.text import quoted

#: What a check of the configuration complains with: the last part of the error's code, and the words.
Fault = PydanticCustomError
#: The last parts of codes, by pydantic's own kinds of complaints.
KINDS = {
    "greater_than": "range", "greater_than_equal": "range", "less_than": "range", "less_than_equal": "range",
    "too_short": "length", "too_long": "length", "string_too_short": "length", "string_too_long": "length",
    "string_pattern_mismatch": "pattern", "string_unicode": "text", "literal_error": "choice", "missing": "missing-key",
    "extra_forbidden": "unknown-key", "value_error": "value",
}  # fmt: skip


def unknown(name: str, known: Mapping[str, object] | set[str], what: str) -> ConfigError:
    """The error for a name that is none of the known ones; names the nearest."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    guess = f"did you mean {quoted(near[0])}? " if near else ""
    return ConfigError(
        quoted(name),
        f"is not {what}",
        f"{guess}known: {', '.join(sorted(known))}",
        code="config.unknown-name",
    )


def explain(
    error: ValidationError,
    source: str,
    model: type[BaseModel],
    parameters: Mapping[str, object],
    keys: Mapping[str, str],
) -> ConfigError:
    """Pydantic's first complaint about a ``model`` as labkit's own error: read from ``source``, or one of
    the flat ``parameters`` that override it, each the one of ``keys``."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if first["loc"]:
        *path, key = first["loc"]
        where = ".".join(str(part) for part in (*path, key))
    else:  # a check across fields begins with the one that it is about
        path, (where, _, reason) = [], reason.partition(": ")
        key = where
    for name, value in parameters.items():
        if value is not None and f"{where}.".startswith(f"{keys[name]}."):
            source = f"the parameter {name}"
    if first["type"] == "extra_forbidden":
        wrong = unknown(str(key), _section(model, path).model_fields, "a known key")
        return ConfigError(
            f"{where} in {source}", wrong.reason, wrong.remedy, code="config.unknown-key"
        )
    plain = isinstance(first["input"], (str, int, float, bool, tuple)) or first["input"] is None
    given = f" = {without_password(quoted(first['input']))}" if plain else ""
    return ConfigError(
        f"{where}{given} in {source}", reason, "correct this value", code=_code(first["type"])
    )


def without_password(text: str) -> str:
    """A text in which no address shows who may get in there."""
    return re.sub(r"(?<=://)[^/@\s]+@", "...@", text)


def _code(kind: str) -> str:
    """The code of pydantic's own kinds of complaints; a :data:`Fault` has its own."""
    if kind.endswith(("_type", "_parsing")):
        return "config.type"
    return f"config.{KINDS.get(kind, kind)}"


def _section(model: type[BaseModel], path: Sequence[str | int]) -> type[BaseModel]:
    """The model that a path of keys and places leads to: ``("sites", 0)`` is a :class:`Site`."""
    for key in path:
        if isinstance(key, str):
            kind: Any = model.model_fields[key].annotation
            model = kind if isinstance(kind, type) else get_args(kind)[0]
    return model
