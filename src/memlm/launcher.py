"""What a launcher (torchrun, accelerate launch) says of this process. Free of torch, so it can be asked at once."""

from __future__ import annotations

import os

from memlm.errors import RunError


def n_ranks() -> int:
    """Returns how many processes were started together; raises RunError as `_whole_number` does."""
    return _whole_number("WORLD_SIZE", 1)


def rank() -> int:
    """Returns which of them this is, from 0; raises RunError as `_whole_number` does."""
    return _whole_number("RANK", 0)


def _whole_number(variable: str, least: int) -> int:
    """Returns what the launcher has put there; ``least`` where there was none.

    Raises:
        RunError: it is no whole number, or too small a one.
    """
    text = os.environ.get(variable, str(least))
    if not text.isdecimal() or int(text) < least:
        raise RunError(
            f"{variable} is {text!r} in the environment, and must be a whole number, {least} or more; let torchrun or "
            f"accelerate launch set it, or unset it: env -u {variable} memlm ..."
        )
    return int(text)
