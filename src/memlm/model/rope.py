"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864)."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.library.custom_op("memlm::rotations", mutates_args=())
def rotations(positions: Tensor, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine of every position's angles, [B, 1, T, d_head / 2] each, for ``positions`` [B, T].

    An operation of its own, because a compiler would otherwise compute powers and cosines anew in every layer.
    """
    exponents = torch.arange(0, d_head, 2, device=positions.device, dtype=torch.float32) / d_head
    angles = positions[:, None, :, None].float() * theta**-exponents
    return angles.cos(), angles.sin()


@rotations.register_fake
def _(positions: Tensor, d_head: int, theta: float) -> tuple[Tensor, Tensor]:
    shape = (positions.shape[0], 1, positions.shape[1], d_head // 2)
    return positions.new_empty(shape, dtype=torch.float32), positions.new_empty(shape, dtype=torch.float32)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotates the pairs (i, i + C/2) of ``x`` [B, H, T, C] by the given angles, computed in float32."""
    first, second = x.float().chunk(2, dim=-1)
    rotated = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return rotated.to(x.dtype)
