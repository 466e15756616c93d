"""The gradient of reading rows: the fast version and the reference against formulas, whole table and compact."""

import pytest
import torch

from memlm.kernels import segments
from memlm.kernels.segments import CompactRows, Layout
from tests.kernels.rows import DEVICE, DTYPES, SIZES, assert_near, draw, exact

SUMMED = Layout(0, 0)


def layout(reads, wide):
    return Layout(0, reads.values.shape[1]) if wide else SUMMED


def fast(reads, where=SUMMED, rows=None, target=None, **knobs):
    from memlm.kernels import segments_fast

    values, slots, weights, grad = reads
    rows, target = slots if rows is None else rows, values if target is None else target
    return segments_fast.read_gradients(grad, where, values, slots, weights, rows, target, **knobs)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_the_formula(size, dtype, wide):
    reads = draw(*size, dtype=dtype, wide=wide)
    where, right = layout(reads, wide), exact(reads)
    for found in (fast(reads, where), segments.reference(reads.grad, where, *reads[:3], reads.slots, reads.values)):
        assert [tensor.dtype for tensor in found] == [dtype, torch.float32]
        for ours, theirs in zip(found, right, strict=True):
            assert_near(ours, theirs)


@pytest.mark.parametrize("traffic", ["zipf", "hot", "one"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_many_chunks_read_are_summed_once(traffic, dtype):
    reads = draw(38, 16, 20, 70, dtype, traffic)  # 608 reads in chunks of 16: three levels of sums
    found = fast(reads, chunk=16, columns=16)
    for ours, theirs in zip(found, exact(reads), strict=True):
        assert_near(ours, theirs)
    again = fast(reads, chunk=16, columns=16)
    assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_rows_meet_the_borders_of_chunks_in_every_way(ahead, monkeypatch):
    """Rows of 1 to 13 reads begin and end anywhere in chunks of 4, and some go on through three of them."""
    sound = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: sound(*a, **k).fill_(99))  # what was there before
    lengths = torch.tensor([*range(1, 14), 1, 4, 8, 12, 4, 3, 5, 1, 7, 9]).to(DEVICE)
    slots = torch.repeat_interleave(torch.arange(len(lengths), device=DEVICE), lengths)[:, None]
    reads = draw(len(slots), 1, 8, len(lengths))._replace(slots=slots)
    for ours, theirs in zip(fast(reads, chunk=4, columns=4, ahead=ahead), exact(reads), strict=True):
        assert_near(ours, theirs)


@pytest.mark.parametrize("n_rows", [40, 70])
def test_many_rows_are_sorted_by_more_bits(n_rows, monkeypatch):
    from memlm.kernels import segments_fast

    reads = draw(30, 5, 8, n_rows)
    few = fast(reads)
    monkeypatch.setattr(segments_fast, "INT16_ROWS", 50)
    for ours, theirs, right in zip(fast(reads), few, exact(reads), strict=True):
        assert_near(ours, right)
        assert_near(theirs, right)


def test_rows_beyond_the_positive_numbers_of_16_bits():
    n_slots = 1 << 16
    slots = torch.tensor([[0, n_slots - 1], [1 << 15, (1 << 15) - 1], [n_slots - 1, 0]], device=DEVICE)
    reads = draw(3, 2, 4, n_slots)._replace(slots=slots)
    found, _ = fast(reads, clear_rows=1 << 12)
    assert_near(found, exact(reads)[0])


def compact_of(reads, others=5, spare=4, dtype=torch.float32):
    """Gives the rows that are read positions among ``others`` that some other call read."""
    rows = torch.randperm(int(reads.slots.max()) + 1 + others, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    carrier = torch.zeros((), dtype=dtype, device=DEVICE).expand(len(rows) + spare, reads.values.shape[1])
    return CompactRows(carrier.detach().requires_grad_(), rows[reads.slots].int())


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_compact_gradients_hold_the_same_rows_and_zeros(size, dtype, wide, monkeypatch):
    sound = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **k: sound(*a, **k).fill_(99))  # what was there before
    reads = draw(*size, traffic="zipf", wide=wide)
    compact, where = compact_of(reads, dtype=dtype), layout(reads, wide)
    right, weights = exact(reads)
    expected = torch.zeros(compact.carrier.shape, dtype=torch.float64, device=DEVICE)
    expected[compact.positions.flatten().long()] = right[reads.slots.flatten()]
    found = fast(reads, where, compact.positions, compact.carrier)
    plain = segments.reference(reads.grad, where, *reads[:3], compact.positions, compact.carrier)
    for sums, products in (found, plain):
        assert sums.dtype == dtype and sums.shape == compact.carrier.shape
        assert_near(sums, expected)
        assert_near(products, weights)


@pytest.mark.parametrize("of_grad", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_values_of_16_bits_have_a_compact_gradient_of_32(size, of_grad):
    reads = draw(*size, traffic="zipf", dtype=torch.bfloat16)
    reads = reads._replace(grad=reads.grad.to(of_grad))
    compact = compact_of(reads, dtype=torch.float32)
    right, weights = exact(reads)
    expected = torch.zeros(compact.carrier.shape, dtype=torch.float64, device=DEVICE)
    expected[compact.positions.flatten().long()] = right[reads.slots.flatten()]
    plain = segments.reference(reads.grad, SUMMED, *reads[:3], compact.positions, compact.carrier)
    for sums, products in (fast(reads, SUMMED, compact.positions, compact.carrier), plain):
        assert sums.dtype == torch.float32
        assert_near(sums, expected)
        assert_near(products, weights)


@pytest.mark.parametrize("wide", [False, True])
def test_weights_of_a_table_that_does_not_learn(wide):
    from memlm.kernels import segments_fast

    reads = draw(37, 3, 20, 50, wide=wide)
    where, (_, right) = layout(reads, wide), exact(reads)
    assert_near(segments_fast.weight_gradients(reads.grad, where, *reads[:3], reads=2, columns=16), right)
    sums, plain = segments.read_gradients(reads.grad, *where, False, *reads[:3], [])
    assert sums.shape == (0, 20)
    assert_near(plain, right)


def test_dtypes_that_no_kernel_is_made_for_are_named():
    bank = torch.zeros(2, 2, dtype=torch.float16)
    assert segments.obstacle(bank.bfloat16(), bank.float()) is None
    assert segments.obstacle(bank.float(), bank) == "it is made for bfloat16, float32 and int8, not torch.float16"


def test_the_operation_obeys_the_rules_of_custom_operations():
    reads = draw(7, 3, 20, 9)
    for target in ([], list(compact_of(reads))):
        for learns in (True, False):
            arguments = (reads.grad, 0, 0, learns, *reads[:3], target)
            torch.library.opcheck(
                torch.ops.memlm.read_gradients.default, arguments, test_utils=("test_schema", "test_faketensor")
            )
