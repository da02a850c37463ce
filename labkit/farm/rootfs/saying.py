"""How far a program that installs packages is, from what it says. Pure.

Read are debootstrap's own lines (``I: Extracting bash...``), and those of apt and dpkg, which mmdebstrap passes
on. apt's machine-readable ones are not asked for: it closes the file that they go to for dpkg and its scripts
(``APT::Status-Fd=1`` is no standard output for them, and a script that says something there fails).
"""

from __future__ import annotations

import re

from labkit.core.progress import Doing

#: A line that tells of one package, by the phase that it belongs to.
STEPS = {
    "download": re.compile(
        r"I: Retrieving \S+ \S|Get:\d+ (\S+ \S+ \S+ \S+ \S+ \S+|\S+\.deb) \[|download \S+\.deb"
    ),
    "unpack": re.compile(r"I: (Extracting|Unpacking) \S+\.\.\.$|Unpacking \S+ \("),
    "configure": re.compile(r"I: Configuring \S+\.\.\.$|Setting up \S+ \("),
}
#: A line that begins a phase, of which the number of packages is not known yet.
BEGINNINGS = {
    "resolve": re.compile(
        r"I: Resolving|Building dependency tree|I: Retrieving (InRelease|Packages)"
    ),
    "download": re.compile(r"(I: )?downloading|I: Checking component"),
    "unpack": re.compile(r"(I: )?extracting|I: Installing core|I: Unpacking (required|the base)"),
    "configure": re.compile(r"I: installing|configuring|I: Configuring (required|the base)"),
    "leave out": re.compile(r"leaving out"),
}
#: How many packages a transaction has.
NEWLY = re.compile(r"(?:\d+ upgraded, |extracting |downloading )(\d+) (?:newly installed|packages)")


def heard(line: str, before: Doing) -> Doing:
    """What is being done after a line was said."""
    if found := NEWLY.match(line):
        return before.model_copy(update={"done": 0, "total": int(found[1])})
    for phase, pattern in STEPS.items():
        if pattern.match(line):
            return _one_more(before, phase)
    for phase, pattern in BEGINNINGS.items():
        if pattern.match(line) and phase != before.phase:
            return before.model_copy(update={"phase": phase, "done": 0, "total": _total(before)})
    return before


def _one_more(before: Doing, phase: str) -> Doing:
    if phase == before.phase:
        return before.model_copy(
            update={"done": before.done + 1, "total": _at_least(before.total, before.done + 1)}
        )
    return before.model_copy(update={"phase": phase, "done": 1, "total": _total(before)})


def _total(before: Doing) -> int:
    """What was downloaded is what is to be unpacked, and that what is to be configured."""
    return before.total or (before.done if before.phase == "download" else 0)


def _at_least(total: int, done: int) -> int:
    return max(total, done) if total else 0
