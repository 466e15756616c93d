"""Who wrote a slot: the training position that pulled hardest at its value, recorded while training.

A read adds to the gradient of the row that it reads: its weight times the gradient of the weighted sum, or its scale
times the gradient of the scaled row. The norm of that part is the read's *pull*. It is taken before clipping and before
AdamW, which divides a gradient by its own history: it says who pulled hardest at one moment, and not who moved the row
furthest in the end. Losses are largest early on, and so are pulls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from memlm.bank.base import Bank
from memlm.errors import RunError
from memlm.memory.base import MemoryRead
from memlm.model.block import Block
from memlm.model.decoder import Decoder
from memlm.storage import replaced_folder
from memlm.train.ranks import Ranks

FOLDER = "writers"
"""In the folder of a run."""
FILE = "writers.safetensors"
STATE = "writers/"
"""What the names of its tensors begin with in the training state."""


@dataclass
class Writers:
    """Who wrote the slots of one bank, each field [S].

    Attributes:
        pull: The largest pull, float32; 0 for a slot at which none pulled.
        step: The step of that read, counted from 1, int32; 0 for none.
        index: Which token of the step's tokens it was, in the order of `Sampler.batch`, int32.
        first_read: The first step that read the slot, int32; 0 for none.
        last_read: The last one.
    """

    pull: Tensor
    step: Tensor
    index: Tensor
    first_read: Tensor
    last_read: Tensor

    @classmethod
    def empty(cls, n_slots: int, device: torch.device) -> Writers:
        """Returns what is known of ``n_slots`` slots before the first step."""
        steps = (torch.zeros(n_slots, dtype=torch.int32, device=device) for _ in range(4))
        return cls(torch.zeros(n_slots, device=device), *steps)


class WriterRecorder:
    """Watches a decoder's fusions while it is trained; what is not trained, as in evaluation, it leaves alone.

    It changes no number of the training, and nothing here waits for the device.

    Args:
        decoder: The decoder, on its device.
        ranks: The processes that train together.
    """

    def __init__(self, decoder: Decoder, ranks: Ranks | None = None) -> None:
        self._ranks = ranks or Ranks()
        self._banks = [_BankRecord(bank) for bank in decoder.banks if isinstance(bank, Bank)]
        self._begin = self._end = 0  # where the tokens of this rank, and those of the micro-step, stand in the step
        by_bank = {record.bank: record for record in self._banks}
        self._handles = [decoder.register_forward_pre_hook(self._count)]
        for layer, block in enumerate(decoder.blocks):
            bank = decoder.bank_of(layer)
            if isinstance(block, Block) and block.fusion is not None and bank is not None:
                self._handles.append(block.fusion.register_forward_pre_hook(self._watching(by_bank[bank])))

    def release(self) -> None:
        """Stops watching."""
        for handle in self._handles:
            handle.remove()

    def commit(self, step: int, is_finite: Tensor) -> None:
        """Ends a step; nothing of it counts if ``is_finite``, a boolean scalar on the device, is false."""
        self._begin = self._end = 0
        for record in self._banks:
            self._ranks.maximum(record.strongest)
            record.commit(step, is_finite)

    def tensors(self) -> dict[str, Tensor]:
        """Returns what is known so far, for the training state."""
        return {
            f"{STATE}{number}/{name}": tensor
            for number, record in enumerate(self._banks)
            for name, tensor in vars(record.writers).items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` returned."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def write(self, run: Path) -> None:
        """Writes what is known into the folder of a run; nothing, for a model without a memory.

        Raises:
            RunError: the disk is full or cannot be written.
        """
        if not self._banks:
            return
        tensors = {name.removeprefix(STATE): tensor.cpu() for name, tensor in self.tensors().items()}
        try:
            with replaced_folder(run / FOLDER) as staged:
                save_file(tensors, staged / FILE)
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"{run / FOLDER}: cannot be written ({error}); make room and give the command again"
            ) from error

    def _count(self, _module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            tokens = arguments[0].numel()
            self._begin = self._end + self._ranks.index * tokens
            self._end += self._ranks.number * tokens

    def _watching(self, record: _BankRecord) -> Callable[[nn.Module, tuple[Any, ...]], tuple[Any, ...] | None]:
        def watch(_module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not torch.is_grad_enabled():
                return None
            hidden, read = arguments
            return hidden, _WatchedRead(read.slots, read.weights, _WatchedBank(record, read, self._begin))

        return watch


def read_writers(run: Path, n_slots: list[int]) -> list[Writers] | None:
    """Returns who wrote the slots of each bank of a finished run, None if that was not recorded.

    Args:
        run: The run's folder.
        n_slots: The slots of each bank.

    Raises:
        RunError: the file is damaged, or does not fit.
    """
    path = run / FOLDER / FILE
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
        names = Writers.__dataclass_fields__
        writers = [Writers(**{name: tensors[f"{bank}/{name}"] for name in names}) for bank in range(len(n_slots))]
    except (OSError, SafetensorError, KeyError) as error:
        raise RunError(f"{path}: is damaged ({error}); remove the folder {FOLDER} to go without it") from None
    for size, found in zip(n_slots, writers, strict=True):
        if any(tensor.shape != (size,) for tensor in vars(found).values()):
            raise RunError(f"{path}: belongs to another model; remove the folder {FOLDER} to go without it")
        if any((tensor < 0).any() for tensor in vars(found).values()):
            raise RunError(f"{path}: is damaged (it has negative numbers); remove the folder {FOLDER} to go without it")
    return writers


class _BankRecord:
    """What is known of one bank, and the strongest read of each slot in the step that is being taken."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        device = next(bank.parameters()).device
        self.writers = Writers.empty(bank.n_slots, device)
        # A pull's bits above a token's index, so that one maximum finds both, in whatever order: bits of floats that
        # are not negative sort as the floats do. -1: not read.
        self.strongest = torch.full((bank.n_slots,), -1, dtype=torch.int64, device=device)

    def add(self, slots: Tensor, pull: Tensor, index: Tensor) -> None:
        """Counts reads: slots and pulls [N, R], indices of tokens [N, 1]."""
        packed = (pull.float().view(torch.int32).long() << 32) | index
        self.strongest.scatter_reduce_(0, slots.flatten(), packed.flatten(), "amax")

    def commit(self, step: int, is_finite: Tensor) -> None:
        known, strongest = self.writers, self.strongest
        was_read = (strongest >= 0) & is_finite
        pull = (strongest >> 32).int().view(torch.float32)
        stronger = was_read & (pull > known.pull)
        known.pull.copy_(pull.where(stronger, known.pull))
        known.index.copy_(strongest.int().where(stronger, known.index))  # the low half
        known.step.masked_fill_(stronger, step)
        known.first_read.masked_fill_(was_read & (known.first_read == 0), step)
        known.last_read.masked_fill_(was_read, step)
        strongest.fill_(-1)


class _WatchedBank:
    """A bank that has the pulls of a read recorded when its gradient comes."""

    def __init__(self, record: _BankRecord, read: MemoryRead, begin: int) -> None:
        self._record, self._bank, self._begin = record, read.bank, begin
        self._tokens = read.slots.shape[:2].numel()

    def gather(self, slots: Tensor, scales: Tensor | None = None) -> Tensor:
        rows = self._bank.gather(slots, scales)
        self._watch(rows, slots, scales, _norm)
        return rows

    def gather_joined(self, hidden: Tensor, slots: Tensor, scales: Tensor) -> Tensor:
        joined = self._bank.gather_joined(hidden, slots, scales)
        D, R = hidden.shape[-1], slots.shape[-1]
        self._watch(joined, slots, scales, lambda grad: _norm(grad[..., D:].unflatten(-1, (R, -1))))
        return joined

    def weighted_sum(self, slots: Tensor, weights: Tensor) -> Tensor:
        total = self._bank.weighted_sum(slots, weights)
        self._watch(total, slots, weights, lambda grad: _norm(grad)[..., None])
        return total

    def _watch(self, output: Tensor, slots: Tensor, factors: Tensor | None, norm: Callable[[Tensor], Tensor]) -> None:
        if not output.requires_grad:
            return
        learns = self._bank.learns  # frozen values are read all the same, and nobody pulls at them

        def add(grad: Tensor) -> None:
            pull = norm(grad).expand(slots.shape) * learns
            if factors is not None:
                pull = pull * factors.detach().abs()
            pull = pull.flatten(0, -2)
            rows = torch.arange(len(pull), device=pull.device)[:, None]
            index = self._begin + rows // (len(pull) // self._tokens)
            self._record.add(slots, pull, index)

        output.register_hook(add)


@dataclass(frozen=True)
class _WatchedRead:
    slots: Tensor
    weights: Tensor
    bank: _WatchedBank


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1, dtype=torch.float32)
