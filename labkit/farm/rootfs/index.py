"""A suite's list of packages: which of them can matter to a root file system, and in which versions.

That is what a root file system is named by. Counted are the packages that every system has
(essential, required and important ones), those asked for, and whatever any of these may need, by
any alternative: a change of another package changes nothing in the root file system.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

from labkit.core.files import proven, write_proven
from labkit.farm.rootfs import lists
from labkit.farm.rootfs.apt import Archive, Source
from labkit.farm.rootfs.packages import parse_relations

#: What the tools install without being asked.
TOOLS = ("apt", "usr-is-merged", "usrmerge")
FIELDS = re.compile(r"^(Version|SHA256|Depends|Pre-Depends): (.*)$", re.M)
#: Stands between lists that are kept in one file; no field of a package has it.
APART = "\f"
#: Marks in a package's stanza that make it part of every system.
EVERYWHERE = ("\nEssential: yes\n", "\nPriority: required\n", "\nPriority: important\n")
PROVIDES = re.compile(r"\nProvides: (.*)\n")


class Needed(NamedTuple):
    """The packages that can matter: of each source its list with nothing but these, and the hash of their names,
    versions and contents."""

    digest: str
    listed: tuple[str, ...]


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


def needed(archive: Archive, sources: Sequence[Source], asked: Collection[str]) -> Needed:
    """What can matter to a system with the packages ``asked``.

    The first time on a list it takes some seconds; the answer is kept beside the list.
    """
    names = " ".join([*sorted(asked), "", *(source.digest for source in sources)])
    kept = archive.folder / "needed" / hashlib.sha256(names.encode()).hexdigest()[:24]
    if text := proven(kept):
        digest, *listed = text.split(APART)
        return Needed(digest, tuple(listed))
    with _reading:
        offers = [_offers(archive, source) for source in sources]
    found = closure([offer for some in offers for offer in some], asked)
    few = set(found)
    listed = ["".join(f"{o.stanza.strip()}\n\n" for o in some if o in few) for some in offers]
    value = Needed(summed(found), tuple(listed))
    with suppress(PermissionError):
        write_proven(kept, APART.join([value.digest, *value.listed]))
    return value


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


def summed(offers: Iterable[Offer]) -> str:
    """The hash of all that could change what is installed."""
    lines = [
        (o.name, o.fields.get("Version"), o.fields.get("SHA256"), o.everywhere) for o in offers
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:24]


# -- reading ---------------------------------------------------------------------------------

#: Builds side by side read the same lists: one reads, the others wait.
_reading = threading.Lock()


@lru_cache(maxsize=4)
def _offers(archive: Archive, source: Source) -> tuple[Offer, ...]:
    """What a list has; the source has the hash of its content."""
    return tuple(parse(lists.text(archive, source)))
