"""Files that may hold anything, read within bounds: what is no file, too large, or nested too deeply is refused with
a reason, before it takes the memory or the stack of who reads it.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import stat
from itertools import accumulate
from pathlib import Path
from typing import Any

from labkit.errors import StateError

#: The most bytes that labkit reads of one file, and the most lists and objects that may lie in each other.
MOST, DEPTH = 64 * 2**20, 100
#: What an opening and a closing bracket do to the depth.
STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
#: Every byte but brackets and quotation marks.
OTHERS = bytes(sorted(set(range(256)) - {*STEPS, ord('"')}))


def content(path: Path, most: int = MOST) -> bytes:
    """What is in a file.

    :raises OSError: it cannot be opened. :raises ValueError: it is no file, or has more than ``most`` bytes.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe would wait for its writer
    descriptor = os.open(path, flags)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise ValueError("is no file")
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"has more than {most // 1024} KiB, which labkit writes into no such file")
    return data


def text(path: Path, most: int = MOST) -> str:
    """The same as text (UTF-8)."""
    return content(path, most).decode()


def parsed(said: str | bytes) -> Any:
    """The value of a JSON text; :class:`ValueError` for what is none, or nested too deeply."""
    data = said.encode("utf-8", "surrogatepass") if isinstance(said, str) else said
    if data.count(b"[") + data.count(b"{") > DEPTH and depth(data) > DEPTH:
        raise ValueError(f"has more than {DEPTH} lists and objects in each other")
    return json.loads(said)


def depth(data: bytes) -> int:
    """How many lists and objects of a JSON text lie in each other. Pure."""
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, OTHERS)
    outside = b"".join(bare.split(b'"')[::2])
    return max(0, *accumulate(map(STEPS.__getitem__, outside), initial=0))


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
            raise ValueError(f"holds {type(found).__name__} where an object has to be")
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise damaged(path, error, remedy) from None
    return found


def damaged(path: Path, error: Exception, remedy: str, code: str = "state.damaged") -> StateError:
    """The error for a file of labkit's that cannot be read as what it is."""
    said = str(error).partition("\n")[0] or type(error).__name__
    return StateError(
        str(path), f"is damaged: {said}", remedy, f"head -c 400 {shlex.quote(str(path))}", code=code
    )
