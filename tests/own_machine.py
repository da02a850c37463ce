"""A machine of one's own to work on: this one's files, in new mount, network and process namespaces.

Whatever a lab makes on *the machine itself* (routes, bridge, packet filter, settings of the network) is made
there, what other people do meanwhile is not seen, and all of it ends with its first process.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

#: What the first process does, which reaps orphans as a machine's does. Others' mounts are let go of:
#: a copy of them would keep their namespaces alive.
FIRST = """
set -e
sed 's/^[^ ]* [^ ]* [^ ]* [^ ]* \\([^ ]*\\) .*/\\1/' /proc/self/mountinfo | grep -E '^/(run|tmp|var/lib/labkit)/' |
    sort --reverse | while read -r place; do umount --lazy "$place" 2>/dev/null || true; done
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir /run/own /run/project
cp --archive /etc /run/etc
mount --bind /run/etc /etc
mount --bind "$1" /run/project
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=1777 tmpfs /var/tmp
ip link set lo up
cd /run/project
shift
set +e
"$@"
exit $?
"""
#: A folder on the machine for the labs' own; it is in memory.
PLACE = Path("/run/own")
#: The project's Python, by the place that the project has there: its own may be in a folder that is not seen.
HERE = Path(__file__).parents[1]
PYTHON = str(
    "/run/project" / Path(sys.executable).relative_to(HERE)
    if Path(sys.executable).is_relative_to(HERE)
    else sys.executable
)
SPACES = ("--mount", "--propagation=private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")  # fmt: skip


def on_it(words: Sequence[str]) -> list[str]:
    """The arguments that run a program, in the project's folder, on a machine of its own."""
    return ["unshare", *SPACES, "--", "sh", "-c", FIRST, "sh", str(HERE), *words]


def python_on_it(module: str, *words: str) -> list[str]:
    """The arguments that run a Python module of the project there."""
    return on_it([PYTHON, "-m", module, *words])
