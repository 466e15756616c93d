"""The weighted sum of rows: values, gradients, compact gradients, autocast, and the compiler."""

import pytest
import torch

from memlm.kernels.segments import CompactRows
from memlm.kernels.weighted_lookup import reference, weighted_lookup
from tests.kernels.rows import DEVICE, DTYPES, SIZES, assert_near, draw, exact
from tests.kernels.test_segments import compact_of
from tests.tolerances import FLOAT32

SIZES_OF_READS = [*SIZES, (2, 40, 300, 30)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES_OF_READS)
def test_sums_are_those_of_the_formula(size, dtype):
    from memlm.kernels.weighted_lookup import fast

    reads = draw(*size, dtype=dtype)
    right = (reads.values[reads.slots].double() * reads.weights[..., None]).sum(-2)
    assert_near(fast.weighted_lookup(*reads[:3], dtype), right)
    assert_near(fast.weighted_lookup(*reads[:3], torch.float32, reads=4, row_bytes=64), right)
    if dtype == torch.float32:
        assert_near(reference.weighted_lookup(*reads[:3]), right)


def test_the_fast_version_reads_tables_of_any_strides():
    from memlm.kernels.weighted_lookup import fast

    reads = draw(5, 3, 20, 9)
    off = reads.values.new_full((1, 1), 2.0).expand_as(reads.values)  # one number for all, as with the memory off
    assert_near(fast.weighted_lookup(off, *reads[1:3], torch.float32), 2 * reads.weights.sum(-1, True).expand(5, 20))


@pytest.mark.parametrize("size", SIZES_OF_READS)
def test_sums_of_16_bits_can_come_in_32(size):
    from memlm.kernels.weighted_lookup import fast, reference

    reads = draw(*size, dtype=torch.bfloat16)
    right = (reads.values.double()[reads.slots] * reads.weights.double()[..., None]).sum(1)
    for found in (
        fast.weighted_lookup(*reads[:3], torch.float32),
        reference.weighted_lookup(*reads[:3], torch.float32),
        weighted_lookup(*reads[:3], dtype=torch.float32),
    ):
        assert found.dtype == torch.float32
        assert_near(found, right)


@pytest.mark.parametrize("size", SIZES_OF_READS)
def test_integers_are_read_as_numbers(size):
    from memlm.kernels.weighted_lookup import fast

    reads = draw(*size)
    integers = (40 * reads.values).round().clamp(-127, 127).to(torch.int8)
    right = (integers[reads.slots].double() * reads.weights[..., None]).sum(-2)
    assert_near(fast.weighted_lookup(integers, *reads[1:3], torch.float32), right)
    assert_near(weighted_lookup(integers, *reads[1:3]), right)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 6)])
def test_gradients_are_those_of_plain_torch(shape):
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(11, 4, requires_grad=True, generator=generator)
    slots = torch.randint(11, shape, generator=generator)  # rows repeat
    weights = torch.randn(shape, requires_grad=True, generator=generator)
    seed = torch.randn(*shape[:-1], 4, generator=generator)
    result = weighted_lookup(values, slots, weights)
    expected = (values[slots] * weights[..., None]).sum(-2)
    torch.testing.assert_close(result, expected, **FLOAT32)
    gradients = torch.autograd.grad(result, (values, weights), seed)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, (values, weights), seed), **FLOAT32)


def test_a_compact_gradient_goes_to_its_carrier_and_none_to_the_table():
    reads = draw(12, 5, 8, 20)
    values, weights = reads.values.requires_grad_(), reads.weights.requires_grad_()
    carrier, positions = compact_of(reads)
    halves = [CompactRows(carrier, part.view(2, 3, 5)) for part in positions.split(6)]
    for part, compact, grad in zip(reads.slots.split(6), halves, reads.grad.split(6), strict=True):
        begin = 0 if compact is halves[0] else 6
        total = weighted_lookup(values, part.view(2, 3, 5), weights[begin : begin + 6].view(2, 3, 5), compact)
        total.backward(grad.view(2, 3, 8))  # two calls add up, because a row keeps its position
    right, products = exact(reads)
    assert values.grad is None
    assert_near(carrier.grad[positions.long()], right[reads.slots])
    assert_near(weights.grad, products)


def test_values_that_do_not_learn_cost_no_gradient():
    reads = draw(12, 5, 8, 20)
    weights = reads.weights.requires_grad_()
    weighted_lookup(reads.values, reads.slots, weights).backward(reads.grad)
    assert_near(weights.grad, exact(reads)[1])


def test_under_autocast_the_sum_has_its_dtype_and_is_rounded_once():
    reads = draw(12, 5, 8, 20)
    values = reads.values.requires_grad_()
    plain = weighted_lookup(values, reads.slots, reads.weights)
    with torch.autocast(DEVICE, torch.bfloat16):
        under = weighted_lookup(values, reads.slots, reads.weights)
        (found,) = torch.autograd.grad(under, values, reads.grad.bfloat16())
    assert torch.equal(under, plain.bfloat16())
    assert found.dtype == torch.float32
    assert_near(found, exact(reads._replace(grad=reads.grad.bfloat16()))[0])


@pytest.mark.parametrize("is_compact", [False, True])
def test_it_compiles_whole_with_its_gradient(is_compact):
    reads = draw(12, 5, 8, 20)
    values, weights = reads.values.requires_grad_(), reads.weights.requires_grad_()
    compact = compact_of(reads) if is_compact else None
    learning = (compact.carrier if compact else values, weights)

    def loss(values, slots, weights, compact):
        return weighted_lookup(values, slots, weights, compact).square().sum()

    expected = torch.autograd.grad(loss(values, reads.slots, weights, compact), learning)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(values, reads.slots, weights, compact), learning)
    torch.testing.assert_close(found, expected, **FLOAT32)


@pytest.mark.parametrize("is_compact", [False, True])
def test_the_operation_obeys_the_rules_of_custom_operations(is_compact):
    reads = draw(7, 3, 20, 9)
    compact = compact_of(reads) if is_compact else (None, None)
    arguments = (reads.values.requires_grad_(), reads.slots, reads.weights.requires_grad_(), *compact, torch.float32)
    torch.library.opcheck(torch.ops.memlm.weighted_lookup.default, arguments)
