"""What a graft adds to a model: the settings of `memlm graft`. Free of torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from memlm.config.base import Config, choice
from memlm.model.config import Layers
from memlm.registry import FUSIONS, MEMORIES


class GraftConfig(Config):
    """A memory beside the feed-forward layers of some blocks of a model that is there already."""

    memory: Annotated[Any, choice(MEMORIES)]
    """The memory, by type; it must not ask for token ids, and its bank must hold vectors."""
    fusion: Annotated[Any, choice(FUSIONS)]
    """How reads join the residual stream, by type."""
    layers: Layers = "all"
    """The blocks that get it, counted from 0."""
    shared_bank: bool = True
    """One bank for all of these blocks, or one for each."""
    corpus: str = Field(min_length=1)
    """The text that the memory learns from, as `data.corpus` names it."""
    steps: int = Field(default=1000, ge=1)
    """Training steps."""
    batch_size: int = Field(default=16, ge=1)
    """Sequences a step."""
    seq_len: int = Field(default=512, ge=8)
    """Tokens of a sequence."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of everything that was added; nothing else learns."""
    seed: int = Field(default=0, ge=0)
    """Decides what the memory starts from and the order of the text."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        if self.memory is None:
            yield "memory", "is required"
        elif self.memory.n_tokens:
            yield "memory.type", f"{self.memory.type} reads by the ids of tokens, which a grafted layer does not see"
        elif self.memory.bank.type != "vectors":
            yield "memory.bank.type", f"must be vectors: a graft adds no {self.memory.bank.type}"
        elif self.memory.bank.changes("dtype"):
            yield "memory.bank.dtype", "must be float32: a graft's training rounds nothing at random"
        elif "train_eval_mismatch" in self.memory.expected_to_break:
            yield "memory.type", f"{self.memory.type} acts otherwise in training, and a graft learns in eval mode"
        if self.fusion is None:
            yield "fusion", "is required"
        if self.layers != "all" and not self.layers:
            yield "layers", "names no layer"

    def problems_in(self, d_model: int) -> Iterator[tuple[str, str]]:
        """Yields what does not fit a model of width ``d_model``."""
        yield from ((f"fusion.{field}", reason) for field, reason in self.fusion.problems_in(d_model))
        width, given = self.fusion.width_of_values(d_model), self.memory.value_width
        if width not in (None, given):
            yield "memory.d_value", f"{self.fusion.type} needs values {width} wide here, not {given}"

    def chosen(self, n_layers: int) -> list[int]:
        """Returns the blocks that get the memory.

        Raises:
            ValueError: the model has no such block.
        """
        if self.layers == "all":
            return list(range(n_layers))
        outside = [layer for layer in self.layers if not 0 <= layer < n_layers]
        if outside:
            raise ValueError(f"layers: {outside} lie outside 0..{n_layers - 1}")
        return sorted(set(self.layers))
