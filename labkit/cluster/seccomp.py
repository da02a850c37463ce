"""A replica's seccomp profile in the format that Docker, containerd and the kubelet read. Pure."""

from __future__ import annotations

import errno
from typing import Any

from labkit.farm.containers import bundle

#: Calls that a Docker before 23, which ignores ``defaultErrnoRet``, has to refuse by ENOSYS explicitly: after EPERM, the C
#: library and apache2 do not fall back on the older call.
NEWER = (
    "clone3", "epoll_pwait2", "fchmodat2", "futex_waitv", "io_uring_setup", "landlock_create_ruleset", "memfd_secret",
    "openat2", "pidfd_open", "process_madvise", "set_mempolicy_home_node",
)  # fmt: skip


def profile(*, errno_of_default: bool = True) -> dict[str, Any]:
    """The profile; without ``errno_of_default`` for a Docker that answers EPERM to all that a profile does not name."""
    found = bundle.seccomp(serving=True)
    if not errno_of_default:
        newer = {"names": list(NEWER), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS}
        found = {**found, "syscalls": [*found["syscalls"], newer]}
    return found
