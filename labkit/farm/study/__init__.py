"""Root file systems explained, compared, and made smaller by steps that are probed in throw-away containers.

``explain`` gives every byte of a root file system an owner, ``difference`` every byte between two a cause, and
``compare`` sets several side by side. ``unneeded`` names the packages that a web server's container does not use.
``shrink`` reports the steps to the smallest root file system, and ``probe`` asks containers on an image all that
serving needs.
"""

from labkit.farm.study.ablation import shrink
from labkit.farm.study.comparison import compare
from labkit.farm.study.probes import probe
from labkit.farm.study.sizes import difference, explain
from labkit.farm.study.usage import unneeded

__all__ = ["compare", "difference", "explain", "probe", "shrink", "unneeded"]


def __dir__() -> list[str]:
    return __all__
