"""Why each package of a root file system is there. Pure.

A package was asked for, or is of a kind that the building program takes without being asked
(essential ones always, some priorities according to the program), or is needed by one that is:
then the shortest chain of dependencies says by which. What only a recommendation brings in is
told so; what nothing of this explains, nobody needs any more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from labkit.farm.rootfs import packages, servers
from labkit.farm.rootfs.packages import Package
from labkit.farm.rootfs.variants import Variant
from labkit.records import Record

Ground = Literal["asked for", "essential", "required", "important", "recommended", "nobody"]


class Asked(Record):
    """What a root file system was made from: the packages by name, the ones that count most first,
    and the priorities that were taken whole."""

    packages: tuple[str, ...] = ()
    priorities: tuple[Literal["required", "important"], ...] = ("required",)


#: What mmdebstrap's hook for a merged /usr installs, also where nothing depends on it (trixie).
MERGED = "usr-is-merged"
#: What a program's variant takes without being asked (debootstrap's scripts/debian-common; VARIANTS
#: in mmdebstrap(1); labkit's own tool); essential packages are always taken.
TAKEN: Mapping[tuple[str, str], Asked] = {
    ("debootstrap", ""): Asked(priorities=("required", "important")),
    ("mmdebstrap", "essential"): Asked(packages=("apt", MERGED), priorities=()),
    ("mmdebstrap", "minbase"): Asked(packages=("apt", MERGED)),
    ("dpkg", ""): Asked(packages=(*servers.PACKAGES, "apt"), priorities=()),
    ("dpkg", "shrunk"): Asked(
        packages=("apache2", "apache2-bin", *servers.SSH, "busybox"), priorities=()
    ),
}
MINBASE = Asked(packages=("apt",))


class Why(Record):
    """Why a package is there: the ground on which the first of ``path`` is there, and the packages
    by which that one needs it, itself last."""

    ground: Ground
    path: tuple[str, ...]

    @property
    def text(self) -> str:
        """In words: ``essential: bash → libtinfo6``."""
        if self.ground == "nobody":
            return "nobody needs it any more"
        word = {"required": "priority required", "important": "priority important"}
        ground = word.get(self.ground, self.ground)
        if self.ground == "recommended":
            return f"recommended: {' → '.join(self.path)}"
        return f"{ground}: {' → '.join(self.path)}" if len(self.path) > 1 else ground


def asked(variant: Variant, extra: Sequence[str] = ()) -> Asked:
    """What the program of a variant takes, and ``extra``, for which it was asked."""
    taken = TAKEN.get((variant.tool, variant.mode), MINBASE)
    return Asked(packages=(*extra, *taken.packages), priorities=taken.priorities)


def reasons(listed: Sequence[Package], given: Asked) -> dict[str, Why]:
    """The reason of each package, by its name."""
    by_name = {package.name: package for package in listed}
    names = packages.providers(listed)

    def needs(name: str) -> list[str]:
        return [n for group in by_name[name].depends for n in packages.satisfying(group, names)]

    def wishes(name: str) -> list[str]:
        return [n for group in by_name[name].recommends for n in packages.satisfying(group, names)]

    found: dict[str, Why] = {}
    for package in listed:
        if ground := _own_ground(package, given):
            found[package.name] = Why(ground=ground, path=(package.name,))
    _follow(found, [name for name in given.packages if name in by_name], needs)
    for ground in ("essential", "required", "important"):
        _follow(found, [name for name, why in found.items() if why.ground == ground], needs)
    _recommended(found, needs, wishes)
    nobody = {name: Why(ground="nobody", path=(name,)) for name in by_name if name not in found}
    return found | nobody


def _own_ground(package: Package, given: Asked) -> Ground | None:
    if package.name in given.packages:
        return "asked for"
    if package.essential:
        return "essential"
    return next((word for word in given.priorities if word == package.priority), None)


def _follow(
    found: dict[str, Why], sources: Sequence[str], needs: Callable[[str], list[str]]
) -> None:
    """Adds what ``sources`` need and has no reason yet, nearest first, each by a shortest path."""
    waiting = list(sources)
    seen = {name: found[name] for name in waiting}
    for name in waiting:  # which grows as it is walked
        for other in needs(name):
            if other not in seen:
                why = seen[name]
                seen[other] = Why(ground=why.ground, path=(*why.path, other))
                waiting.append(other)
    for name, why in seen.items():
        found.setdefault(name, why)


def _recommended(
    found: dict[str, Why],
    needs: Callable[[str], list[str]],
    wishes: Callable[[str], list[str]],
) -> None:
    """Adds what packages with a reason recommend, and what that needs in turn."""
    while True:
        wished = {other: name for name in sorted(found) for other in wishes(name)}
        new = {other: name for other, name in wished.items() if other not in found}
        if not new:
            return
        for other, name in new.items():
            found[other] = Why(ground="recommended", path=(name, other))
        _follow(found, list(new), needs)
