"""Values in the file that they were saved in: neither the device nor the host's memory has to hold them."""

from __future__ import annotations

from torch import Tensor

from memlm.kernels.fetch_rows import reference
from memlm.offload.cached import CachedBank


class MappedBank(CachedBank):
    """Values in a mapped file. A GPU cannot read it, so each call waits until the host has sent what it misses.

    Give it a tensor whose memory is the file's, as safetensors gives.
    """

    def fetch(self, slots: Tensor) -> Tensor:
        """Returns places, as `CachedBank.fetch` does."""
        return reference.fetch_rows(self.hot, self.source, slots)
