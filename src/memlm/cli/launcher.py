"""What a launcher (torchrun, accelerate launch) says of this process. Free of torch, so it can be asked at once."""

from __future__ import annotations

import os


def n_ranks() -> int:
    """Returns how many processes were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Returns which of them this is, from 0."""
    return int(os.environ.get("RANK", "0"))
