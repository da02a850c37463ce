"""labkit does a virtualisation lab for real and writes its report from what happened."""

from labkit.checks import Check
from labkit.core.result import Figure, Outcome, Result
from labkit.core.tables import Table
from labkit.errors import LabkitError
from labkit.model.lab import Lab

__all__ = ["Check", "Figure", "Lab", "LabkitError", "Outcome", "Result", "Table"]
__version__ = "0.1.0"
