"""The hidden state and the scaled values beside it, in plain torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def gather_joined(hidden: Tensor, values: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
    """Returns [..., D + R * d] in the dtype of ``hidden`` [..., D]; ``slots`` and ``scales`` are [..., R]."""
    rows = F.embedding(slots, values) * scales[..., None]
    return torch.cat([hidden, rows.flatten(-2).to(hidden.dtype)], dim=-1)
