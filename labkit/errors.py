"""Every error that labkit raises, in one tree.

::

    LabkitError
    ├── ConfigError       a value of lab.toml, a notebook parameter or an option
    ├── MachineError      the machine lacks something: root, a program, overlayfs, space, a free port
    ├── CommandError      another program answered with a status that was not expected
    │   └── CommandTimeoutError   ... or did not answer in time
    ├── StateError        a file that labkit keeps is damaged or belongs to something else
    │   └── LockError         another labkit works on the same lab
    ├── BuildError        a root file system or an image could not be made
    ├── FarmError         containers, network, DNS, proxy or traffic
    ├── WikiError         the wiki is down, refuses, or holds something unexpected
    └── StageError        a notebook did not run, or did not hold what it must

Each carries what was asked (``value``), why it cannot be done (``reason``), what to do about it
(``remedy``), a command that shows it (``again``) and a ``code`` that stays the same when the words
change: its first part is the error's kind, its second one what went wrong (``machine.port-taken``).
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def typed(argv: Sequence[str]) -> str:
    """A command as one would type it into a shell; the interpreter that runs labkit is ``python``,
    wherever on this machine it is."""
    return shlex.join("python" if word == sys.executable else word for word in argv)


def with_sudo() -> str:
    """The remedy for a command that needs root, with the program's path: sudo's own search path does not have
    the programs of an activated environment."""
    program = Path(sys.argv[0])
    if program.name != "labkit":
        return "run it with sudo, or in a root shell"
    return f"run it with sudo: {shlex.join(['sudo', str(program.absolute()), *sys.argv[1:]])}"


def excerpt(text: str, most: int = 800) -> str:
    """Another program's output in at most ``most`` characters: its beginning and its end."""
    text = text.strip()
    half = (most - 3) // 2
    return text if len(text) <= most else f"{text[:half]} … {text[-half:]}"


class LabkitError(Exception):
    """The base class: what was asked, why it cannot be done, and the remedy.

    ``again`` is a command that shows it; ``code`` is this error's fixed name, for programs.
    """

    code = "labkit.error"

    def __init__(
        self, value: str, reason: str, remedy: str = "", again: str = "", *, code: str = ""
    ) -> None:
        self.value = value
        self.reason = reason
        self.remedy = remedy
        self.again = again
        self.code = code or type(self).code
        super().__init__(value, reason, remedy, again)

    @property
    def record(self) -> dict[str, str]:
        """The same for a program."""
        names = ("code", "value", "reason", "remedy", "again")
        return {name: str(getattr(self, name)) for name in names}

    def __str__(self) -> str:
        lines = [f"{self.value}: {self.reason}"]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        if self.again:
            lines.append(f"  see it: {self.again}")
        lines.append(f"  code: {self.code}")
        return "\n".join(lines)


class ConfigError(LabkitError):
    """A value of the configuration cannot be used; nothing was changed."""


class MachineError(LabkitError):
    """The machine lacks something that the lab needs."""


#: Programs that only prepare the environment of the program after ``--``.
AROUND = ("nsenter", "setpriv", "unshare", "setsid")
#: The remedy for a program that a signal ended, unless its caller has a better one.
ENDED = (
    "another program ended it, or the kernel did because memory ran out (see dmesg): run this again"
)
#: The remedy for a program that ended with an error.
REFUSED = "correct what its message says; the command below shows the message again"


class CommandError(LabkitError):
    """A program ended with a status that its caller did not expect.

    ``status`` is the exit status, negative when a signal ended it (-9: SIGKILL); ``stderr`` what
    the program wrote to its standard error.
    """

    code = "command.failed"

    def __init__(
        self, argv: Sequence[str], status: int, stderr: str = "", remedy: str = ""
    ) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr
        ended = f"signal {-status}" if status < 0 else f"exit status {status}"
        said = excerpt(stderr, 2000)
        super().__init__(
            typed([_meant(self.argv)]),
            f"{ended}{': ' + said if said else ', with nothing on its standard error'}",
            remedy or (ENDED if status < 0 else REFUSED),
            typed(self.argv),
        )


def _meant(argv: Sequence[str]) -> str:
    """The program that the caller meant, behind those of :data:`AROUND`. Pure."""
    while argv[0] in AROUND and "--" in argv[:-1]:
        argv = argv[argv.index("--") + 1 :]
    return argv[0]


class CommandTimeoutError(CommandError):
    """A program did not end within its time and was killed."""

    code = "command.timeout"

    def __init__(self, argv: Sequence[str], seconds: float, stderr: str = "") -> None:
        self.seconds = seconds
        said = f"killed because it did not end within {seconds:g} s. {stderr}".strip()
        super().__init__(argv, -9, said, "run that command alone to see where it hangs, then run this again")  # fmt: skip


class StateError(LabkitError):
    """A file that labkit keeps is damaged, or a name is taken by something that labkit did not make."""


class LockError(StateError):
    """Another labkit holds the lock of this lab."""


class BuildError(LabkitError):
    """A root file system or an image could not be made; nothing half-made is left in the cache."""


class FarmError(LabkitError):
    """A container, the network, the DNS, the proxy or the traffic is not as asked."""


class WikiError(LabkitError):
    """The wiki is down, refuses, or holds something that labkit will not touch."""


class StageError(LabkitError):
    """A stage's notebook did not run to its end, or a required check does not hold."""


#: The operating system's errors that a person can act on: the end of labkit's code, and the remedy.
SYSTEM: Mapping[int, tuple[str, str]] = {
    errno.ENOSPC: ("disk-full", "free space on that disk (df -h)"),
    errno.EDQUOT: ("disk-full", "free space: the account's quota is used up"),
    errno.EROFS: ("read-only", "choose a folder on a disk that is not read-only"),
    errno.EACCES: ("not-allowed", "run it with sudo, or choose a folder that you own"),
    errno.EPERM: ("not-allowed", "run it with sudo"),
    errno.ENOTDIR: ("in-the-way", "move away the file that is in the place of a folder"),
    errno.EEXIST: ("in-the-way", "move away the file that is in the place of a folder"),
    errno.EISDIR: ("in-the-way", "move away the folder that is in the place of a file"),
}


def of_system(error: OSError, path: str = "") -> MachineError:
    """The error for what the operating system refuses; ``path`` is the place when ``error`` names none."""
    place = _in_the_way(str(error.filename or path))
    code, remedy = SYSTEM.get(error.errno or 0, ("system", "look at it with the command below"))
    return MachineError(
        place or "the system",
        error.strerror or str(error),
        f"{remedy}; lab.toml sets the folders: state, cache, run, outputs",
        f"ls -lad {shlex.quote(place)}" if place else "df -h",
        code=f"machine.{code}",
    )


def _in_the_way(path: str) -> str:
    """The file that is in the place of one of the path's folders; the path itself when there is none."""
    parts = (Path(path), *Path(path).parents) if path else ()
    there = next((part for part in parts if os.path.lexists(part)), None)
    return str(there) if there and not there.is_dir() else path
