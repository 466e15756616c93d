"""Preflight: what must hold of a model before it is worth training, tried on a small copy of it.

`preflight` runs every check and reports; `require` refuses models with a fault.
"""

from memlm.train.preflight.findings import Fault, Outcome, Report, require
from memlm.train.preflight.runner import CHECKS, preflight

__all__ = ["CHECKS", "Fault", "Outcome", "Report", "preflight", "require"]
