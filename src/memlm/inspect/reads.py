"""Which slots a text reads: for each of its tokens, layer by layer, with weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from memlm.errors import RunError
from memlm.hf import MemlmForCausalLM
from memlm.inspect.entries import entries_of


@dataclass(frozen=True)
class LayerReads:
    """What one layer read.

    Attributes:
        layer: The layer.
        bank: Its bank, counted from 0.
        slots: [T, H, K] as lists, each head's best first.
        weights: [T, H, K] as lists.
        entries: What these slots stand for, by slot; those that are vectors are missing.
    """

    layer: int
    bank: int
    slots: list[list[list[int]]]
    weights: list[list[list[float]]]
    entries: dict[int, str]


@dataclass(frozen=True)
class TextReads:
    """What a text read.

    Attributes:
        tokens: The text of each token, [T]; together they are the text. A token that goes on within a character, of
            which the token before it has the whole, is empty.
        layers: What each memory layer read.
    """

    tokens: list[str]
    layers: list[LayerReads]


@torch.inference_mode()
def read_text(model: MemlmForCausalLM, tokenizer: Tokenizer, text: str) -> TextReads:
    """Returns what ``text`` reads, from one forward pass in eval mode.

    Args:
        model: The model, in eval mode.
        tokenizer: Its tokenizer.
        text: Any text. The name of a special token is that token.

    Raises:
        RunError: the text is empty, or longer than the model's sequences.
    """
    encoding = tokenizer.encode(text, add_special_tokens=False)
    limit: int = model.config.max_position_embeddings
    if not encoding.ids:
        raise RunError("the text is empty; give at least one character")
    if len(encoding.ids) > limit:
        raise RunError(
            f"the text has {len(encoding.ids)} tokens, and the model was trained on {limit}; give a part of it"
        )
    decoder = model.decoder
    banks = list(decoder.banks)
    reads = decoder(torch.tensor([encoding.ids], device=decoder.embedding.weight.device)).reads
    layers = [
        LayerReads(
            layer,
            banks.index(read.bank),
            read.slots[0].tolist(),
            read.weights[0].float().tolist(),
            entries_of(tokenizer, read.bank, read.slots.flatten().tolist()),
        )
        for layer, read in sorted(reads.items())
    ]
    return TextReads(_pieces(text, encoding.offsets), layers)


def _pieces(text: str, offsets: list[tuple[int, int]]) -> list[str]:
    """Cuts a text at the tokens' offsets; all tokens of one character have the offsets of the whole."""
    pieces: list[str] = []
    reached = 0
    for _, end in offsets:
        pieces.append(text[reached:end])
        reached = max(reached, end)
    return pieces
