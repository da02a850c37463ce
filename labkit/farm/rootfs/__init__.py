"""Builds root file systems for images, each by a named variant, apart from the machine, and keeps them in the cache.

A variant is made by debootstrap, mmdebstrap, debuerreotype or labkit's own assembly.

``build`` makes one or finds it in the cache, ``refresh`` takes the mirror's newest lists of packages, and ``collect``
removes from the cache what no lab uses. :mod:`~labkit.farm.rootfs.variants` names the variants,
:mod:`~labkit.farm.rootfs.apt` the suite and its mirrors. Images and the study also use the parts: ``contents`` (each
file's kind, size and package), ``tree`` and ``shrink`` (smaller ones), ``repository`` and ``sandbox`` (builds without a
network), ``buildplan`` and ``cache_entries`` (what the cache has), ``packages``.
"""

from labkit.farm.rootfs.bootstrap import build, refresh
from labkit.farm.rootfs.buildplan import Rootfs, find, plan
from labkit.farm.rootfs.cache_entries import collect

__all__ = [
    "Rootfs", "apt", "bootstrap", "build", "buildplan", "cache_entries", "collect", "contents", "find", "packages",  # noqa: F822 - its modules
    "plan", "refresh", "repository", "sandbox", "shrink", "tree", "variants",  # noqa: F822 - its modules
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
