"""What the interpreter needs, to run the kernels of every dtype on the CPU; with a GPU, they are tests of it."""

from pathlib import Path

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(items):
    """Lets ``pytest -m gpu`` find these tests where there is a GPU: they run on it then."""
    if torch.cuda.is_available():
        for item in items:
            if item.path.parent == Path(__file__).parent and not item.get_closest_marker("torture"):
                item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def _dots_of_bfloat16(monkeypatch):
    """The interpreter keeps bfloat16 as the integers of its bits, and would multiply those."""
    if torch.cuda.is_available():
        return
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, tl

    sound = InterpreterBuilder.create_dot

    def widened(handle):
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def create_dot(self, left, right, *rest):
        return sound(self, widened(left), widened(right), *rest)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
