"""What the device can do at best, measured in the run whose times are held against it."""

from __future__ import annotations

import torch

from memlm.bench.setting import Draw, Setting
from memlm.bench.timing import N_SETS

COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 25}
SIDE = {"cuda": 8192, "cpu": 512}
"""Of the matrices that are multiplied."""


def measure(setting: Setting) -> dict[str, float]:
    """Returns the rate of a copy (bytes read and written) and of a square matrix product, a second."""
    kind = "cuda" if setting.on_gpu else "cpu"
    n_bytes, side = COPIED_BYTES[kind], SIDE[kind]
    source = torch.zeros(n_bytes, dtype=torch.int8, device=setting.device)
    target = torch.empty_like(source)
    copy = setting.clock.time(lambda _: target.copy_(source))
    draw = Draw(setting)
    left, right = [draw.normal(side, side) for _ in range(N_SETS)], draw.normal(side, side)
    product = setting.clock.time(lambda i: left[i] @ right)
    return {
        "bytes_per_s": 2 * n_bytes / (1e-3 * copy.median_ms),
        "flops_per_s": 2 * side**3 / (1e-3 * product.median_ms),
    }
