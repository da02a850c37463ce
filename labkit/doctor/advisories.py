"""The security advisories of runC that matter to this lab, and what holds of the installed package."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

from labkit.core import run
from labkit.core.tables import Cell, Table
from labkit.doctor.programs import installed
from labkit.model.lab import Lab

CHANGELOG = Path("/usr/share/doc/runc/changelog.Debian.gz")
#: Ranges of upstream's versions that have a fix: the first with it, and the first beyond ('': none).
NOVEMBER_2025 = (("1.2.8", "1.3~"), ("1.3.3", "1.4~"), ("1.4.0~rc.3", ""))


@dataclass(frozen=True)
class Advisory:
    """An advisory: what an attacker needs, and why this lab does not give it."""

    name: str
    fixed: tuple[tuple[str, str], ...]
    needs: str
    why: str


ADVISORIES = (
    Advisory(
        "CVE-2024-21626", (("1.1.12", ""),),
        "an image or an exec whose working directory is a descriptor that runC leaks (/proc/self/fd/7)",
        "labkit makes the images; every process begins in /",
    ),
    Advisory(
        "CVE-2025-31133", NOVEMBER_2025,
        "a container that replaces another one's /dev/null while runC masks paths with it",
        "no two containers share a folder that they can write, and /dev is read-only",
    ),
    Advisory(
        "CVE-2025-52565", NOVEMBER_2025,
        "a container with a terminal, and one that replaces its /dev/pts/N meanwhile",
        "replicas have no terminal; the trials that have one share no folder that can be written",
    ),
    Advisory(
        "CVE-2025-52881", NOVEMBER_2025,
        "a container that redirects what runC writes into another one's /proc, by a mount that both share",
        "no two containers share a mount that they can write",
    ),
)  # fmt: skip


def look(lab: Lab) -> str:
    """Which advisories the installed runC has fixed, and which not."""
    version = installed().get("runc", "")
    fixed = {item.name: evidence(item, version) for item in ADVISORIES}
    still = [name for name, said in fixed.items() if not said]
    closed = ", ".join(f"{name} ({said})" for name, said in fixed.items() if said) or "none"
    left = f"{', '.join(still)}: this lab is not exposed, see the table advisories"
    return f"runc {version or 'of unknown version'}: fixed {closed}; not fixed {left if still else 'none'}"


def evidence(item: Advisory, version: str) -> str:
    """How it is known that a version of Debian's package has an advisory fixed; '' when it has not."""
    if CHANGELOG.exists() and item.name in gzip.decompress(CHANGELOG.read_bytes()).decode():
        return "by its changelog"
    inside = (
        _is(version, "ge", first) and not (end and _is(version, "ge", end))
        for first, end in item.fixed
    )
    return "by its version" if version and any(inside) else ""


def table() -> Table:
    """What each advisory needs, whether the installed runC has it fixed, and why the lab is not exposed."""
    version = installed().get("runc", "")
    rows: list[dict[str, Cell]] = [
        {
            "advisory": item.name,
            "fixed here": evidence(item, version) or "no",
            "what an attacker needs": item.needs,
            "why this lab is not exposed": item.why,
        }
        for item in ADVISORIES
    ]
    return Table.of("advisories", "Advisories of runC that matter here", rows)


def _is(version: str, than: str, other: str) -> bool:
    """Whether a version compares so (``ge``: it is not older) with another one, by dpkg (deb-version(7))."""
    return run.run(["dpkg", "--compare-versions", version, than, other], ok=(0, 1)).status == 0
