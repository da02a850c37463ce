"""The report's figures: each is a function ``(lab, result, …) -> labkit.result.Figure``.

Each module here draws those of one stage, with :mod:`labkit.report.figures.style`; its functions
are imported below, so that a notebook says ``figures.package_sizes(lab, result)``.
"""

from labkit.report.figures.relations import image_relations
from labkit.report.figures.rootfs import package_sizes, variant_sizes

__all__ = ["image_relations", "package_sizes", "variant_sizes"]
