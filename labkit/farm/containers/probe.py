"""Tries what a container must not do, from inside it, and says what came of each attempt.

The machine's own Python runs this file in the container (:func:`labkit.farm.containers.privilege.confined`): it needs nothing
of the image, and knows nothing of labkit.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress


def tried(kind: str, path: str, call: Sequence[int | str]) -> str:
    """What came of one attempt, in a word: 'some', 'nothing', 'done', or the error's name."""
    try:
        if kind == "call":
            return "some" if _called(call) else "nothing"
        flags = os.O_RDONLY if kind == "read" else os.O_WRONLY | os.O_CREAT
        opened = os.open(path, flags, 0o600)
        if kind != "read":
            return "done"
        return "some" if os.read(opened, 16) else "nothing"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "an error")


def _called(call: Sequence[int | str]) -> int:
    """A system call's result; text stands for its address."""
    own = os.getpid()
    words = [word.encode() if isinstance(word, str) else ctypes.c_long(word) for word in call]
    result = int(ctypes.CDLL(None, use_errno=True).syscall(*words))
    if os.getpid() != own:  # clone(2) made a process, and this is it
        os._exit(0)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


if __name__ == "__main__":
    for attempt in json.loads(sys.argv[1]):
        with suppress(BrokenPipeError):
            print(tried(*attempt), flush=True)
