"""The report's figures: each is a function ``(lab, result, …) -> labkit.core.result.Figure``.

Each module here draws those of one stage, with :mod:`labkit.report.figures.style`; its functions
are imported below, so that a notebook says ``figures.waterfall(lab, result)``.
"""

from labkit.report.figures.relations import image_relations
from labkit.report.figures.rootfs import variant_sizes, waterfall
from labkit.report.figures.screens import pages
from labkit.report.figures.shrinking import shrinking
from labkit.report.figures.spread import distribution
from labkit.report.figures.stopping import failover
from labkit.report.figures.topology import topology
from labkit.report.figures.traffic import methods, throughput
from labkit.report.figures.treemap import package_map, use_map

__all__ = [
    "distribution",
    "failover",
    "image_relations",
    "methods",
    "package_map",
    "pages",
    "shrinking",
    "throughput",
    "topology",
    "use_map",
    "variant_sizes",
    "waterfall",
]
