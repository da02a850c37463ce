"""The report: stages and their records, figures, the batch, the review site."""

from labkit.report import figures, stages
from labkit.report.stages import Stage

__all__ = ["Stage", "figures", "stages"]
