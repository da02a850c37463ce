"""A suite's list of packages: which of them can matter to a root file system, and in which versions.

That is what a root file system is named by. Counted are the packages that every system has
(essential, required and important ones), those asked for, and whatever any of these may need, by
any alternative: a change of another package changes nothing in the root file system.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from labkit.errors import StateError
from labkit.farm.debian import apt
from labkit.farm.debian.apt import Source
from labkit.farm.debian.depot import AbsentError, Depot
from labkit.farm.debian.packages import parse_relations
from labkit.files import text_of, write_atomically
from labkit.result import Record

#: What the tools install without being asked.
TOOLS = ("apt", "usr-is-merged", "usrmerge")
FIELDS = re.compile(r"^(Version|SHA256|Depends|Pre-Depends): (.*)$", re.M)
#: Marks in a package's stanza that make it part of every system.
EVERYWHERE = ("\nEssential: yes\n", "\nPriority: required\n", "\nPriority: important\n")
PROVIDES = re.compile(r"\nProvides: (.*)\n")


class Needed(Record):
    """The packages that can matter, by name, and the hash of their names, versions and contents."""

    names: tuple[str, ...]
    digest: str


class Offer(NamedTuple):
    """One package as a mirror offers it; ``stanza`` is all that its list says of it."""

    name: str
    everywhere: bool
    provides: tuple[str, ...]
    stanza: str

    @property
    def fields(self) -> dict[str, str]:
        """Those of the fields that count."""
        return dict(FIELDS.findall(self.stanza))

    @property
    def depends(self) -> tuple[str, ...]:
        """Every alternative of every dependency, by name."""
        found = self.fields
        relations = ", ".join(found[name] for name in ("Pre-Depends", "Depends") if name in found)
        return tuple(name for group in parse_relations(relations) for name in group)


def ensure(depot: Depot, source: Source, architecture: str, *, kind: str = "the mirror") -> None:
    """The suite's lists are all in the depot; raises what :func:`labkit.farm.debian.apt.require` raises, and
    :class:`~labkit.farm.debian.depot.AbsentError` offline."""
    if source.in_folder:
        return
    if not depot.offline and not depot.find(_release_address(source)):
        apt.require_source(source, kind=kind)
    for component in source.components:
        _packages(depot, source, component, architecture)


def needed(
    depot: Depot, sources: Sequence[Source], architecture: str, asked: Collection[str]
) -> Needed | None:
    """What can matter to a system with the packages ``asked``; None when a list is not in the depot.

    The first time on a list it takes some seconds; the answer is kept.
    """
    here = Depot(depot.folder, offline=True)
    try:
        lists = [_packages(here, s, c, architecture) for s in sources for c in s.components]
    except AbsentError:
        return None
    names = " ".join([*sorted(asked), "", *(path.name for path in lists)])
    kept = depot.folder / "needed" / f"{hashlib.sha256(names.encode()).hexdigest()[:24]}.json"
    with suppress(ValueError):
        return Needed.model_validate_json(text_of(kept) or "")
    with _reading:
        offers = [offer for path in lists for offer in _offers(path)]
    found = summed(closure(offers, asked))
    with suppress(PermissionError):
        write_atomically(kept, found.model_dump_json())
    return found


def date(depot: Depot, source: Source) -> int | None:
    """When the suite's list was made: seconds since 1970, None when it is not in the depot."""
    with suppress(AbsentError):
        text = _release(Depot(depot.folder, offline=True), source)
        if found := re.search(r"^Date: (.+)$", text, re.M):
            return int(parsedate_to_datetime(found[1]).timestamp())
    return None


# -- pure ------------------------------------------------------------------------------------


def parse(text: str) -> Iterator[Offer]:
    """The packages in a list (deb-control(5)); there are tens of thousands, so little is looked at."""
    for stanza in text.split("\n\n"):
        if stanza.startswith("Package: "):
            provides = PROVIDES.search(stanza) if "\nProvides:" in stanza else None
            groups = parse_relations(provides[1]) if provides else ()
            yield Offer(
                name=stanza[len("Package: ") :].partition("\n")[0],
                everywhere=any(mark in stanza for mark in EVERYWHERE),
                provides=tuple(name for group in groups for name in group),
                stanza=stanza,
            )


def closure(offers: Iterable[Offer], asked: Collection[str]) -> list[Offer]:
    """Those that are everywhere or asked for, and all that these may draw in."""
    known: dict[str, list[Offer]] = {}
    waiting = [*TOOLS, *asked]
    for offer in offers:
        for name in (offer.name, *offer.provides):
            known.setdefault(name, []).append(offer)
        if offer.everywhere:
            waiting.append(offer.name)
    done: set[str] = set()
    found: set[Offer] = set()
    while waiting:
        name = waiting.pop()
        if name not in done:
            done.add(name)
            found.update(known.get(name, ()))
            waiting += [other for offer in known.get(name, ()) for other in offer.depends]
    return sorted(found)


def summed(offers: Iterable[Offer]) -> Needed:
    """Their names, and the hash of all that could change what is installed."""
    listed = list(offers)
    lines = [
        (o.name, o.fields.get("Version"), o.fields.get("SHA256"), o.everywhere) for o in listed
    ]
    return Needed(
        names=tuple(sorted({offer.name for offer in listed})),
        digest=hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:24],
    )


def hashes(release: str) -> dict[str, str]:
    """The SHA-256 of each index in a suite's Release file, by its path below the suite."""
    _, _, section = release.partition("\nSHA256:\n")
    rows = re.findall(r"^ ([0-9a-f]{64}) +\d+ (\S+)$", section, re.M)
    return {path: digest for digest, path in rows}


# -- reading ---------------------------------------------------------------------------------


def _release_address(source: Source) -> str:
    return apt.release_url(source.mirror, source.suite)


def _release(depot: Depot, source: Source) -> str:
    return _file(depot, _release_address(source)).read_text(encoding="utf-8", errors="replace")


def _packages(depot: Depot, source: Source, component: str, architecture: str) -> Path:
    """The file with a component's list, as the suite's Release file names it."""
    path = f"{component}/binary-{architecture}/Packages.xz"
    digest = hashes(_release(depot, source)).get(path)
    if digest is None:
        raise StateError(
            _release_address(source),
            f"names no list of the {component} packages for {architecture}",
            "set rootfs.mirror to a mirror that has them",
            code="state.no-list",
        )
    base = f"{source.mirror}/dists/{source.suite}"
    try:
        return _file(
            depot, f"{base}/{component}/binary-{architecture}/by-hash/SHA256/{digest}", digest
        )
    except AbsentError as error:
        if error.status is None:
            with suppress(AbsentError):
                return _file(depot, f"{base}/{path}", digest)
            raise
        return _file(depot, f"{base}/{path}", digest)


def _file(depot: Depot, address: str, digest: str = "") -> Path:
    """A file of a mirror; of one in a folder the file itself."""
    if not address.startswith("file:"):
        path = depot.get(address)
        if digest and not path.name.endswith(digest):
            raise AbsentError(address, 0, "is not what the suite's Release file says")
        return path
    path = Path(address.removeprefix("file://"))
    if not path.is_file():
        raise AbsentError(address, 404, "there is no such file")
    return path


@lru_cache(maxsize=4)
def _offers(path: Path) -> tuple[Offer, ...]:
    """What a list in the depot has; its name tells its content."""
    return tuple(parse(_text(path)))


#: Builds side by side read the same lists: one reads, the others wait.
_reading = threading.Lock()


def _text(path: Path) -> str:
    with lzma.open(path) as file:
        return file.read().decode(errors="replace")
