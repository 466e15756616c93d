"""Where a measurement runs, and the random inputs that it is given."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from memlm.bench.timing import Clock

TOLERANCES = {torch.bfloat16: 0.02, torch.float32: 1e-3}
"""Largest error between the fast version and the plain one, beyond which no time is told. The last digit of bfloat16 is
2**-9 of a number, and a sum of several rounds more than once; a wrong row is off by about 1."""


@dataclass(frozen=True)
class Setting:
    """The device, and the dtype of what layers compute there.

    Args:
        device: Where everything runs.
        dtype: bfloat16 under autocast with float32 parameters, as in training, or float32.
    """

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def here(cls) -> Setting:
        """Returns the GPU in bfloat16 if its arithmetic has it, or the CPU; both in float32 otherwise."""
        if not torch.cuda.is_available():
            return cls(torch.device("cpu"), torch.float32)
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        device = torch.device("cuda", torch.cuda.current_device())
        return cls(device, torch.bfloat16 if has_bf16 else torch.float32)

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device.type == "cuda"

    @cached_property
    def clock(self) -> Clock:
        """Takes the times."""
        return Clock(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Returns the context in which layers run."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def peak_gib(self, before: int) -> float | None:
        """Returns the peak of memory above ``before`` bytes since `start_peak`, GiB; None on a CPU."""
        return (torch.cuda.max_memory_allocated(self.device) - before) / 2**30 if self.on_gpu else None

    def start_peak(self) -> int:
        """Forgets the peak so far; returns what is allocated now, bytes."""
        if not self.on_gpu:
            return 0
        torch.cuda.reset_peak_memory_stats(self.device)
        return torch.cuda.memory_allocated(self.device)


class Draw:
    """Seeded random tensors of one setting.

    Args:
        setting: Their device, and their dtype unless another is asked for.
    """

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self._generator = torch.Generator(setting.device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """Returns numbers from N(0, 1)."""
        wanted = dtype or self.setting.dtype
        return torch.randn(*shape, device=self.setting.device, dtype=wanted, generator=self._generator)

    def weights(self, *shape: int) -> Tensor:
        """Returns float32 weights whose sum over the last axis is one."""
        return self.normal(*shape, dtype=torch.float32).softmax(-1)

    def slots(self, n_slots: int, *shape: int) -> Tensor:
        """Returns rows drawn evenly."""
        return torch.randint(n_slots, shape, device=self.setting.device, generator=self._generator)

    def zipf_slots(self, n_slots: int, *shape: int) -> Tensor:
        """Returns rows whose frequency falls with one over their rank; ranks are spread over the table."""
        draw = torch.rand(*shape, device=self.setting.device, dtype=torch.float64, generator=self._generator)
        rank = (float(n_slots) ** draw).long().clamp(max=n_slots) - 1
        order = torch.randperm(n_slots, device=self.setting.device, generator=self._generator)
        return order[rank]
