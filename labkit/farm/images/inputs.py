"""What an image is made from: the same inputs give the same hashes, whenever and wherever it is built."""

from __future__ import annotations

import hashlib
import json

from labkit.core.tables import Cell, Table
from labkit.farm.images.layers import Layers
from labkit.farm.images.umoci import version
from labkit.farm.rootfs import reproducible
from labkit.farm.rootfs.plans import Rootfs
from labkit.model import sites
from labkit.model.lab import Lab
from labkit.records import Record


class Inputs(Record):
    """All that determines the images' hashes.

    ``packages`` is how many there are in ``web`` and ``listed`` the hash of their names, versions and
    architectures (:func:`labkit.farm.images.layers.fingerprint`); ``sites`` the hash of the sites' files;
    ``date`` the source date that this gives (:mod:`labkit.farm.rootfs.reproducible`, RFC 3339).
    """

    suite: str
    architecture: str
    rootfs: str
    packages: int
    listed: str
    umoci: str
    sites: str
    date: str


def of(lab: Lab, base: Rootfs, common: Layers) -> Inputs:
    """The inputs of the lab's images."""
    files = {site.name: [lab.title(site), sites.files(lab, site)] for site in lab.sites}
    return Inputs(
        suite=base.suite,
        architecture=base.architecture,
        rootfs=f"{base.variant}, {base.origin}",
        packages=common.packages,
        listed=common.listed,
        umoci=version(),
        sites=hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:12],
        date=reproducible.stamp(common.epoch),
    )


def table(value: Inputs) -> Table:
    """The inputs, each by its name in words. Pure."""
    rows: list[dict[str, Cell]] = [
        {"input": "suite and architecture", "value": f"{value.suite}, {value.architecture}"},
        {"input": "root file system", "value": value.rootfs},
        {"input": "packages and their versions", "value": f"{value.packages}, {value.listed}"},
        {"input": "umoci", "value": value.umoci},
        {"input": "the sites' files", "value": value.sites},
        {"input": "source date (the youngest file of a package)", "value": value.date},
    ]
    return Table.of("inputs", "What determines the hashes: the same gives the same again", rows)
