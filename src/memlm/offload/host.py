"""Values in the host's memory, which a GPU reads through PCIe."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from memlm.kernels.fetch_rows import fetch_rows
from memlm.offload.cached import HOT_SHARE, ROOM, CachedBank


class HostBank(CachedBank):
    """Values in the host's memory. The GPU's own kernels read the rows that it misses, so nothing waits for the host.

    Args:
        values: The values, [S, d_value], on the CPU; for a GPU they are copied to pages that stay in memory.
        device: Where they are read.
        hot_share: Share of the rows that the device keeps.
        room: Rows that one call may miss.
    """

    def __init__(self, values: Tensor, device: torch.device, hot_share: float = HOT_SHARE, room: int = ROOM) -> None:
        super().__init__(values.pin_memory() if device.type == "cuda" else values.contiguous(), device, hot_share, room)
        self._seen = _on_gpu(self.source) if device.type == "cuda" else self.source

    def fetch(self, slots: Tensor) -> Tensor:
        """Returns places, as `CachedBank.fetch` does."""
        return fetch_rows(self.hot, self._seen, slots)


class _Pages:
    """Pinned memory as CUDA's array interface tells it; a GPU addresses it as the host does."""

    def __init__(self, pinned: Tensor) -> None:
        n_rows, width = pinned.shape
        shape = (n_rows, width * pinned.element_size())
        self.__cuda_array_interface__: dict[str, Any] = {
            "data": (pinned.data_ptr(), False),
            "shape": shape,
            "typestr": "|u1",
            "version": 3,
        }


def _on_gpu(pinned: Tensor) -> Tensor:
    """Returns the same memory as a tensor of the GPU."""
    seen = torch.as_tensor(_Pages(pinned), device="cuda").view(pinned.dtype)
    assert seen.data_ptr() == pinned.data_ptr(), "it is the same memory, not a copy"
    return seen
