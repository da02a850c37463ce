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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import NamedTuple

from labkit.errors import StateError
from labkit.farm.debian import apt
from labkit.farm.debian.apt import Source
from labkit.farm.debian.depot import AbsentError, Depot
from labkit.farm.debian.packages import parse_relations
from labkit.files import text_of, write_atomically
from labkit.result import Record

#: Priorities that make a package part of every system, by one tool or another.
EVERYWHERE = ("required", "important")
#: What the tools install without being asked.
TOOLS = ("apt", "usr-is-merged", "usrmerge")
FIELDS = re.compile(
    r"^(Package|Version|SHA256|Essential|Priority|Depends|Pre-Depends|Provides): (.*)$", re.M
)


class Needed(Record):
    """The packages that can matter, by name, and the hash of their names, versions and contents."""

    names: tuple[str, ...]
    digest: str


class Offer(NamedTuple):
    """One package as a mirror offers it; ``depends`` has every alternative of every dependency."""

    name: str
    version: str
    hash: str
    everywhere: bool
    depends: tuple[str, ...]
    provides: tuple[str, ...]


def ensure(depot: Depot, source: Source, architecture: str) -> None:
    """The suite's list is in the depot; raises what :func:`labkit.farm.debian.apt.require` raises, and
    :class:`~labkit.farm.debian.depot.AbsentError` offline."""
    if source.in_folder or depot.find(_release_address(source)):
        return
    if not depot.offline:
        apt.require_source(source)
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
    offers = [offer for path in lists for offer in parse(_text(path))]
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
    """The packages in a list (deb-control(5))."""
    for stanza in text.split("\n\n"):
        fields = dict(FIELDS.findall(stanza))
        if "Package" in fields:
            yield _offer(fields)


def closure(offers: Iterable[Offer], asked: Collection[str]) -> list[Offer]:
    """Those that are everywhere or asked for, and all that these may draw in."""
    known: dict[str, list[Offer]] = {}
    for offer in offers:
        for name in (offer.name, *offer.provides):
            known.setdefault(name, []).append(offer)
    every = {offer.name for found in known.values() for offer in found if offer.everywhere}
    waiting = [*every, *TOOLS, *asked]
    done: set[str] = set()
    found: dict[tuple[str, str, str], Offer] = {}
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        for offer in known.get(name, ()):
            found[offer.name, offer.version, offer.hash] = offer
            waiting += [*offer.depends]
    return [found[key] for key in sorted(found)]


def summed(offers: Iterable[Offer]) -> Needed:
    """Their names, and the hash of all that could change what is installed."""
    listed = list(offers)
    lines = [[o.name, o.version, o.hash, o.everywhere] for o in listed]
    return Needed(
        names=tuple(sorted({offer.name for offer in listed})),
        digest=hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:24],
    )


def hashes(release: str) -> dict[str, str]:
    """The SHA-256 of each index in a suite's Release file, by its path below the suite."""
    _, _, section = release.partition("\nSHA256:\n")
    rows = re.findall(r"^ ([0-9a-f]{64}) +\d+ (\S+)$", section, re.M)
    return {path: digest for digest, path in rows}


def _offer(fields: Mapping[str, str]) -> Offer:
    relations = ", ".join(fields[name] for name in ("Pre-Depends", "Depends") if name in fields)
    return Offer(
        name=fields["Package"],
        version=fields.get("Version", ""),
        hash=fields.get("SHA256", ""),
        everywhere=fields.get("Essential") == "yes" or fields.get("Priority") in EVERYWHERE,
        depends=tuple(name for group in parse_relations(relations) for name in group),
        provides=tuple(
            name for group in parse_relations(fields.get("Provides", "")) for name in group
        ),
    )


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


def _text(path: Path) -> str:
    with lzma.open(path) as file:
        return file.read().decode(errors="replace")
