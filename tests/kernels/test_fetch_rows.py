"""Rows brought to a cache: the kernel does what plain torch does."""

import pytest
import torch

from memlm.kernels.fetch_rows import HotRows, fetch_rows, reference
from tests.kernels.rows import DEVICE, DTYPES

SIZES = [(1, 1, 1, 1), (7, 5, 20, 2), (40, 60, 33, 9), (16, 12, 128, 12)]
"""Reads, S, d, hot rows."""


def cache(n_reads, source, n_hot):
    """The last rows are hot, in reverse; the room holds what must not be read."""
    n_slots, width = source.shape
    slot_at = torch.arange(n_slots - 1, n_slots - 1 - n_hot, -1)
    place_of = torch.full((n_slots,), -1, dtype=torch.int32)
    place_of[slot_at] = torch.arange(n_hot, dtype=torch.int32)
    table = torch.full((n_hot + n_reads, width), torch.nan, dtype=source.dtype)
    table[:n_hot] = source[slot_at]
    tensors = (table, slot_at, place_of, torch.zeros_like(place_of), torch.tensor([10, 1]))
    return HotRows(*(tensor.to(DEVICE) for tensor in tensors))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_every_read_finds_its_row_and_is_counted(size, dtype):
    from memlm.kernels.fetch_rows import fast

    n_reads, n_slots, width, n_hot = size
    source = torch.randn(n_slots, width, generator=torch.Generator().manual_seed(width)).to(dtype)
    slots = torch.randint(n_slots, (n_reads,), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    expected, found = cache(n_reads, source, n_hot), cache(n_reads, source, n_hot)
    right = reference.fetch_rows(expected, source.to(DEVICE), slots)
    places = fast.fetch_rows(found, source.to(DEVICE), slots, columns=16)
    assert torch.equal(places, right)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(found.table[places].cpu(), source[slots.cpu()])
    assert torch.equal(found.counts.cpu(), slots.cpu().bincount(minlength=n_slots).int())
    missed = int((slots < n_slots - n_hot).sum())
    assert found.tally.tolist() == [10 + n_reads, 1 + missed]


def test_the_operation_obeys_the_rules_of_custom_operations():
    source = torch.randn(9, 4, device=DEVICE)
    slots = torch.tensor([0, 8, 3, 3], device=DEVICE)
    torch.library.opcheck(torch.ops.memlm.fetch_rows, (*cache(4, source.cpu(), 2), source, slots))
    assert fetch_rows(cache(4, source.cpu(), 2), source, slots).tolist() == [2, 0, 4, 5]
