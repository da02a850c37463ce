"""Questions about what a server may do: as whom it works, and where it writes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from labkit import cancellation
from labkit.farm.containers import runc
from labkit.farm.containers.overlay import WWW_DATA
from labkit.farm.study import web
from labkit.farm.study.stand import Stand
from labkit.kernel import cgroups
from labkit.kernel.users import inner as inner_user

#: A process that was just made may not have given its rights away yet (seconds).
PATIENCE = 2.0
USERS = {
    False: f"every process is user {WWW_DATA}'s",
    True: f"the first process is user 0's, the others user {WWW_DATA}'s",
}
UNWRITTEN = "nothing outside the folders in memory and the logs"


def users(stand: Stand) -> str:
    """Whose the server's processes are, once it has answered."""
    web.first(stand)
    deadline = time.monotonic() + PATIENCE
    while (said := _users(stand)) not in USERS.values() and time.monotonic() < deadline:
        cancellation.pause(web.PAUSE)
    return said


def written(stands: Sequence[Stand]) -> str:
    """What the containers wrote into their own layers, all questions asked."""
    if all(stand.error for stand in stands if not stand.trial.foreground):
        return "no container began"
    found = sorted({path for stand in stands if not stand.error for path in stand.written()})
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{', '.join(found[:5])}{more}" if found else UNWRITTEN


def _users(stand: Stand) -> str:
    path = f"{runc.cgroup(stand.lab)}/{stand.replica.name}"
    found = [seen for pid in sorted(cgroups.processes(path)) if (seen := _server(pid))]
    first = [user for inner, user in found if inner == 1]
    others = sorted({user for inner, user in found if inner != 1})
    if first == others == [WWW_DATA]:
        return USERS[False]
    if (first, others) == ([0], [WWW_DATA]):
        return USERS[True]
    return f"the first process is user {first}'s, the others users {others}'s"


def _server(pid: int) -> tuple[int, int] | None:
    """The number within its container, and the effective user there, of one of apache2's processes (proc(5))."""
    with suppress(OSError):
        lines = (
            Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
        )
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        if fields["Name"] == "apache2":
            user = inner_user(pid, int(fields["Uid"].split()[1]))
            return int(fields["NSpid"].split()[-1]), user
    return None
