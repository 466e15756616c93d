"""Which version of an operation runs: the fast one, or the plain reference and why."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

VARIABLE = "MEMLM_KERNELS"
"""Set to ``reference`` in the environment, it forces the plain versions."""


SHARED_MEMORY = 99 << 10
"""Bytes of shared memory that a kernel may take for a block; the least that cards of 2020 and later have."""


def is_fast(operation: str, tensor: Tensor, obstacle: str | None = None) -> bool:
    """Returns whether the fast version of ``operation`` runs; the choice is logged once.

    Args:
        operation: Its name.
        tensor: One of its inputs; its device decides.
        obstacle: Why the fast version cannot serve these inputs, None if it can.
    """
    reason = obstacle_on(tensor.device) or obstacle
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


def obstacle_on(device: torch.device) -> str | None:
    """Returns why no fast version runs on ``device``, None if they do."""
    if os.environ.get(VARIABLE) == "reference":
        return f"{VARIABLE}=reference"
    return _obstacle(device)


@lru_cache
def _obstacle(device: torch.device) -> str | None:
    if device.type != "cuda":
        return f"the device is {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    n_bytes = shared_memory(device)
    if n_bytes < SHARED_MEMORY:
        return (
            f"a block has {n_bytes >> 10} KiB of shared memory on this card, and kernels may take {SHARED_MEMORY >> 10}"
        )
    return None


def shared_memory(device: torch.device) -> int:
    """Returns how much of it a block can have on a CUDA device, bytes."""
    # Cards of AMD have 64 KiB, and torch does not tell.
    return getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 64 << 10)


@lru_cache
def _tell(operation: str, reason: str | None) -> None:
    if reason is None:
        logger.info("%s: Triton kernel", operation)
    else:
        logger.info("%s: plain torch (%s)", operation, reason)
