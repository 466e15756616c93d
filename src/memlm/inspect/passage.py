"""A place in the training text, as text: the token that read, and what stands around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

BEFORE, AFTER = 16, 8
"""Tokens shown before and after the one that read."""
HALF = "\ufffd"
"""What the tokenizer writes for a part of a character."""


@dataclass(frozen=True)
class Passage:
    """A place in the training text.

    Attributes:
        position: Index among the training tokens.
        before: What the model saw before the token, the end of it.
        token: The token; empty where it goes on within a character.
        after: What follows in the text, which the model did not see.
    """

    position: int
    before: str
    token: str
    after: str

    @property
    def text(self) -> str:
        """All of it."""
        return self.before + self.token + self.after


def passages(tokenizer: Tokenizer, ids: np.ndarray, positions: list[int], seq_len: int) -> list[Passage]:
    """Returns the places at ``positions`` of the training tokens ``ids``, cut into sequences of ``seq_len``."""
    parts: list[list[int]] = []
    for position in positions:
        start = max(position - BEFORE, position // seq_len * seq_len)  # where its sequence begins
        end = position + 1 + AFTER
        parts += [ids[start:p].tolist() for p in (position, position + 1, end)]
    # Parts of one window that begin alike, so that a character of several tokens falls to the last of them.
    decoded = [text.rstrip(HALF) for text in tokenizer.decode_batch(parts, skip_special_tokens=False)]
    found: list[Passage] = []
    for number, position in enumerate(positions):
        before, through, whole = decoded[3 * number : 3 * number + 3]
        found.append(Passage(position, before.lstrip(HALF), through[len(before) :], whole[len(through) :]))
    return found
