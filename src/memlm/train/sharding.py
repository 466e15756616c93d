"""What every rank holds a part of while a model is trained, and the whole of it for checkpoints.

Banks of vectors are sharded by columns, all else by torch's FSDP2 (Zhao et al. 2023, arXiv:2304.11277).
"""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from memlm.bank.vectors import VectorBank
from memlm.model.decoder import Decoder
from memlm.train.columns import ColumnBank
from memlm.train.ranks import Ranks
from memlm.train.state import OPTIMIZER

Sharded = Literal["none", "bank", "model"]
CHUNK = 1 << 24
"""Numbers that are sent to rank 0 at a time, by each rank."""


class Shards:
    """Leaves this rank its part of a decoder; with one rank, or where nothing is sharded, the whole.

    Checkpoints hold whole parameters and their whole moments, so they know nothing of ranks: any number goes on from
    them. Whole ones are put together in rank 0's host memory; the other ranks are left with placeholders of no size.

    Args:
        decoder: The model's decoder, the same on every rank.
        ranks: The processes that train together.
        sharded: ``bank`` replaces banks of vectors by the columns that a rank holds, ``model`` also shards all other
            parameters: those of a block are gathered while it runs, the others during a whole pass.
        device: Where a rank's part goes.

    Raises:
        RunError: the ranks cannot have equal parts of a bank.
    """

    def __init__(self, decoder: Decoder, ranks: Ranks, sharded: Sharded, device: torch.device) -> None:
        self._decoder, self._ranks = decoder, ranks
        self._banks: dict[int, ColumnBank] = {}
        if ranks.number == 1 or sharded == "none":
            return
        for index, bank in enumerate(decoder.banks):
            if isinstance(bank, VectorBank):
                self._banks[index] = ColumnBank(bank, ranks.number, ranks.index)
                decoder.banks[index] = self._banks[index]
        if sharded == "model":
            self._shard_blocks(device)

    def _shard_blocks(self, device: torch.device) -> None:
        # What it warns of are the weights of reads, which are views. It fears that they are written in place; none is.
        warnings.filterwarnings("ignore", r"FSDP2-wrapped module \(.*\) returned a view tensor", UserWarning)
        mesh = init_device_mesh(device.type, (self._ranks.number,))
        for block in self._decoder.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(self._decoder, mesh=mesh, ignored_params={bank.values for bank in self._banks.values()})

    @contextmanager
    def readable(self) -> Generator[None]:
        """Lets the model be read between steps inside; all ranks must read the same."""
        if not isinstance(self._decoder, FSDPModule):
            yield
            return
        self._decoder.unshard()  # what blocks do not gather themselves: embedding, output matrix, norm
        try:
            yield
        finally:
            self._decoder.reshard()

    @contextmanager
    def whole(self) -> Generator[None]:
        """Puts whole parameters into rank 0's model inside; all ranks must ask for it together."""
        parts = list(self._parts())
        self.restore()
        try:
            yield
        finally:
            for index, bank in self._banks.items():
                self._decoder.banks[index] = bank
            for module, name, part in parts:
                setattr(module, name, part)

    def restore(self) -> None:
        """Puts whole parameters into rank 0's model for good."""
        for index, bank in self._banks.items():
            with torch.device("meta"):  # nothing is drawn
                whole = VectorBank(bank.n_slots, bank.d_value)
            whole.values = nn.Parameter(self._whole_table(bank.values.detach()), bank.values.requires_grad)
            self._decoder.banks[index] = whole
        for module, name, part in list(self._parts()):
            setattr(module, name, nn.Parameter(self._whole(part.detach()), part.requires_grad))

    def _parts(self) -> Generator[tuple[nn.Module, str, nn.Parameter]]:
        """Yields the parameters that FSDP shards, with their places."""
        for module in self._decoder.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if isinstance(parameter, DTensor):
                    yield module, name, parameter

    def whole_moments(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a training state's tensors, with whole moments on rank 0."""
        return {n: self._whole_table(t) if self._is_of_columns(n, t) else self._whole(t) for n, t in tensors.items()}

    def own_moments(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns a training state's tensors, with this rank's part of the moments."""
        return {name: self._own(name, tensor) for name, tensor in tensors.items()}

    def _own(self, name: str, tensor: Tensor) -> Tensor:
        if self._is_of_columns(name, tensor):
            return next(iter(self._banks.values())).columns_of(tensor)
        owner = name.removeprefix(f"{OPTIMIZER}decoder.").rpartition("/")[0]
        parameter = dict(self._decoder.named_parameters()).get(owner)
        if not isinstance(parameter, DTensor) or not tensor.ndim:
            return tensor
        # Every rank has read the whole, so none has to send it.
        return distribute_tensor(
            tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
        )

    def _is_of_columns(self, name: str, tensor: Tensor) -> bool:
        prefixes = [f"{OPTIMIZER}decoder.banks.{index}.values/" for index in self._banks]
        return tensor.ndim > 1 and name.startswith(tuple(prefixes))

    def _whole(self, part: Tensor) -> Tensor:
        """Returns the whole of what FSDP shards on rank 0's CPU and elsewhere nothing; anything else as it is."""
        if not isinstance(part, DTensor):
            return part
        whole = part.full_tensor()
        return whole.cpu() if self._ranks.index == 0 else whole.new_empty(0)

    def _whole_table(self, columns: Tensor) -> Tensor:
        """Returns all columns on rank 0's CPU, [S, d_value]; elsewhere nothing."""
        n, is_first = self._ranks.number, self._ranks.index == 0
        width = columns.shape[1] * n
        whole = torch.empty(len(columns) if is_first else 0, width, dtype=columns.dtype)
        begin = 0
        for rows in columns.split(max(1, CHUNK // columns.shape[1])):
            parts = [torch.empty_like(rows) for _ in range(n)] if is_first else None
            dist.gather(rows.contiguous(), parts)
            if parts is not None:
                whole[begin : begin + len(rows)] = torch.cat(parts, dim=1).cpu()
            begin += len(rows)
        return whole
