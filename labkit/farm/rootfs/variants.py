"""The named variants of root file systems, and the servers that some have. Pure but for :func:`prepare`.

:mod:`labkit.farm.rootfs.commands` has the commands of each variant. ``docker`` and ``docker-slim`` are made as the
official Debian images are: their makers publish debuerreotype(1) and build the images with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from labkit.model.config import unknown
from labkit.model.lab import Lab
from labkit.records import Record

MB = 1_000_000


#: Names of variants that a lab's ``rootfs.tool`` reads in its own way.
BY_TOOL = {
    ("debootstrap", "essential"): "debootstrap",
    ("debootstrap", "mmdebstrap"): "minbase",
    ("mmdebstrap", "minbase"): "mmdebstrap",
}
#: What is installed, and the modules of apache2 that are turned on.
PACKAGES = ("apache2", "openssh-server")
MODULES = ("headers", "include")
#: The packages that have an ssh server.
SSH = ("openssh-server", "dropbear-bin")
#: Folders that the services' start scripts make, with their modes.
FOLDERS: Mapping[str, int] = {"run/apache2": 0o755, "run/lock/apache2": 0o755, "run/sshd": 0o755}


class Variant(Record):
    """One way to make a root file system.

    ``tool`` is the program, ``mode`` its own name for the variant; ``space`` the bytes that must be
    free while it is built; ``after`` the variant that it is made from, '' for none; ``image`` the
    tag's ending of the official image of this kind, None when there is none. One that ``serves`` has
    the farm's servers in it. ``edition`` goes up with every change of what labkit's own tool makes.
    """

    name: str
    tool: Literal["debootstrap", "mmdebstrap", "debuerreotype", "dpkg"]
    mode: str = ""
    about: str
    space: int = 900 * MB
    after: str = ""
    image: str | None = None
    serves: bool = False
    edition: int = 1


VARIANTS: Mapping[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(
            name="debootstrap",
            tool="debootstrap",
            about="debootstrap's default: required and important packages",
        ),
        Variant(
            name="minbase",
            tool="debootstrap",
            mode="minbase",
            about="debootstrap's minbase: required packages and apt",
        ),
        Variant(
            name="mmdebstrap",
            tool="mmdebstrap",
            mode="minbase",
            about="the same set of packages by mmdebstrap",
        ),
        Variant(
            name="essential",
            tool="mmdebstrap",
            mode="essential",
            about="essential packages and apt, without documentation: the farm's base",
        ),
        Variant(
            name="docker",
            tool="debuerreotype",
            about="the base image debian of Docker",
            after="minbase",
            image="",
        ),
        Variant(
            name="docker-slim",
            tool="debuerreotype",
            mode="slim",
            about="the base image debian, slim, of Docker",
            after="docker",
            image="-slim",
        ),
        Variant(
            name="web",
            tool="dpkg",
            about="apache2 and sshd with all of dpkg and apt, without documentation",
            serves=True,
        ),
        Variant(
            name="web-slim",
            tool="dpkg",
            mode="shrunk",
            about="the same servers and a shell, without what administers packages",
            after="web",
            edition=6,
            serves=True,
        ),
        Variant(
            name="smallest-openssh",
            tool="dpkg",
            mode="shrunk",
            about="apache2, sshd and busybox, and what these load",
            after="web",
            edition=6,
            serves=True,
        ),
        Variant(
            name="smallest",
            tool="dpkg",
            mode="shrunk",
            about="apache2, dropbear instead of sshd, and busybox, and what these load",
            after="web",
            edition=6,
            serves=True,
        ),
    )
}  # fmt: skip


def named(name: str) -> Variant:
    """The variant of that name; raises :class:`ConfigError` with the nearest one."""
    if name not in VARIANTS:
        raise unknown(name, VARIANTS, "a variant of a root file system")
    return VARIANTS[name]


def of_lab(lab: Lab) -> Variant:
    """The variant that the lab's containers stand on (``rootfs.tool`` and ``rootfs.variant``)."""
    tool, name = lab.rootfs.tool, lab.rootfs.variant
    return named(BY_TOOL.get((tool, name), name))


def programs(variant: Variant, *, registry: str = "") -> tuple[str, ...]:
    """The programs that its build starts."""
    isolation = ("setpriv", "unshare", "dpkg")
    if registry and variant.image is not None:
        return (*isolation, "skopeo", "umoci")
    own = {
        "debootstrap": ("debootstrap", "wget"),
        "mmdebstrap": ("mmdebstrap",),
        "debuerreotype": ("debootstrap", "debuerreotype-init", "debuerreotype-slimify"),
        "dpkg": ("apt-get", "dpkg-query"),
    }
    return (*isolation, *own[variant.tool])


def package_of(variant: Variant, *, registry: str = "") -> str:
    """The Debian package whose version decides what is built."""
    return "skopeo" if registry and variant.image is not None else variant.tool


def prepare(root: Path) -> None:
    """The folders are there that the servers' own start scripts would make."""
    for name, mode in FOLDERS.items():
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)
    os.chown(root / "run/lock/apache2", *_owner(root / "etc/passwd", "www-data"))


def _owner(passwd: Path, name: str) -> tuple[int, int]:
    """The user and group number of a user in a root file system."""
    rows = (line.split(":") for line in passwd.read_text(encoding="utf-8").splitlines())
    return next((int(row[2]), int(row[3])) for row in rows if row[0] == name)
