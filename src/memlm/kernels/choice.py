"""Which version of an operation runs: the fast one, or the plain reference and why."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache

from torch import Tensor

logger = logging.getLogger(__name__)

VARIABLE = "MEMLM_KERNELS"
"""Set to ``reference`` in the environment, it forces the plain versions."""


def is_fast(operation: str, tensor: Tensor, obstacle: str | None = None) -> bool:
    """Returns whether the fast version of ``operation`` runs; the choice is logged once.

    Args:
        operation: Its name.
        tensor: One of its inputs; its device decides.
        obstacle: Why the fast version cannot serve these inputs, None if it can.
    """
    forced = f"{VARIABLE}=reference" if os.environ.get(VARIABLE) == "reference" else None
    reason = forced or _obstacle(tensor.device.type) or obstacle
    _tell(operation, reason)
    return reason is None


@contextmanager
def references() -> Generator[None]:
    """Forces the plain versions while it lasts, in every thread: backward passes run in threads of their own."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "reference"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@lru_cache
def _obstacle(device: str) -> str | None:
    if device != "cuda":
        return f"the device is {device}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


@lru_cache
def _tell(operation: str, reason: str | None) -> None:
    if reason is None:
        logger.info("%s: Triton kernel", operation)
    else:
        logger.info("%s: plain torch (%s)", operation, reason)
