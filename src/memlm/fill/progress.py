"""Telling how far a long piece of work is."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

EVERY_S = 10.0
"""Seconds between two lines."""


def told(stage: str, steps: Iterable[T], total: int) -> Iterator[T]:
    """Yields the steps of a stage; where it takes long, a line says every now and then what is left."""
    start = last = time.monotonic()
    for done, step in enumerate(steps):
        now = time.monotonic()
        if done and now - last >= EVERY_S:
            last, left = now, (now - start) / done * (total - done)
            logger.warning("filling the bank, %s: %d of %d, about %.0f s left", stage, done, total, left)
        yield step
