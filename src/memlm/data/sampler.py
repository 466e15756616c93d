"""The order of training sequences: any batch can be asked for, and costs the same."""

from __future__ import annotations

import numpy as np

from memlm.errors import DataError


class Sampler:
    """Shuffled sequences of a row of tokens; every epoch is another permutation of all of them.

    Sequence ``i`` is ``tokens[i * T : i * T + T + 1]``: inputs and, shifted by one, targets. Batches run on across the
    border of epochs, so no sequence is lost.

    Args:
        tokens: Token ids [n_tokens]; only the sequences of a batch are read.
        seq_len: T.
        batch_size: B.
        seed: Decides the order, and nothing else does.

    Raises:
        DataError: there are too few tokens for one sequence.
    """

    def __init__(self, tokens: np.ndarray, seq_len: int, batch_size: int, seed: int) -> None:
        self.tokens, self.seq_len, self.batch_size, self.seed = tokens, seq_len, batch_size, seed
        self.n_sequences = (len(tokens) - 1) // seq_len
        if self.n_sequences < 1:
            raise DataError(f"{len(tokens)} tokens are fewer than one sequence of data.seq_len + 1 = {seq_len + 1}")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    @property
    def batches_per_epoch(self) -> float:
        """Batches in one epoch; the last one is shared with the next epoch."""
        return self.n_sequences / self.batch_size

    def batch(self, index: int) -> np.ndarray:
        """Returns batch ``index`` (from 0), int64 [B, T + 1]; it depends on the seed and the index alone."""
        assert index >= 0, "batches are counted from 0"
        B, T = self.batch_size, self.seq_len
        sequences = [self.sequence(position) for position in range(index * B, index * B + B)]
        return np.stack([self.tokens[i * T : i * T + T + 1] for i in sequences]).astype(np.int64)

    def sequence(self, position: int) -> int:
        """Returns which sequence stands at ``position`` of the row of all batches."""
        epoch, within = divmod(position, self.n_sequences)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.n_sequences)
        return int(self._order[within])
