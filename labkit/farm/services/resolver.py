"""Programs that resolve names by the lab's own name server, while nothing in /etc changes.

A program is started in a mount namespace of its own in which the lab's ``resolv.conf`` lies over
``/etc/resolv.conf``; the mount ends with the program (mount_namespaces(7)).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from labkit.core.files import text_of, write_atomically
from labkit.core.run import inside
from labkit.model.lab import Lab, resolv_conf

#: The one fixed shell text: its words are positional arguments, never part of it.
_OVERLAID = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'


def folder(lab: Lab) -> Path:
    """Where the name server's files are."""
    return lab.run_dir / "dns"


def command(lab: Lab, argv: Sequence[str], *, unshare: Sequence[str] = ()) -> list[str]:
    """The argument list that runs ``argv`` on the host's side with the lab's names.

    ``unshare`` are further options of unshare(1): more namespaces of the program's own.
    """
    file = str(folder(lab) / "resolv.conf")
    overlaid = ["sh", "-c", _OVERLAID, file, *argv]
    return inside(["unshare", "--mount", *unshare, "--", *overlaid], lab.netns)


def script(lab: Lab, argv: Sequence[str] = (), *, unshare: Sequence[str] = ()) -> str:
    """A shell script that runs ``argv`` and its own arguments as :func:`command` does."""
    return f'#!/bin/sh\nexec {shlex.join(command(lab, argv, unshare=unshare))} "$@"\n'


def with_dns(lab: Lab) -> Path:
    """The script that runs any program with the lab's names: ``with-dns getent hosts site1.lab.test``."""
    return folder(lab) / "with-dns"


def files(lab: Lab) -> tuple[tuple[Path, str, int], ...]:
    """Path, text and mode of the files for programs that resolve by the lab's server. Pure."""
    return (
        (folder(lab) / "resolv.conf", resolv_conf(lab), 0o644),
        (with_dns(lab), script(lab), 0o755),
    )


def write(lab: Lab) -> bool:
    """``resolv.conf`` and ``with-dns`` are in the name server's folder; whether one had to change."""
    stale = [item for item in files(lab) if text_of(item[0]) != item[1]]
    for path, text, mode in stale:
        write_atomically(path, text, mode=mode)
    return bool(stale)
