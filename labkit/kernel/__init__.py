"""Asks the kernel directly, without another program: namespaces, links, control groups, processes, user ids.

``calls`` has the system calls that Python lacks, ``netns`` named network namespaces, ``links`` their links, addresses,
routes and neighbours through pyroute2, ``users`` user namespaces, ``cgroups`` control groups, and ``proc`` what /proc tells.
"""

from labkit.kernel import calls, cgroups, links, netns, proc, users

__all__ = ["calls", "cgroups", "links", "netns", "proc", "users"]


def __dir__() -> list[str]:
    return __all__
