"""Plans a root file system: the packages that can get into it, and its key and place in the cache.

The key is a hash of everything that determines the content: the tool and its version, the commands, and the packages
that can matter, with their versions. Those are the packages that every system has (essential, required and important
ones), those asked for, and whatever any of these may need, by any alternative: a change of another package changes
nothing in the root file system.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from labkit.core import run
from labkit.core.files import proven, write_proven
from labkit.errors import ConfigError, MachineError, StateError
from labkit.farm.rootfs import apt, commands, packages, variants
from labkit.farm.rootfs.apt import Archive, Source
from labkit.farm.rootfs.cache_entries import recorded, require_space
from labkit.farm.rootfs.packages import parse_relations
from labkit.farm.rootfs.repository import Repository
from labkit.farm.rootfs.variants import Variant
from labkit.model.lab import Lab
from labkit.records import Record

log = logging.getLogger("labkit.rootfs")

#: Goes up with every change of what a build leaves, so that older ones are not taken for it.
EDITION = 4
#: A host of a registry, with or without its port.
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?(:[0-9]{1,5})?")


#: What the tools install without being asked.
TOOLS = ("apt", "usr-is-merged", "usrmerge")
FIELDS = re.compile(r"^(Version|SHA256|Depends|Pre-Depends): (.*)$", re.M)
#: Stands between lists that are kept in one file; no field of a package has it.
APART = "\f"
#: Marks in a package's stanza that make it part of every system.
EVERYWHERE = ("\nEssential: yes\n", "\nPriority: required\n", "\nPriority: important\n")
PROVIDES = re.compile(r"\nProvides: (.*)\n")
#: Builds side by side read the same lists: one reads, the others wait.
_reading = threading.Lock()


class Rootfs(Record):
    """A root file system that was built: its variant, where it is, its packages, size and build time.

    ``bytes`` is what its files weigh (apparent size, hard links once: ``du -sb``), ``cleaned`` what
    the tool had left of downloads and indices and labkit removed, ``seconds`` how long its
    build took when it was built, ``origin`` by what it was made.
    """

    variant: str
    suite: str
    tool: str
    architecture: str
    path: Path
    bytes: int
    cleaned: int
    packages: int
    seconds: float
    origin: str
    key: str


class BuildPlan(NamedTuple):
    """What will be built, and its place in the cache.

    ``archive`` is where the packages of its ``repository`` come from. It is None, and the repository empty, for what is
    pulled from a registry and while the suite's list of packages is not in the cache yet.
    """

    variant: Variant
    suite: str
    architecture: str
    packages: tuple[str, ...]
    registry: str
    archive: Archive | None
    repository: Repository
    origin: str
    key: str
    place: Path

    @property
    def what(self) -> str:
        """How an error names it."""
        return f"root file system {self.variant.name} of {self.suite}"


def require_host(registry: str) -> None:
    """Raises :class:`ConfigError` for what is neither '' nor a host, with or without a port. Pure."""
    if registry and not HOST.fullmatch(registry):
        raise ConfigError(
            f"registry = {registry[:200]!r}",
            "is not the host of a registry",
            "write it like registry.example:5000",
            code="config.registry",
        )


def plan(lab: Lab, variant: str = "", *, registry: str = "") -> BuildPlan:
    """Plans a build: what it would make, from what, and where; asks the machine's package database, not the network."""
    chosen = variants.named(variant) if variant else variants.of_lab(lab)
    require_host(registry)
    suite, architecture = apt.suite(lab), apt.architecture()
    pulled = registry if chosen.image is not None else ""
    program = variants.package_of(chosen, registry=pulled)
    version = program_version(program)
    archive = None if pulled else apt.find_lists(lab)
    extra = tuple(sorted(set(lab.rootfs.packages)))
    recipe = commands.recipe(chosen, suite, extra)
    repository = Repository()
    if archive:
        sources = commands.sources(chosen, archive)
        repository = needed(archive, sources, commands.asked(chosen, extra))
    before = plan(lab, chosen.after).key if not pulled and chosen.after else ""
    key = key_of(
        f"{chosen.name}-{suite}",
        (EDITION, recipe, architecture, before),
        (program, version, lab.rootfs.mirror or apt.kind(lab), pulled, repository.digest, before),
    )
    return BuildPlan(
        variant=chosen,
        suite=suite,
        architecture=architecture,
        packages=extra,
        registry=pulled,
        archive=archive,
        repository=repository,
        origin=f"{'pulled' if pulled else 'built'} with {program} {version}",
        key=key,
        place=lab.cache_dir / "rootfs" / key,
    )


def ready(lab: Lab, variant: str = "", *, registry: str = "") -> BuildPlan:
    """The same, with the suite's list of packages, which is fetched if the cache does not have it.

    :raises BuildError: there is no room to build it; nothing was fetched.
    """
    planned = plan(lab, variant, registry=registry)
    if planned.archive or planned.registry:
        return planned
    run.require(*variants.programs(planned.variant), "nsenter", "cp")
    require_space(lab, planned.place.parent, what=planned.what, space=planned.variant.space)
    apt.ensure_lists(lab)
    known = plan(lab, variant, registry=registry)
    # Without the list's digest it would have the name of something else, and be made of nobody knows what.
    if not known.archive:
        raise StateError(
            planned.what,
            "the suite's list of packages in the cache was replaced while it was read",
            "run it again when no other labkit refreshes the list",
            "labkit refresh --help",
            code="state.list-gone",
        )
    return known


def key_of(name: str, *parts: object) -> str:
    """A folder's name: readable, and another one whenever a part differs."""
    return f"{name}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def program_version(package: str) -> str:
    """The installed version of a Debian package; raises MachineError when it is not installed."""
    version, status = _installed(package, packages.changed(Path("/")))
    if status != "installed":  # the program may be there all the same, of another origin
        raise MachineError(
            package,
            "this Debian package is not installed (dpkg-query)",
            "let `./lab doctor` install what is missing (it reads labkit/debian-packages.txt)",
            f"dpkg-query --show {package}",
            code="machine.no-program",
        )
    return version


def find(planned: BuildPlan) -> Rootfs | None:
    """Finds a planned root file system in the cache; None when it is not there, or its record or files are damaged."""
    return recorded(planned.place, Rootfs, path=planned.place / "rootfs")


@functools.cache
def _installed(package: str, _state: int) -> tuple[str, str]:
    """A package's version and status on this machine, asked once for each state of its database."""
    words = ["dpkg-query", "--show", "--showformat=${Version} ${db:Status-Status}", package]
    version, _, status = run.run(words, ok=(0, 1)).stdout.partition(" ")
    return version, status


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


def needed(archive: Archive, sources: Sequence[Source], asked: Collection[str]) -> Repository:
    """The packages that can matter to a system with the packages ``asked``.

    The first time on a list it takes some seconds; the answer is kept beside the list.
    """
    names = " ".join([*sorted(asked), "", *(source.digest for source in sources)])
    kept = archive.folder / "needed" / hashlib.sha256(names.encode()).hexdigest()[:24]
    if text := proven(kept):
        digest, *listed = text.split(APART)
        return Repository(tuple(sources), tuple(listed), digest)
    with _reading:
        offers = [_offers(archive, source) for source in sources]
    found = closure([offer for some in offers for offer in some], asked)
    few = set(found)
    listed = ["".join(f"{o.stanza.strip()}\n\n" for o in some if o in few) for some in offers]
    value = Repository(tuple(sources), tuple(listed), summed(found))
    with suppress(PermissionError):
        write_proven(kept, APART.join([value.digest, *value.listed]))
    return value


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
    start = [*TOOLS, *asked]
    for offer in offers:
        for name in (offer.name, *offer.provides):
            known.setdefault(name, []).append(offer)
        if offer.everywhere:
            start.append(offer.name)
    names = packages.reachable(
        start, lambda name: [other for offer in known.get(name, ()) for other in offer.depends]
    )
    return sorted({offer for name in names for offer in known.get(name, ())})


def summed(offers: Iterable[Offer]) -> str:
    """The hash of all that could change what is installed."""
    lines = [
        (o.name, o.fields.get("Version"), o.fields.get("SHA256"), o.everywhere) for o in offers
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:24]


@lru_cache(maxsize=4)
def _offers(archive: Archive, source: Source) -> tuple[Offer, ...]:
    """What a list has; the source has the hash of its content."""
    return tuple(parse(apt.list_text(archive, source)))
