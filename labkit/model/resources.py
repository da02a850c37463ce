"""Resources: the parts of a farm, each with facts that are wanted and observed. Pure.

A kind has the same facts on both sides. A fact that is not known yet (the content of a root file system whose image has
not been built) is left out of the wanted side; one that could not be observed (the namespace of a container that does
not run) out of the observed side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from pydantic import Field

from labkit.records import Record

#: The kinds of resources, in the order in which they are made; they are removed in the opposite one.
KINDS = (
    "namespace", "route", "firewall", "bridge", "image", "keys", "link", "root", "container", "names", "balancer",
)  # fmt: skip
#: The kinds that :func:`labkit.farm.reconcile.up.replicas` sees to: all but the two servers in front of them.
FARM = KINDS[:-2]


class Resource(Record):
    """One part of the farm: ``facts`` by name, and the ids of the resources that it ``needs``."""

    kind: str
    name: str
    facts: dict[str, str]
    needs: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """``container red-1``: unique within a lab."""
        return f"{self.kind} {self.name}"


class Known(Record):
    """What of the wanted side only the machine can tell: the Debian suite that '' stands for, the versions of
    the programs that images are made by ('' where that need not be asked) and, for each replica whose image is there, the fingerprint of its root file system's parts (``roots``), the one
    that its configuration names (``configurations``), and that of the whole config.json (``files``)."""

    suite: str = ""
    tools: str = ""
    roots: dict[str, str] = Field(default_factory=dict)
    configurations: dict[str, str] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict)


def fingerprint(*texts: str) -> str:
    """12 hexadecimal digits of the hash of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def listed(items: Iterable[object]) -> str:
    """A fact with several values, sorted; 'none' without any."""
    return ", ".join(sorted(map(str, items))) or "none"


def of_kinds(resources: Iterable[Resource], kinds: Sequence[str]) -> tuple[Resource, ...]:
    """The resources of some kinds."""
    return tuple(item for item in resources if item.kind in kinds)
