"""The processes that take the steps of one training together: its ranks. Rank 0 alone writes and evaluates."""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor
from torch import distributed as dist

from memlm import launcher
from memlm.errors import RunError
from memlm.kernels.rowwise_adamw import RowGradient

LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""What launchers say in the environment, and accelerate reads there."""
LOST = "another process of this run has ended; what is saved is kept, and the same command goes on from there"


@dataclass(frozen=True)
class Ranks:
    """How many processes train together, and which of them this is. One alone exchanges nothing.

    Attributes:
        number: How many.
        index: Which, from 0.
    """

    number: int = 1
    index: int = 0

    @classmethod
    def of(cls, accelerator: Accelerator) -> Ranks:
        """Returns those that accelerate knows of."""
        return cls(accelerator.num_processes, accelerator.process_index)

    def require_shares(self, batch_size: int) -> None:
        """Refuses what cannot be shared.

        Raises:
            RunError: the launcher's processes have no number or were not joined,
                or a batch has no equal shares for them.
        """
        started = launcher.n_ranks()
        if self.number < started:
            raise RunError(f"accelerate joins no processes here, and {started} were started; use train.device=cpu")
        if batch_size % self.number:
            raise RunError(
                f"train.batch_size is {batch_size}, and {self.number} processes cannot have equal shares of it; make "
                "it a multiple, or start another number of processes"
            )

    def share(self, batch: np.ndarray) -> np.ndarray:
        """Returns this rank's rows of a batch; all of them have equally many."""
        size = len(batch) // self.number
        return batch[self.index * size : (self.index + 1) * size]

    def add(self, tensor: Tensor) -> None:
        """Replaces a tensor by its sum over the ranks."""
        if self.number > 1:
            dist.all_reduce(tensor)

    def maximum(self, tensor: Tensor) -> None:
        """Replaces every number of a tensor by the largest that a rank has."""
        if self.number > 1:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def any(self, here: bool, device: torch.device) -> bool:
        """Tells whether it is so on any rank; waits for all of them, and for the device."""
        number = torch.tensor(int(here), device=device)
        self.add(number)
        return bool(number)

    def mean_rows(self, gradient: RowGradient, n_slots: int) -> RowGradient:
        """Returns the mean over the ranks of their compact gradients of a table with ``n_slots`` rows.

        Parts are added in the order of the ranks, so all ranks have the same bits.
        """
        if self.number == 1:
            return gradient
        rows, sums, n_rows = gradient
        # Behind the end of a list its sums are zero: they may go to any row that the list names anyway.
        rows = torch.where(torch.arange(len(rows), device=rows.device) < n_rows, rows, rows[0])
        everyones_rows, everyones_sums = gathered(rows, self.number), gathered(sums, self.number)
        position_of = torch.full((n_slots,), -1, dtype=torch.int32, device=rows.device)
        merged_rows = rows.new_zeros(min(self.number * len(rows), n_slots))
        count = torch.zeros_like(n_rows)
        positions = torch.ops.memlm.assign_positions(torch.stack(everyones_rows), position_of, merged_rows, count)
        merged = sums.new_zeros((len(merged_rows), sums.shape[1]), dtype=torch.float32)
        for places, part in zip(positions, everyones_sums, strict=True):
            merged.index_add_(0, places, part.float())
        return RowGradient(merged_rows, merged / self.number, count)


def gathered(tensor: Tensor, n_ranks: int) -> list[Tensor]:
    """Returns the tensor of each rank, in their order; all have the same shape."""
    parts = [torch.empty_like(tensor) for _ in range(n_ranks)]
    dist.all_gather(parts, tensor.contiguous())
    return parts


@contextmanager
def alone() -> Generator[None]:
    """Lets what runs inside be one process with a device of its own, whatever launcher has started it."""
    kept = [(cls._shared_state, dict(cls._shared_state)) for cls in (PartialState, AcceleratorState, GradientState)]
    told = {name: os.environ.pop(name) for name in LAUNCHERS if name in os.environ}
    try:
        for shared, _ in kept:
            shared.clear()
        yield
    finally:
        os.environ.update(told)
        for shared, state in kept:
            shared.clear()
            shared.update(state)


@contextmanager
def telling_lost_ranks() -> Generator[None]:
    """Turns the many errors of a connection to a process that is gone into one line.

    Raises:
        RunError: another rank has ended.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo raises RuntimeErrors of torch's with the path of its own source, and no class of its own.
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            # The launcher notices too, and ends those that are left; what they have to tell comes first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise RunError(LOST) from error
        raise
