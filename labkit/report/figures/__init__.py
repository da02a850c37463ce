"""The report's figures: each function draws a result, ``figures.waterfall(lab, result)``, and returns a Figure.

A figure is a PNG and an SVG under ``outputs/…/figures`` with alt text and a caption; :mod:`labkit.report.figures.style`
says how all of them look.
"""

from labkit.report.figures.diagrams import image_relations, topology
from labkit.report.figures.rootfs import shrinking, variant_sizes, waterfall
from labkit.report.figures.screenshots import pages
from labkit.report.figures.traffic import distribution, failover, methods, swarm, throughput
from labkit.report.figures.treemap import package_map, use_map

__all__ = [
    "distribution", "failover", "image_relations", "methods", "package_map", "pages", "shrinking", "swarm",
    "throughput", "topology", "use_map", "variant_sizes", "waterfall",
]  # fmt: skip


def __dir__() -> list[str]:
    return __all__
