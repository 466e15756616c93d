"""What goes wrong while a checkpoint is loaded, in one line."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import torch

from memlm.errors import CheckpointError, MemlmError


@contextmanager
def loading_errors(folder: Path) -> Generator[None]:
    """Turns whatever a library raises over the files in ``folder`` into a CheckpointError.

    A lack of memory is no fault of the files and passes, as our own errors do.
    """
    try:
        yield
    except (MemlmError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # transformers, safetensors, pydantic and json have no common base
        reason = " ".join(str(error).split())[:500]
        raise CheckpointError(
            f"{folder}: cannot be loaded ({type(error).__name__}: {reason}); it is damaged or was written by another "
            "version: take an older checkpoint"
        ) from error
