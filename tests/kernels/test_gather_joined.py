"""The hidden state with scaled values beside it: values, gradients, compact gradients, autocast, and the compiler."""

import pytest
import torch

from memlm.kernels.gather_joined import gather_joined, reference
from tests.kernels.rows import DEVICE, DTYPES, SIZES, assert_near, draw, exact
from tests.kernels.test_segments import compact_of
from tests.tolerances import FLOAT32


def hidden_for(reads, width, dtype=torch.float32):
    generator = torch.Generator().manual_seed(width)
    return torch.randn(len(reads.slots), width, generator=generator).to(DEVICE, dtype)


def formula(hidden, values, slots, scales):
    return torch.cat([hidden.double(), (values[slots].double() * scales[..., None]).flatten(-2)], dim=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("size", "width"), list(zip(SIZES, (0, 7, 64, 1, 1030), strict=True)))
def test_what_is_joined_is_that_of_the_formula(size, width, dtype):
    from memlm.kernels.gather_joined import fast

    reads = draw(*size, dtype=dtype)
    hidden = hidden_for(reads, width)
    right = formula(hidden, *reads[:3])
    for to in DTYPES:
        found = fast.gather_joined(hidden, *reads[:3], to, reads=4, columns=64)
        assert found.dtype == to
        assert_near(found, right)
    assert_near(reference.gather_joined(hidden, *reads[:3]), right)


def test_integers_are_joined_as_numbers():
    from memlm.kernels.gather_joined import fast

    reads = draw(9, 5, 20, 30)
    integers, hidden = (40 * reads.values).round().clamp(-127, 127).to(torch.int8), hidden_for(reads, 7)
    right = formula(hidden, integers, *reads[1:3])
    assert_near(fast.gather_joined(hidden, integers, *reads[1:3], torch.float32), right)
    assert_near(gather_joined(hidden, integers, *reads[1:3]), right)


def test_the_fast_version_reads_tables_of_any_strides():
    from memlm.kernels.gather_joined import fast

    reads = draw(5, 3, 20, 9)
    off = reads.values.new_zeros(1, 1).expand_as(reads.values)
    hidden = hidden_for(reads, 4)
    assert torch.equal(
        fast.gather_joined(hidden, off, *reads[1:3], torch.float32), torch.cat([hidden, hidden.new_zeros(5, 60)], 1)
    )


@pytest.mark.parametrize("width", [0, 6])
def test_gradients_are_those_of_the_formula(width):
    reads = draw(10, 5, 8, 20, wide=True)
    values, scales = reads.values.requires_grad_(), reads.weights.requires_grad_()
    hidden = hidden_for(reads, width).requires_grad_()
    front = hidden_for(reads, width) + 1
    joined = gather_joined(hidden.view(2, 5, width), values, reads.slots.view(2, 5, 5), scales.view(2, 5, 5))
    assert joined.shape == (2, 5, width + 40)
    joined.backward(torch.cat([front, reads.grad], dim=1).view(2, 5, -1))
    assert torch.equal(hidden.grad, front)
    for found, right in zip((values.grad, scales.grad), exact(reads), strict=True):
        assert_near(found, right)


def test_a_compact_gradient_goes_to_its_carrier_and_none_to_the_table():
    reads = draw(10, 5, 8, 20, wide=True)
    values, scales = reads.values.requires_grad_(), reads.weights.requires_grad_()
    compact = compact_of(reads)
    gather_joined(hidden_for(reads, 0), values, reads.slots, scales, compact).backward(reads.grad)
    right, products = exact(reads)
    assert values.grad is None
    assert_near(compact.carrier.grad[compact.positions.long()], right[reads.slots])
    assert_near(scales.grad, products)


def test_values_that_do_not_learn_cost_no_gradient():
    reads = draw(10, 5, 8, 20, wide=True)
    scales = reads.weights.requires_grad_()
    gather_joined(hidden_for(reads, 0), reads.values, reads.slots, scales).backward(reads.grad)
    assert_near(scales.grad, exact(reads)[1])


def test_under_autocast_it_has_its_dtype_and_is_rounded_once():
    reads = draw(10, 5, 8, 20)
    hidden = hidden_for(reads, 6).requires_grad_()
    values = reads.values.requires_grad_()
    plain = gather_joined(hidden, values, reads.slots, reads.weights)
    with torch.autocast(DEVICE, torch.bfloat16):
        under = gather_joined(hidden, values, reads.slots, reads.weights)
        assert_near(under, plain.detach().double())
        assert [grad.dtype for grad in torch.autograd.grad(under.sum(), (hidden, values))] == [torch.float32] * 2


@pytest.mark.parametrize("is_compact", [False, True])
def test_it_compiles_whole_with_its_gradient(is_compact):
    reads = draw(10, 5, 8, 20)
    hidden = hidden_for(reads, 6).requires_grad_()
    values, scales = reads.values.requires_grad_(), reads.weights.requires_grad_()
    compact = compact_of(reads) if is_compact else None
    learning = (hidden, compact.carrier if compact else values, scales)

    def loss(hidden, values, slots, scales, compact):
        return gather_joined(hidden, values, slots, scales, compact).square().sum()

    expected = torch.autograd.grad(loss(hidden, values, reads.slots, scales, compact), learning)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(hidden, values, reads.slots, scales, compact), learning)
    torch.testing.assert_close(found, expected, **FLOAT32)


@pytest.mark.parametrize("is_compact", [False, True])
def test_the_operation_obeys_the_rules_of_custom_operations(is_compact):
    reads = draw(7, 3, 20, 9)
    compact = compact_of(reads) if is_compact else (None, None)
    hidden = hidden_for(reads, 6).requires_grad_()
    arguments = (hidden, reads.values.requires_grad_(), reads.slots, reads.weights.requires_grad_(), *compact)
    torch.library.opcheck(torch.ops.memlm.gather_joined.default, (*arguments, torch.float32))
