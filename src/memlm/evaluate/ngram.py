"""A small n-gram language model: the judge of generated text, which knows none of the models it judges.

It smooths by interpolated absolute discounting (Ney, Essen and Kneser, "On structuring probabilistic dependences in
stochastic language modelling", Computer Speech & Language 8(1), 1994; Chen and Goodman, "An empirical study of
smoothing techniques for language modeling", Computer Speech & Language 13(4), 1999)::

    p(w | h) = (max(count(h w) - d, 0) + d * kinds(h) * p(w | h')) / total(h)

where h' is h without its oldest token, ``total(h)`` counts the tokens that followed h and ``kinds(h)`` the different
ones among them. What the discount d takes from each kind is what h' hands out, so the sum stays 1. Below the empty
context stands the uniform distribution, so no token has probability 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True, eq=False)
class _Level:
    """The n-grams of one length, as one level of a trie in sorted arrays."""

    keys: np.ndarray
    """Sorted ``context * vocab_size + token`` of each n-gram; its place here is the context's number one level on."""
    counts: np.ndarray
    """How often each n-gram occurs."""
    totals: np.ndarray
    """For each context: how many tokens followed it."""
    kinds: np.ndarray
    """For each context: how many different tokens followed it."""

    @cached_property
    def discount(self) -> float:
        """The d of these n-grams: Ney's n1 / (n1 + 2 n2), from how many occur once and twice.

        Each is counted one higher, which keeps d between 0 and 1 for texts that have none of them.
        """
        once, twice = ((self.counts == count).sum() + 1 for count in (1, 2))
        return float(once / (once + 2 * twice))

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Returns the place of each key, -1 where there is none."""
        place = np.searchsorted(self.keys, keys)
        place[place == len(self.keys)] = 0
        return np.where(self.keys[place] == keys, place, -1)


class NgramModel:
    """An interpolated n-gram model over token ids; see the module's docstring for the formula.

    Args:
        vocab_size: Number of tokens, over which every distribution sums to 1.
        levels: Counts of the 1-grams, 2-grams and so on.
    """

    def __init__(self, vocab_size: int, levels: list[_Level]) -> None:
        self.vocab_size = vocab_size
        self._levels = levels

    @classmethod
    def fit(cls, ids: np.ndarray, vocab_size: int, order: int = 5) -> NgramModel:
        """Counts the n-grams of a text.

        Args:
            ids: Token ids of the text, of shape [T].
            vocab_size: Number of tokens in the vocabulary.
            order: Longest n-gram; a token is predicted from up to ``order - 1`` tokens before it.

        Raises:
            ValueError: the text is empty or has a token outside the vocabulary, or the order is below 1.
        """
        ids = _checked(ids, vocab_size)
        if len(ids) == 0 or order < 1:
            raise ValueError(f"an n-gram model needs text and an order above 0, not {len(ids)} tokens and {order}")
        levels: list[_Level] = []
        context = np.zeros(len(ids), dtype=np.int64)
        n_contexts = 1
        for n in range(1, min(order, len(ids)) + 1):
            # context[s] numbers the (n-1)-gram that starts at s, densely, so that keys fit in 64 bits for any n.
            keys = context[: len(ids) - n + 1] * vocab_size + ids[n - 1 :]
            keys, context, counts = np.unique(keys, return_inverse=True, return_counts=True)
            parents = keys // vocab_size
            kinds = np.bincount(parents, minlength=n_contexts)
            totals = np.bincount(parents, weights=counts, minlength=n_contexts)
            levels.append(_Level(keys, counts, totals, kinds))
            n_contexts = len(keys)
        return cls(vocab_size, levels)

    def log_prob(self, ids: np.ndarray) -> np.ndarray:
        """Returns ln p of each token given the tokens before it, as far back as the order reaches.

        A context that the text never had says nothing: the next shorter one decides. The first tokens have the shorter
        contexts that there are.

        Args:
            ids: Token ids, of shape [T].

        Returns:
            Nats (at most 0), of shape [T].

        Raises:
            ValueError: a token is outside the vocabulary.
        """
        ids = _checked(ids, self.vocab_size)
        probability = np.full(len(ids), 1.0 / self.vocab_size)
        context = np.zeros(len(ids), dtype=np.int64)
        for n, level in enumerate(self._levels[: len(ids)], start=1):
            context = context[: len(ids) - n + 1]
            # The key of an unknown context (-1) is negative and is therefore never found.
            place = level.find(context * self.vocab_size + ids[n - 1 :])
            count = np.where(place >= 0, level.counts[place], 0)
            kinds = np.where(context >= 0, level.kinds[context], 0)
            shorter = probability[n - 1 :]
            discount = level.discount
            given = np.maximum(count - discount, 0) + discount * kinds * shorter
            longer = given / np.maximum(level.totals[context], 1)
            probability[n - 1 :] = np.where(kinds > 0, longer, shorter)
            context = place
        return np.log(probability)


def _checked(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    ids = np.asarray(ids, dtype=np.int64)
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ValueError(f"token ids {ids.min()} to {ids.max()} do not fit a vocabulary of {vocab_size}")
    return ids
