"""What others wrote: lines of logs and answers that come from a container, a client or a server.

Whoever wrote them may have meant harm. They are read in parts of a bounded size and parsed by pydantic's own parser,
which ends at 200 nested values, refuses halves of surrogate pairs and numbers of thousands of digits, and says
all of it by one kind of exception.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

R = TypeVar("R", bound=BaseModel)

#: The longest line that a log can have, in bytes: Apache's, with a request and two headers of 8,190 bytes each
#: (LimitRequestLine, LimitRequestFieldSize), of which every byte is written as ``\\xhh``.
LONGEST = 1 << 17
#: The largest answer of a server, in bytes.
LARGEST = 1 << 26
#: As many different faults are told.
KINDS = 5


def lines(file: BinaryIO, trace: str = "") -> Iterator[str]:
    """The whole lines of a log that contain ``trace``; of one that is longer than :data:`LONGEST` its beginning, of
    one that is being written nothing."""
    part = trace.encode()
    while line := file.readline(LONGEST):
        rest = line
        while not rest.endswith(b"\n"):
            if not (rest := file.readline(LONGEST)):
                return
        if part in line:
            yield line.decode(errors="replace")


def records(texts: Iterable[str], model: type[R]) -> tuple[list[R], Counter[str]]:
    """The texts in JSON that are records of this kind; and how many are not, by what is wrong with them."""
    found: list[R] = []
    bad: Counter[str] = Counter()
    for text in texts:
        try:
            found.append(model.model_validate_json(text))
        except ValidationError as error:
            bad[_fault(error, model)] += 1
    return found, bad


def told(bad: Mapping[str, int]) -> str:
    """Such counts in words, the most frequent first; '' for none. Pure."""
    most = sorted(bad.items(), key=lambda item: (-item[1], item[0]))
    said = [f"{number} × {fault}" for fault, number in most[:KINDS]]
    return ", ".join([*said, *(["others"] if len(most) > KINDS else [])])


def value(text: str | bytes) -> Any:
    """The value of a text in JSON; :class:`ValueError` when it is none, is larger than :data:`LARGEST`, or is made to
    harm its reader."""
    if len(text) > LARGEST:
        raise ValueError(f"has more than {LARGEST} bytes")
    return from_json(text, allow_inf_nan=False)


def _fault(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong, without a word of what the text says."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "no JSON"
    if not first["loc"]:
        return "no record"
    key = str(first["loc"][0])
    return f"{key}: {first['type']}" if key in model.model_fields else "an unknown key"
