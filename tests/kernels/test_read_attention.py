"""Attention over a token's reads: the operation and its fast version against formulas in float64."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memlm.kernels.read_attention import _dense_rows, read_attention
from tests.tolerances import FLOAT32

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter multiplies the bits of bfloat16 as if they were integers.
HALF = torch.bfloat16 if DEVICE == "cuda" else torch.float16
SIZES = [  # N, h, R, d
    (37, 8, 8, 128),
    (11, 3, 5, 20),
    (5, 1, 1, 8),
    (9, 12, 2, 33),
    (6, 1, 64, 16),
    (3, 64, 24, 64),
    (2, 7, 33, 256),
    (1, 16, 16, 48),
]
SCALE = 0.3


def draw(n, heads, reads, width, dtype=torch.float32):
    """Returns query, values (read more than once, as hot slots are), bias, and the gradient from above."""
    generator = torch.Generator().manual_seed(n * heads + reads)
    table = torch.randn(11, width, generator=generator)
    rank = torch.arange(1, 12.0)
    slots = torch.multinomial(1 / rank, n * reads, replacement=True, generator=generator)
    query, grad = torch.randn(2, n, heads, width, generator=generator)
    bias = torch.randn(n, reads, generator=generator).mul(2).log_softmax(-1)
    values = table[slots].view(n, reads, width)
    return query.to(dtype), values.to(dtype), bias, grad.to(dtype)


def formula(query, values, bias):
    logits = torch.einsum("nhd,nrd->nhr", query, values) * SCALE + bias[:, None]
    return torch.einsum("nhr,nrd->nhd", logits.softmax(-1), values)


def exact(query, values, bias, grad):
    """Returns the result and the gradients in float64."""
    inputs = [tensor.double().requires_grad_() for tensor in (query, values, bias)]
    result = formula(*inputs)
    return result.detach(), *torch.autograd.grad(result, inputs, grad.double())


@pytest.mark.parametrize("size", SIZES)
def test_results_and_gradients_are_those_of_the_formula(size):
    query, values, bias, grad = draw(*size)
    inputs = [tensor.requires_grad_() for tensor in (query, values, bias)]
    result = read_attention(*inputs, SCALE)
    found = result.detach(), *torch.autograd.grad(result, inputs, grad)
    for ours, theirs in zip(found, exact(query, values, bias, grad), strict=True):
        torch.testing.assert_close(ours, theirs.float(), **FLOAT32)


def test_gradients_in_float64():
    query, values, bias, _ = (tensor.double().requires_grad_() for tensor in draw(4, 2, 3, 5))
    torch.autograd.gradcheck(lambda *inputs: read_attention(*inputs, SCALE), (query, values, bias))


def run_fast(query, values, bias, grad, **options):
    from memlm.kernels.read_attention import fast

    given = [tensor.to(DEVICE) for tensor in (query, values, bias, grad)]
    result = fast.attend(*given[:3], SCALE, **options)
    return [part.cpu() for part in (result, *fast.backward(given[3], *given[:3], SCALE, **options))]


@pytest.mark.parametrize(("dtype", "share"), [(torch.float32, 1e-5), (HALF, 2 * torch.finfo(HALF).eps)])
@pytest.mark.parametrize("size", SIZES)
def test_the_fast_version_equals_the_formula(size, dtype, share):
    inputs = draw(*size, dtype)
    for found, right in zip(run_fast(*inputs), exact(*inputs), strict=True):
        assert (found.double() - right).norm() <= share * right.norm() + 1e-7


@pytest.mark.parametrize("block", [1, 2, 4])
def test_any_number_of_tokens_a_program_gives_the_same(block):
    inputs = draw(10, 3, 5, 24)
    for found, right in zip(run_fast(*inputs, block=block, warps=4), exact(*inputs), strict=True):
        torch.testing.assert_close(found, right.float(), **FLOAT32)


def test_the_fast_version_gives_the_same_bits_twice():
    inputs = draw(37, 8, 8, 32, HALF)
    for first, second in zip(run_fast(*inputs), run_fast(*inputs), strict=True):
        assert torch.equal(first, second)


def test_the_fast_version_takes_queries_whose_heads_come_first():
    query, values, bias, grad = draw(7, 4, 3, 16)
    swapped = [tensor.transpose(0, 1).contiguous().transpose(0, 1) for tensor in (query, grad)]
    assert not swapped[0].is_contiguous()
    found = run_fast(swapped[0], values, bias, swapped[1])
    for ours, theirs in zip(found, run_fast(query, values, bias, grad), strict=True):
        assert torch.equal(ours, theirs)


def test_a_weight_of_nothing_gives_no_gradient_and_no_nan():
    query, values, bias, grad = draw(5, 2, 4, 16)
    bias[:, 1] = -1e4
    _, _, grad_values, grad_bias = found = run_fast(query, values, bias, grad)
    assert all(part.isfinite().all() for part in found)
    assert not grad_values[:, 1].any() and not grad_bias[:, 1].any()


def test_rows_are_made_dense_only_where_they_are_not():
    query = torch.zeros(3, 4, 8)
    assert _dense_rows(query.transpose(0, 1)).data_ptr() == query.data_ptr()
    assert _dense_rows(query.transpose(1, 2)).is_contiguous()
    assert _dense_rows(torch.zeros(()).expand(3, 4, 8)).is_contiguous()


def test_the_operation_obeys_the_rules_of_custom_operations():
    query, values, bias, _ = draw(9, 2, 3, 12)
    swapped = query.transpose(0, 1).contiguous().transpose(0, 1)
    operation = torch.ops.memlm.read_attention.default
    for asked in (query, swapped):
        inputs = [tensor.detach().requires_grad_() for tensor in (asked, values, bias)]
        torch.library.opcheck(operation, (*inputs, SCALE))


def test_autocast_leaves_its_sums_alone():
    inputs = [tensor.requires_grad_() for tensor in draw(9, 2, 3, 12)[:3]]
    result = read_attention(*inputs, SCALE)
    gradients = torch.autograd.grad(result.sum(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(read_attention(*inputs, SCALE), result)
        for ours, theirs in zip(
            torch.autograd.grad(read_attention(*inputs, SCALE).sum(), inputs), gradients, strict=True
        ):
            assert torch.equal(ours, theirs)


def test_it_compiles_whole_with_its_gradient():
    def loss(query, values, bias):
        return read_attention(query, values, bias, SCALE).square().sum()

    inputs = [tensor.requires_grad_() for tensor in draw(9, 2, 3, 12)[:3]]
    expected = torch.autograd.grad(loss(*inputs), inputs)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(*inputs), inputs), expected, **FLOAT32)


def test_its_operations_are_counted():
    inputs = [tensor.requires_grad_() for tensor in draw(9, 2, 3, 12)[:3]]
    with FlopCounterMode(display=False) as counter:
        result = read_attention(*inputs, SCALE)
        forward = counter.get_total_flops()
        result.sum().backward()
    assert forward == 4 * 9 * 2 * 3 * 12
    assert counter.get_total_flops() == 3 * forward
