"""Signals that wait for the end of a step."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from memlm.errors import Interrupted

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def default_signals() -> Generator[None]:
    """Lets SIGINT and SIGTERM end the process at once, where code that isn't Python's would keep handlers waiting."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals(pending: list[Interrupted] | None = None) -> Generator[list[Interrupted]]:
    """Lends a list, ``pending`` if given, that SIGINT and SIGTERM enter instead of cutting short what runs inside.

    A second signal of the same kind ends the process at once. Outside the main thread, which alone receives signals,
    the list stays as it is.
    """
    pending = [] if pending is None else pending
    if threading.current_thread() is not threading.main_thread():
        yield pending
        return

    def note(number: int, _frame: FrameType | None) -> None:
        pending.append(Interrupted(signal.Signals(number).name, number))
        signal.signal(number, signal.SIG_DFL)
        logger.warning("%s: the step is finished and saved first; once more ends at once", pending[-1])

    before = {number: signal.signal(number, note) for number in SIGNALS}
    try:
        yield pending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
