"""Reads the installed packages of a root file system, and which package needs which.

They are read from dpkg's database, ``var/lib/dpkg/status`` (deb-control(5), dpkg-query(1)).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core.tables import Cell, Table
from labkit.display import counted
from labkit.errors import StateError
from labkit.records import Record

if TYPE_CHECKING:
    from debian.deb822 import Deb822

#: Where dpkg keeps its database below a root folder.
STATUS = Path("var/lib/dpkg/status")
#: Where debootstrap notes what the archive says of the packages: its priorities are not always the
#: packages' own, and they decide what is taken.
AVAILABLE = Path("var/lib/dpkg/available")
#: How many dependants a table names before it only counts the rest.
NAMED = 6


class Package(Record):
    """One installed package; ``depends`` holds a tuple of alternatives for each dependency
    (Depends and Pre-Depends), without versions and architectures, ``recommends`` likewise;
    ``installed`` is in bytes, ``description`` the line in which Debian says what it is."""

    name: str
    version: str
    architecture: str
    installed: int
    priority: str
    section: str
    essential: bool
    depends: tuple[tuple[str, ...], ...] = ()
    provides: tuple[str, ...] = ()
    recommends: tuple[tuple[str, ...], ...] = ()
    description: str = ""


def read(root: Path) -> tuple[Package, ...]:
    """The installed packages of the root file system ``root``, by name; the priorities are the
    archive's, where debootstrap has noted them."""
    noted = root / AVAILABLE
    try:
        text = (root / STATUS).read_text(encoding="utf-8", errors="replace")
        archive = noted.read_text(encoding="utf-8", errors="replace") if noted.exists() else ""
    except OSError as error:
        raise StateError(
            str(root / STATUS),
            f"cannot be read: {error.strerror}",
            "build it again",
            code="state.unreadable",
        ) from None
    return parse_status(text, parse_priorities(archive))


def changed(root: Path) -> int:
    """When the packages of ``root`` last changed: nanoseconds since 1970, 0 when it has none."""
    try:
        return (root / STATUS).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def parse_status(text: str, priorities: Mapping[str, str] | None = None) -> tuple[Package, ...]:
    """The packages of a dpkg database that are installed, by name; ``priorities`` go before theirs."""
    installed = (s for s in _stanzas(text) if s.get("Status", "").endswith(" ok installed"))
    found = (_package(stanza, priorities or {}) for stanza in installed)
    return tuple(sorted(found, key=lambda package: package.name))


def parse_priorities(text: str) -> dict[str, str]:
    """The priority of each package in an index of packages."""
    return {
        s["Package"]: s["Priority"] for s in _stanzas(text) if "Package" in s and "Priority" in s
    }


def parse_relations(text: str) -> tuple[tuple[str, ...], ...]:
    """``a (>= 1), b:any | c`` as ``(("a",), ("b", "c"))`` (deb-control(5), Depends)."""
    groups = (part for part in text.split(",") if part.strip())
    return tuple(tuple(_bare(name) for name in group.split("|")) for group in groups)


def parse_selections(text: str) -> tuple[str, ...]:
    """The names that ``dpkg --get-selections`` lists as to be installed, without architectures."""
    rows = (line.split() for line in text.splitlines())
    return tuple(sorted(row[0].split(":")[0] for row in rows if row[1:] == ["install"]))


def dependants(packages: Sequence[Package]) -> dict[str, tuple[str, ...]]:
    """For each package the packages of which it satisfies a dependency, by name."""
    needed: dict[str, set[str]] = {package.name: set() for package in packages}
    known = providers(packages)
    for package in packages:
        for group in package.depends:
            for name in satisfying(group, known):
                needed[name].add(package.name)
    return {name: tuple(sorted(users - {name})) for name, users in needed.items()}


def closure(packages: Sequence[Package], roots: Iterable[str]) -> frozenset[str]:
    """The names of the packages that ``roots`` need to be installed, themselves included.

    Of alternatives, all that are installed count; a root that is not installed is left out.
    """
    names = providers(packages)
    known = {package.name: package for package in packages}
    return reachable(
        (name for name in roots if name in known),
        lambda name: [n for group in known[name].depends for n in satisfying(group, names)],
    )


def reachable(start: Iterable[str], leads_to: Callable[[str], Iterable[str]]) -> frozenset[str]:
    """All that one gets to from ``start``, itself included, by what each leads to."""
    found: set[str] = set()
    waiting = list(start)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += leads_to(name)
    return frozenset(found)


def table(packages: Sequence[Package], *, name: str = "packages", title: str = "") -> Table:
    """One row a package, the largest first."""
    users = dependants(packages)
    rows: list[dict[str, Cell]] = [
        {
            "name": package.name,
            "version": package.version,
            "installed": package.installed,
            "priority": package.priority,
            "section": package.section,
            "essential": package.essential,
            "dependants": len(users[package.name]),
            "needed by": naming(users[package.name]),
        }
        for package in sorted(packages, key=lambda package: -package.installed)
    ]
    heading = title or f"{counted(len(packages), 'package')}, the largest first"
    return Table.of(name, heading, rows, units={"installed": "bytes"})


def naming(names: Sequence[str], limit: int = NAMED) -> str:
    """Names with commas between them; of a long list the beginning, and how many more there are."""
    shown = ", ".join(names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def _stanzas(text: str) -> Iterator[Deb822]:
    """The stanzas of a file in the format of deb-control(5)."""
    from debian.deb822 import Deb822  # takes a tenth of a second to import

    return Deb822.iter_paragraphs(text)


def _package(fields: Mapping[str, str], priorities: Mapping[str, str]) -> Package:
    relations = ", ".join(fields[name] for name in ("Pre-Depends", "Depends") if fields.get(name))
    provides = parse_relations(fields.get("Provides", ""))
    return Package(
        name=fields["Package"],
        version=fields.get("Version", ""),
        architecture=fields.get("Architecture", ""),
        installed=int(fields.get("Installed-Size", "0")) * 1024,
        priority=priorities.get(fields["Package"], fields.get("Priority", "optional")),
        section=fields.get("Section", ""),
        essential=fields.get("Essential") == "yes",
        depends=parse_relations(relations),
        provides=tuple(name for group in provides for name in group),
        recommends=parse_relations(fields.get("Recommends", "")),
        description=fields.get("Description", "").partition("\n")[0],
    )


def _bare(relation: str) -> str:
    """A relation's name without version, architecture qualifier or restrictions."""
    return re.split(r"[\s(:\[<]", relation.strip(), maxsplit=1)[0]


def providers(packages: Sequence[Package]) -> dict[str, tuple[str, ...]]:
    """For each real or virtual name, the installed packages that satisfy it."""
    found: dict[str, list[str]] = {}
    for package in packages:
        for name in (package.name, *package.provides):
            found.setdefault(name, []).append(package.name)
    return {name: tuple(dict.fromkeys(names)) for name, names in found.items()}


def satisfying(group: Sequence[str], known: Mapping[str, Sequence[str]]) -> list[str]:
    """The installed packages that satisfy one dependency, by any of its alternatives; ``known`` is what
    :func:`providers` found."""
    return [name for wanted in group for name in known.get(wanted, ())]
