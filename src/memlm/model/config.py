"""The `model` section and, merged over it, each variant: the shape of the decoder and how a memory is wired into it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StrictInt

from memlm.config.base import Config, choice, either
from memlm.registry import FUSIONS, MEMORIES

Layers = Annotated[Literal["all"] | list[StrictInt], either("must be all, or a list of blocks counted from 0")]


class ExpertsConfig(Config):
    """A mixture of experts in place of the dense feed-forward layer (Fedus et al. 2022, arXiv:2101.03961)."""

    n_experts: int = Field(ge=2)
    """SwiGLU experts in a layer."""
    top_k: int = Field(default=2, ge=1)
    """Experts that a token goes through."""
    balance_weight: float = Field(default=0.01, ge=0)
    """Weight of the load-balance loss."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        if self.top_k > self.n_experts:
            yield "top_k", f"is more than the {self.n_experts} experts there are (n_experts)"


class ModelConfig(Config):
    """A decoder-only transformer; without `memory` it is a dense control."""

    d_model: int = Field(default=512, ge=8)
    """Width of the residual stream."""
    n_layers: int = Field(default=8, ge=1)
    """Blocks."""
    n_heads: int = Field(default=8, ge=1)
    """Attention heads; d_model / n_heads must be even."""
    n_kv_heads: int | None = Field(default=None, ge=1)
    """Key and value heads of grouped-query attention; as many as n_heads if not given."""
    d_ff: int | None = Field(default=None, ge=1)
    """Hidden width of the feed-forward layer; 8/3 * d_model, rounded up to a multiple of 64, if not given."""
    experts: ExpertsConfig | None = None
    """Makes the feed-forward layer a mixture of experts."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary position embedding."""
    norm_eps: float = Field(default=1e-6, gt=0)
    """Epsilon of RMSNorm."""
    init_std: float = Field(default=0.02, gt=0)
    """Standard deviation of the initial matrices; those that write to the residual stream get 1/sqrt(2 n_layers)."""
    tie_embeddings: bool = True
    """Use the token embedding as the output matrix too."""
    memory: Annotated[Any, choice(MEMORIES)] = None
    """The memory, by type (`memlm list memories`)."""
    fusion: Annotated[Any, choice(FUSIONS)] = None
    """How reads join the residual stream, by type (`memlm list fusions`)."""
    placement: Literal["replace", "parallel"] = "replace"
    """In the place of the feed-forward layer, or beside it."""
    layers: Layers = "all"
    """The blocks that have the memory, counted from 0."""
    shared_bank: bool = True
    """One bank for all of these layers, or one for each."""

    @property
    def feed_forward_width(self) -> int:
        """Hidden width of the feed-forward layer."""
        return self.d_ff or -(-self.d_model * 8 // 3 // 64) * 64

    @property
    def memory_layers(self) -> list[int]:
        """The blocks that have the memory, in order."""
        if self.memory is None:
            return []
        return list(range(self.n_layers)) if self.layers == "all" else sorted(self.layers)

    @property
    def has_feed_forward(self) -> bool:
        """Whether a block has a feed-forward layer, or the memory has replaced them all."""
        if self.memory is None or self.placement == "parallel":
            return True
        return self.layers != "all" and len(self.layers) != self.n_layers

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        if self.d_model % (2 * self.n_heads):
            yield "n_heads", f"d_model / n_heads must be an even whole number, and d_model is {self.d_model}"
        if self.n_kv_heads is not None and self.n_heads % self.n_kv_heads:
            yield "n_kv_heads", f"must divide n_heads, which is {self.n_heads}"
        if self.memory is None:
            for name in ("fusion", "placement", "layers", "shared_bank"):
                if self.changes(name):
                    yield name, "has no effect without a memory"
        else:
            yield from self._wiring_problems()

    def _wiring_problems(self) -> Iterator[tuple[str, str]]:
        if self.fusion is None:
            yield "fusion", f"is required with a memory. Known: {', '.join(FUSIONS.names())}."
        else:
            for field, reason in self.fusion.problems_in(self.d_model):
                yield f"fusion.{field}", reason
            width, given = self.fusion.width_of_values(self.d_model), self.memory.value_width
            if width not in (None, given):
                yield "fusion.type", f"needs values {width} wide where d_model is {self.d_model}, not {given} (d_value)"
        if self.layers != "all":
            outside = [layer for layer in self.layers if not 0 <= layer < self.n_layers]
            if outside:
                yield "layers", f"{outside} lie outside 0..{self.n_layers - 1} (n_layers is {self.n_layers})"
            if len(set(self.layers)) < len(self.layers):
                yield "layers", "names a layer twice"
            if not self.layers:
                yield "layers", "names no layer; leave the memory out instead"
        for name in ("d_ff", "experts"):
            if not self.has_feed_forward and self.changes(name):
                yield name, "has no effect, because the memory replaces every feed-forward layer"
