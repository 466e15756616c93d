"""Product-key memory: M * M slots addressed by two sets of M half keys (Lample et al. 2019, arXiv:1907.05242)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.bank.base import Bank
from memlm.kernels.product_key_select import product_key_select
from memlm.memory.base import Memory, MemoryConfig, MemoryRead, Revived
from memlm.registry import MEMORIES

NOISE = 0.1
"""Of a revived key, over the root mean square of its original: enough to fall on either side of a query."""


@MEMORIES.register
class ProductKeyConfig(MemoryConfig):
    """Each head splits its query in two, scores both halves against M keys and reads the best K of M * M slots."""

    type: Literal["product_key"]
    n_keys: int = Field(default=256, ge=2)
    """Keys per half, M; the bank has n_keys * n_keys slots."""
    n_heads: int = Field(default=1, ge=1)
    """Heads, each with its own queries, keys and weights; all read one bank."""
    top_k: int = Field(default=8, ge=1)
    """Slots that a head reads."""
    d_key: int = Field(default=128, ge=2)
    """Width of a head's query; each half has d_key / 2."""
    d_value: int = Field(default=128, ge=1)
    """Width of a value."""
    query_norm: bool = True
    """RMS-normalise each half of the query."""
    key_norm: bool = True
    """RMS-normalise the half keys."""

    @property
    def n_slots(self) -> int:
        """Rows of the bank, M * M."""
        return self.n_keys**2

    @property
    def n_reads(self) -> int:
        """Slots that one token reads in one layer, H * K."""
        return self.n_heads * self.top_k

    @property
    def value_width(self) -> int:
        """Width of a value."""
        return self.d_value

    @property
    def has_product_keys(self) -> bool:
        """They are what it is about."""
        return True

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        yield from super().problems()
        if self.top_k == 1 and self.is_normalised:
            yield "top_k", "softmax over one slot is always 1 and gives the keys no gradient; read at least 2"
        if self.top_k > self.n_keys:
            yield "top_k", f"is more than the {self.n_keys} keys of a half (n_keys)"
        if self.d_key % 2:
            yield "d_key", "must be even: the query is split in two halves"

    def shrunken(self) -> Self:
        """Returns the memory with few keys and heads; keys are 16 wide, because normed numbers, 2 wide, all tie."""
        most = {"n_keys": 8, "n_heads": 2, "top_k": 3, "d_value": 12}
        smaller = {name: min(limit, getattr(self, name)) for name, limit in most.items()}
        smaller |= {"bank": self.bank.shrunken()}
        return type(self).model_validate(self.model_dump() | smaller | {"d_key": 16})

    def build(self, d_model: int) -> ProductKeyMemory:
        """Returns the module that selects slots from hidden states of width ``d_model``."""
        return ProductKeyMemory(self, d_model)


class ProductKeyMemory(Memory):
    """Selects K slots per head for every token.

    Args:
        config: The memory's configuration.
        d_model: Width of the hidden states, D.
    """

    def __init__(self, config: ProductKeyConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        heads, half = config.n_heads, config.d_key // 2
        self.query = nn.Linear(d_model, heads * config.d_key, bias=False)
        self.keys = nn.Parameter(torch.empty(heads, 2, config.n_keys, half))
        self.scale = nn.Parameter(torch.empty(heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Query N(0, 1/D), keys uniform within 1/sqrt(C) as in the paper's code, scale one."""
        nn.init.normal_(self.query.weight, std=self.query.in_features**-0.5)
        bound = self.keys.shape[-1] ** -0.5
        nn.init.uniform_(self.keys, -bound, bound)
        nn.init.ones_(self.scale)

    @torch.no_grad()
    def set_keys(self, rows: Tensor, columns: Tensor) -> None:
        """Gives every head these half keys in the place of its first ones, as long as those that are drawn.

        Args:
            rows: Of the first half, [up to M, C]; only their direction counts.
            columns: Of the second half, likewise.
        """
        for half, keys in enumerate((rows, columns)):
            self.keys[:, half, : len(keys)] = F.normalize(keys, dim=1).to(self.keys) * 3**-0.5

    def forward(self, hidden: Tensor, bank: Bank) -> MemoryRead:
        """Selects slots.

        Shapes:
            hidden [B, T, D] -> slots and weights [B, T, H, K], in descending order of score.
        """
        B, T, _ = hidden.shape
        query, keys = self.addresses(hidden)
        slots, scores = product_key_select(query, keys, self.config.top_k)
        shape = (B, T, self.config.n_heads, self.config.top_k)
        return MemoryRead(slots.view(shape), self.weigh(scores).view(shape), bank)

    def weigh(self, scores: Tensor) -> Tensor:
        """Returns the weights of the slots that were chosen by ``scores`` [..., K], in descending order: softmax."""
        return scores.softmax(dim=-1)

    def addresses(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the queries of ``hidden`` [B, T, D] as [B * T, H, 2, C] and the half keys [H, 2, M, C].

        score = scale * <query, key> / sqrt(C); queries come with the factor. Norms are taken in float32 under autocast
        too, and the products of the two are summed in float32: sums in bfloat16 would tie, and rounding would choose
        among slots.
        """
        heads, _, _, half = self.keys.shape
        query = self.query(hidden).view(-1, heads, 2, half)
        dtype = query.dtype
        device = "cpu" if hidden.is_meta else hidden.device.type  # the meta device knows no autocast
        with torch.autocast(device, enabled=False):
            query, keys = query.float(), self.keys.float()
            query = self.normed(query)
            if self.config.key_norm:
                keys = F.rms_norm(keys, (half,))
            query = query * (self.scale * half**-0.5).view(heads, 1, 1)
        return query.to(dtype), keys.to(dtype)

    def normed(self, query: Tensor) -> Tensor:
        """Returns the queries [N, H, 2, C], float32, with each half normed if the config says so."""
        return F.rms_norm(query, query.shape[-1:]) if self.config.query_norm else query

    def half_scores(self, hidden: Tensor) -> Tensor:
        """Returns the score of every half key for ``hidden`` [B, T, D] as [B, T, H, 2, M], float32."""
        query, keys = self.addresses(hidden)
        scores = torch.einsum("nhpc,hpmc->nhpm", query.float(), keys.float())
        return scores.view(*hidden.shape[:2], *scores.shape[1:])

    @torch.no_grad()
    def revive(self, counts: Tensor, generator: torch.Generator) -> Revived | None:
        """Splits used half keys: each that was never chosen becomes a copy of one that was, the most used ones first.

        Noise tells copy and original apart. The values of its slots should be those of the original's. Codebooks of
        vector quantisation are kept alive alike (Dhariwal et al. 2020, arXiv:2005.00341).
        """
        H, _, M, C = self.keys.shape
        pairs = counts.view(H, M, M)
        chosen = torch.stack([pairs.sum(2), pairs.sum(1)], dim=1)  # [H, 2, M]
        every = torch.arange(M, device=counts.device)
        entries = torch.zeros_like(chosen, dtype=torch.bool)
        copies: list[tuple[Tensor, Tensor]] = []
        for head, half in itertools.product(range(H), range(2)):
            found = chosen[head, half]
            dead, used = (found == 0).nonzero()[:, 0], found.argsort(descending=True, stable=True)
            n = min(len(dead), M - len(dead))
            dead, used = dead[:n], used[:n]
            originals = self.keys[head, half, used]
            size = NOISE * originals.square().mean(1, keepdim=True).sqrt()
            noise = torch.randn(n, C, generator=generator).to(originals)
            self.keys[head, half, dead] = originals + size * noise
            entries[head, half, dead] = True
            slots = [each[:, None] * M + every if half == 0 else every[:, None] * M + each for each in (dead, used)]
            copies.append((slots[0].flatten(), slots[1].flatten()))
        return Revived(self.keys, entries, copies) if entries.any() else None

    def key_similarity(self, slot: int) -> Tensor:
        """Returns how alike the key of each slot is to that of ``slot``, [S]; a slot's key is its two half keys."""
        keys = self.keys.detach().float()
        if self.config.key_norm:
            keys = F.rms_norm(keys, (keys.shape[-1],))
        halves = divmod(slot, self.config.n_keys)
        chosen = torch.stack([keys[:, part, half] for part, half in enumerate(halves)], dim=1)  # [H, 2, C]
        products = torch.einsum("hpmc,hpc->hpm", keys, chosen)
        squares = keys.square().sum(-1)
        product = products[:, 0, :, None] + products[:, 1, None, :]  # [H, M, M]
        norm = (squares[:, 0, :, None] + squares[:, 1, None, :]).sqrt() * chosen.flatten(1).norm(dim=-1)[:, None, None]
        return (product / norm).mean(0).flatten()


def unit_scale(n_keys: int) -> float:
    """Returns the scale at which the best score of a new memory is about 1.

    With normed queries and keys a half score is about N(0, 1), and the largest of M is near sqrt(2 ln M); a score is
    the sum of two.
    """
    return (8 * math.log(n_keys)) ** -0.5
