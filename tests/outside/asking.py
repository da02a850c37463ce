"""Other people's programs, run as a person would in a shell: labkit's own ways to programs are not used."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
    "HOME": "/root",
}  # fmt: skip


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skips a test where one of these programs cannot be had."""
    lacking = [name for name in programs if shutil.which(name, path=ENVIRONMENT["PATH"]) is None]
    return pytest.mark.skipif(bool(lacking), reason=f"not on this machine: {', '.join(lacking)}")


def said(*words: str | os.PathLike[str], netns: str = "", fails: bool = False, **more: str) -> str:
    """What a program writes, on both outputs, in a named network namespace (by iproute2); it has to end well, or
    with ``fails`` not to."""
    into = ["ip", "netns", "exec", netns] if netns else []
    done = subprocess.run(
        [*into, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**ENVIRONMENT, **more},
        cwd="/",
        stdin=subprocess.DEVNULL,
        check=False,
    )
    text = done.stdout + done.stderr
    assert bool(done.returncode) is fails, f"{' '.join(map(str, words))}: {done.returncode}\n{text}"
    return text


def status(pid: int) -> dict[str, str]:
    """What the kernel says of a process (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}
