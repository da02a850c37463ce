"""Reads files, logs and servers' answers that may be hostile: bounded in size, and parsed safely.

What is not a file or is too large is refused with a reason; JSON is parsed by
pydantic's own parser, which ends at 200 nested values and refuses halves of surrogate pairs and numbers of thousands
of digits.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from labkit.errors import StateError

R = TypeVar("R", bound=BaseModel)

#: The most bytes that labkit reads of one file, or of a server's answer.
MOST = 64 * 2**20
#: The bytes of one read: of a file in /proc/sys the kernel refuses to give 4 MiB or more at once.
PART = 1 << 20
#: The longest line that a log can have, in bytes: Apache's, with a request and two headers of 8,190 bytes each
#: (LimitRequestLine, LimitRequestFieldSize), of which every byte is written as ``\\xhh``.
LONGEST = 1 << 17
#: The most kinds of faults that a message lists.
KINDS = 5


class NoJsonError(ValueError):
    """A text is not JSON, or would harm its reader."""


def content(path: Path, most: int = MOST) -> bytes:
    """The bytes of a file.

    :raises OSError: it cannot be opened. :raises ValueError: it is no file, or has more than ``most`` bytes.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would wait for its writer
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise ValueError("is not a file")
    data = bytearray()
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while len(data) <= most and (part := file.read(PART)):
            data += part
    if len(data) > most:
        raise ValueError(f"has more than {most // 1024} KiB; labkit writes smaller files")
    return bytes(data)


def text(path: Path, most: int = MOST) -> str:
    """The text of a file (UTF-8). Raises what :func:`content` raises."""
    return content(path, most).decode()


def parsed(said: str | bytes) -> Any:
    """The value of a JSON text; :class:`NoJsonError` for what is none, is larger than :data:`MOST`, or is made to harm
    its reader."""
    if len(said) > MOST:
        raise NoJsonError(f"has more than {MOST} bytes")
    try:
        return from_json(said)
    except ValueError as error:
        raise NoJsonError(str(error)) from None


def json_of(path: Path) -> Any:
    """The value in a JSON file. Raises what :func:`content` and :func:`parsed` raise."""
    return parsed(content(path))


def json_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object in a JSON file that labkit or a program of its keeps.

    :param remedy: what to do about one that is damaged.
    :raises FileNotFoundError: there is none. :raises StateError: it holds no JSON object.
    """
    try:
        found = json_of(path)
        if not isinstance(found, dict):
            raise ValueError(f"contains {type(found).__name__} instead of a JSON object")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise damaged(path, error, remedy) from None
    return found


def damaged(path: Path, error: Exception, remedy: str, code: str = "state.damaged") -> StateError:
    """The error for a damaged file that labkit keeps."""
    said = str(error).partition("\n")[0] or type(error).__name__
    return StateError(
        str(path), f"is damaged: {said}", remedy, f"head -c 400 {shlex.quote(str(path))}", code=code
    )


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


def _fault(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a record, without any of its text."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "no JSON"
    if not first["loc"]:
        return "no record"
    key = str(first["loc"][0])
    return f"{key}: {first['type']}" if key in model.model_fields else "an unknown key"
