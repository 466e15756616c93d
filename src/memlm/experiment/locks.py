"""Locks of folders. They are the system's: when a process ends, however it ends, those that it held are gone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from memlm.errors import RunError
from memlm.experiment.paths import inside

logger = logging.getLogger(__name__)

LOCK = ".lock"
"""The file in a folder that is locked; it is empty, and stays when the lock is gone."""


@contextmanager
def locked(folder: Path, busy: str | None = None, name: str = LOCK) -> Generator[None]:
    """Keeps a second process from writing into the folder of an experiment, a tune, a rerun or an edited run.

    Args:
        folder: The folder.
        busy: What to tell who comes second; if not given, that an experiment is run here.
        name: The file that is locked, where a folder has several.

    Raises:
        RunError: another process does, or the file that is locked is a link out of the folder.
    """
    busy = busy or (
        f"{folder} is being run by another process; wait for it (memlm ps, memlm logs), or give this "
        "experiment another name (-o name=...)"
    )
    with inside(folder, name).open("ab") as file, alone(file, folder, busy):
        yield


@contextmanager
def alone(file: IO[Any], folder: Path, busy: str) -> Generator[None]:
    """Holds the lock of an open file.

    It is let go at the end even if a child process inherited the file. Windows, and some network file systems, have no
    such locks: there nobody is kept out, and a warning says so of the latter.

    Args:
        file: The file.
        folder: What the lock keeps others out of.
        busy: What to tell who comes second.

    Raises:
        RunError: another process holds the lock.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(busy) from None
    except OSError as error:
        logger.warning("%s: cannot be locked (%s); start no second process here", folder, error.strerror)
        yield
        return
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
