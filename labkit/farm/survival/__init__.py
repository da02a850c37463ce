"""Whether a root file system still does its job: asked of real containers, one question at a time."""

from labkit.farm.survival.proof import Probe, probe, prove

__all__ = ["Probe", "probe", "prove"]
