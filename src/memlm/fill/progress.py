"""Telling how far a long piece of work is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger(__name__)

EVERY_S = 10.0
"""Seconds between two lines."""


class Progress:
    """How far a stage is; where it takes long, a line says every now and then what is left.

    Args:
        stage: Its name.
        total: Steps that it has.
    """

    def __init__(self, stage: str, total: int) -> None:
        self.stage, self.total, self.done = stage, total, 0
        self._start = self._last = time.monotonic()

    def step(self) -> None:
        """Counts a step that is done."""
        self.done += 1
        now = time.monotonic()
        if self.done < self.total and now - self._last >= EVERY_S:
            self._last, left = now, (now - self._start) / self.done * (self.total - self.done)
            logger.warning("filling the bank, %s: %d of %d, about %.0f s left", self.stage, self.done, self.total, left)


def told(stage: str, steps: Iterable[T], total: int) -> Iterator[T]:
    """Yields the steps of a stage, and tells how far it is."""
    progress = Progress(stage, total)
    for step in steps:
        yield step
        progress.step()


@contextmanager
def waited(stage: str) -> Generator[None]:
    """Tells now and then, while a stage of one step goes on, for how long it has."""
    begin, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(EVERY_S):
            logger.warning("filling the bank, %s: for %.0f s so far", stage, time.monotonic() - begin)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
