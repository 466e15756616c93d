"""A checkpoint that a library chokes on is told in one line; a lack of memory is not the checkpoint's fault."""

from pathlib import Path

import pytest
import torch

from memlm.errors import CheckpointError
from memlm.train.loading import loading_errors


def test_a_librarys_error_is_one_line():
    told = (
        r"^runs/checkpoint: cannot be loaded \(ValueError: header too large\); it is damaged or was written by another"
    )
    with pytest.raises(CheckpointError, match=told), loading_errors(Path("runs/checkpoint")):
        raise ValueError("header\n  too large")


@pytest.mark.parametrize("error", [CheckpointError("ours"), torch.OutOfMemoryError("no memory")])
def test_ours_and_a_lack_of_memory_pass(error):
    with pytest.raises(type(error)) as caught, loading_errors(Path("runs/checkpoint")):
        raise error
    assert caught.value is error
