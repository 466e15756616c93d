"""The order of sequences: complete, repeatable, and the same from wherever it is entered."""

import numpy as np
import pytest

from memlm.data.sampler import Sampler
from memlm.errors import DataError

T, B = 4, 3
TOKENS = np.arange(4 * 10 + 3, dtype=np.uint16)  # ten sequences, and a rest that fills none


def sampler(seed=0):
    return Sampler(TOKENS, T, B, seed)


def starts(sampler, n_batches):
    return np.concatenate([sampler.batch(index)[:, 0] for index in range(n_batches)]) // T


def test_batch_is_inputs_and_targets():
    batch = sampler().batch(0)
    assert batch.shape == (B, T + 1) and batch.dtype == np.int64
    assert np.array_equal(batch - batch[:, :1], np.tile(np.arange(T + 1), (B, 1)))
    assert np.all(batch[:, 0] % T == 0)


def test_every_epoch_holds_every_sequence_once_in_another_order():
    order = starts(sampler(), 10)  # three epochs of ten sequences
    epochs = order.reshape(3, 10)
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert not np.array_equal(epochs[0], epochs[1])


def test_a_batch_larger_than_an_epoch():
    large = Sampler(TOKENS, T, 25, 0)
    assert np.array_equal(large.batch(1)[:, 0] // T, starts(Sampler(TOKENS, T, 5, 0), 10)[25:])


def test_seek_gives_the_same_batch():
    one = sampler()
    batches = [one.batch(index) for index in range(20)]
    for index in (19, 3, 4, 0, 11):
        assert np.array_equal(sampler().batch(index), batches[index])
        assert np.array_equal(one.batch(index), batches[index])


def test_seeking_far_reads_one_batch_only():
    class Counting:
        def __init__(self):
            self.reads = 0

        def __len__(self):
            return 1_000_001

        def __getitem__(self, part):
            self.reads += 1
            return np.zeros(part.stop - part.start, dtype=np.uint16)

    tokens = Counting()
    Sampler(tokens, 100, B, 0).batch(10**9)
    assert tokens.reads == B


def test_seed_decides_the_order():
    assert np.array_equal(starts(sampler(1), 9), starts(sampler(1), 9))
    assert not np.array_equal(starts(sampler(1), 9), starts(sampler(2), 9))


def test_counts():
    assert sampler().n_sequences == 10
    assert sampler().batches_per_epoch == pytest.approx(10 / 3)
    assert Sampler(TOKENS[:5], T, 1, 0).n_sequences == 1


def test_too_few_tokens():
    with pytest.raises(DataError, match=r"^4 tokens are fewer than one sequence of data.seq_len \+ 1 = 5$"):
        Sampler(TOKENS[:4], T, 1, 0)
