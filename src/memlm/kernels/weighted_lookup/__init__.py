"""The weighted sum of the rows of a bank."""

from memlm.kernels.weighted_lookup.reference import weighted_lookup

__all__ = ["weighted_lookup"]
