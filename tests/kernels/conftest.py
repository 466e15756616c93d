"""What the interpreter needs, to run the kernels of every dtype on the CPU."""

import numpy as np
import pytest
import torch


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
