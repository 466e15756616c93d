"""What a launcher (torchrun, accelerate launch) says of this process. Free of torch, so it can be asked at once."""

from __future__ import annotations

import os

from memlm.errors import FollowerError

MEND = "let torchrun or accelerate launch set it, or unset it: env -u {} memlm ..."


def n_ranks() -> int:
    """Returns how many processes were started together; raises FollowerError as `_whole_number` does."""
    return _whole_number("WORLD_SIZE", 1)


def rank() -> int:
    """Returns which of them this is, from 0; raises FollowerError as `_whole_number` does."""
    return _whole_number("RANK", 0)


def address() -> str:
    """Returns where the processes meet, host:port."""
    return f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"


def is_alone() -> bool:
    """Tells whether no launcher has started this process; one that names no number of processes is none."""
    text = os.environ.get("WORLD_SIZE", "1")
    return not text.isdecimal() or int(text) < 2


def is_first() -> bool:
    """Tells whether this process speaks for all that were started together."""
    text = os.environ.get("RANK", "0")
    return is_alone() or not text.isdecimal() or int(text) == 0


def require_sound() -> None:
    """Refuses what accelerate and torch would end with a traceback at, or wait for without an end.

    Raises:
        FollowerError: a variable is no number that it can be, or is missing. Each rank tells what its own say.
    """
    started = n_ranks()
    if rank() >= started:
        raise FollowerError(
            f"RANK is {rank()} in the environment, and WORLD_SIZE is {started}: ranks are 0 to {started - 1}; "
            + MEND.format("RANK")
        )
    _whole_number("LOCAL_RANK", 0)
    if started == 1:
        return
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(variable):
            raise FollowerError(
                f"WORLD_SIZE is {started} in the environment, and {variable}, where the processes meet, is missing; "
                "start them with torchrun or accelerate launch, or unset it: env -u WORLD_SIZE memlm ..."
            )
    _whole_number("MASTER_PORT", 1)


def _whole_number(variable: str, least: int) -> int:
    """Returns what the launcher has put there; ``least`` where there was none.

    Raises:
        FollowerError: it is no whole number, or too small a one.
    """
    text = os.environ.get(variable, str(least))
    if not text.isdecimal() or int(text) < least:
        raise FollowerError(
            f"{variable} is {text!r} in the environment, and must be a whole number, {least} or more; "
            + MEND.format(variable)
        )
    return int(text)
