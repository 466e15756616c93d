"""The decoder: embedding, blocks, norm, output matrix. It owns the banks and hands them to the blocks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memlm.bank.base import Bank
from memlm.fusion.base import Fusion
from memlm.memory.base import Memory, MemoryRead
from memlm.model.attention import Cache
from memlm.model.block import Block, BlockOutput
from memlm.model.config import ModelConfig
from memlm.model.feed_forward import build_feed_forward
from memlm.model.norm import RMSNorm
from memlm.model.rope import rotations
from memlm.model.tokens import last_tokens


class DecoderOutput(NamedTuple):
    """What the decoder returns.

    Attributes:
        hidden: The normed residual stream, [B, T, D].
        balance_loss: Sum of the weighted load-balance losses, a scalar.
        reads: What each memory layer selected, by layer.
    """

    hidden: Tensor
    balance_loss: Tensor
    reads: dict[int, MemoryRead]


class Decoder(nn.Module):
    """A decoder-only transformer with or without a memory.

    Args:
        config: The model's configuration.
        vocab_size: Size of the vocabulary, V.
    """

    def __init__(self, config: ModelConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        layers = config.memory_layers
        n_banks = min(len(layers), 1) if config.shared_bank else len(layers)
        self.banks = nn.ModuleList(config.memory.build_bank(self.embedding) for _ in range(n_banks))
        self._bank_idx = {layer: 0 if config.shared_bank else i for i, layer in enumerate(layers)}
        self.blocks = nn.ModuleList(self._build_block(layer) for layer in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        # Tied embeddings are one parameter with one name, so no checkpoint can untie them.
        self.output = None if config.tie_embeddings else nn.Linear(config.d_model, vocab_size, bias=False)
        self.reset_parameters()

    def _build_block(self, layer: int) -> Block:
        config, memory = self.config, self.config.memory
        if layer not in self._bank_idx:
            return Block(config, layer, build_feed_forward(config))
        feed_forward = None if config.placement == "replace" else build_feed_forward(config)
        fusion = config.fusion.build(config.d_model, memory.n_reads, memory.value_width)
        return Block(config, layer, feed_forward, memory.build(config.d_model), fusion)

    def bank_of(self, layer: int) -> Bank | None:
        """Returns the bank that a layer reads, None if it reads none."""
        index = self._bank_idx.get(layer)
        return None if index is None else self.banks[index]  # pyright: ignore[reportReturnType]

    def reset_parameters(self) -> None:
        """Draws every matrix from N(0, init_std), smaller where it writes to the residual stream (GPT-2's rule).

        Memories, banks and fusions then initialise what they want otherwise.
        """
        std = self.config.init_std
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                writes = name.endswith(("attention.output", "fusion.output", ".down"))
                nn.init.normal_(module.weight, std=std * (2 * self.config.n_layers) ** -0.5 if writes else std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=std)
        for module in self.modules():  # after the rule above, which would otherwise have the last word
            if isinstance(module, (RMSNorm, Memory, Bank, Fusion)):
                module.reset_parameters()

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> DecoderOutput:
        """Runs the blocks.

        Args:
            input_ids: Tokens, [B, T]; where ``inputs_embeds`` is given, only a memory that asks for tokens needs them.
            positions: Position of each token, [B, T] or [1, T]; 0 .. T-1 if not given.
            mask: What each token may see, [B, 1, T, S]; None: itself and every token before it.
            cache: Keys and values of earlier tokens. For a memory that asks for tokens it also keeps those, as one more
                layer.
            inputs_embeds: Embeddings instead of tokens, [B, T, D].

        Raises:
            ValueError: there are no tokens, and the memory asks for them.
        """
        tokens = self._tokens(input_ids, mask, cache)
        hidden = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        device = hidden.device.type
        if not hidden.is_meta and torch.is_autocast_enabled(device):
            # The residual stream is most of what a step reads and writes: 16 bits halve that.
            hidden = hidden.to(torch.get_autocast_dtype(device))
        if positions is None:
            positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        rope = rotations(positions, self.config.d_model // self.config.n_heads, self.config.rope_theta)
        balance_loss = hidden.new_zeros((), dtype=torch.float32)
        reads: dict[int, MemoryRead] = {}
        for layer, block in enumerate(self.blocks):
            output: BlockOutput = block(hidden, rope, mask, cache, self.bank_of(layer), tokens)
            hidden, balance_loss = output.hidden, balance_loss + output.balance_loss
            if output.read is not None:
                reads[layer] = output.read
        return DecoderOutput(self.norm(hidden), balance_loss, reads)

    def _tokens(self, input_ids: Tensor | None, mask: Tensor | None, cache: Cache | None) -> Tensor | None:
        memory = self.config.memory
        if memory is None or not memory.n_tokens:
            return None
        if input_ids is None:
            raise ValueError(
                f"memory {memory.type} reads by the ids of tokens; give input_ids, not inputs_embeds alone"
            )
        return last_tokens(input_ids, memory.n_tokens, mask, cache, len(self.blocks))

    @property
    def output_weight(self) -> Tensor:
        """The output matrix, [V, D]."""
        return self.embedding.weight if self.output is None else self.output.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits [..., V] of the decoder's ``hidden`` [..., D]."""
        return F.linear(hidden, self.output_weight)
