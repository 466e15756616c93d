"""Row-wise AdamW: the reference against torch's AdamW bit for bit, the fast version against the reference."""

import math

import pytest
import torch

from memlm.kernels.rowwise_adamw import RowGradient, Settings, fast, reference, rowwise_adamw
from tests.tolerances import FLOAT32

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SETTINGS = Settings(lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8)
SIZES = [  # S, D, capacity, count
    (50, 37, 30, 17),
    (9, 128, 9, 9),
    (300, 4, 200, 131),
    (5, 1, 3, 1),
    (20, 300, 12, 0),
]


def draw(n_slots, width, capacity, count, dtype=torch.float32):
    """Returns a table with moments of some steps, and a gradient whose end is no number."""
    generator = torch.Generator().manual_seed(n_slots * width)
    values, exp_avg = torch.randn(2, n_slots, width, generator=generator)
    sums = torch.randn(capacity, width, generator=generator).to(dtype)
    sums[count:] = math.nan
    rows = torch.randperm(n_slots, generator=generator)[:capacity]
    gradient = RowGradient(rows.to(DEVICE), sums.to(DEVICE), torch.tensor([count], dtype=torch.int32, device=DEVICE))
    return [tensor.to(DEVICE) for tensor in (values, exp_avg, exp_avg.square())], gradient


def scalar(number):
    return torch.tensor(number, device=DEVICE)


def test_the_reference_is_torchs_adamw_bit_for_bit_where_every_row_has_a_gradient():
    generator = torch.Generator().manual_seed(0)
    dense = torch.nn.Parameter(torch.randn(12, 5, generator=generator))
    values, exp_avg, exp_avg_sq = dense.detach().clone(), torch.zeros(12, 5), torch.zeros(12, 5)
    lr, *betas, eps = SETTINGS
    optimizer = torch.optim.AdamW([dense], lr=lr, betas=betas, eps=eps, weight_decay=0.0, foreach=False, fused=False)
    for step in range(1, 7):
        dense.grad = torch.randn(12, 5, generator=generator)
        rows, factor = torch.randperm(12, generator=generator), torch.rand((), generator=generator)
        gradient = RowGradient(rows, dense.grad[rows], torch.tensor([12], dtype=torch.int32))
        dense.grad = dense.grad * factor
        optimizer.step()
        reference.rowwise_adamw(values, exp_avg, exp_avg_sq, gradient, torch.tensor(float(step)), factor, SETTINGS)
        moments = optimizer.state[dense]
        assert torch.equal(values, dense.detach())
        assert torch.equal(exp_avg, moments["exp_avg"]) and torch.equal(exp_avg_sq, moments["exp_avg_sq"])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("step", "tile"), [(1, 128), (1000, 16)])
def test_the_fast_version_equals_the_reference(size, dtype, step, tile):
    ours, gradient = draw(*size, dtype)
    theirs, _ = draw(*size, dtype)
    again, _ = draw(*size, dtype)
    before, _ = draw(*size, dtype)
    arguments = (gradient, scalar(float(step)), scalar(0.25), SETTINGS)
    fast.update(*ours, *arguments, tile=tile)
    fast.update(*again, *arguments, tile=tile)
    reference.rowwise_adamw(*theirs, *arguments)
    untouched = torch.ones(size[0], dtype=torch.bool, device=DEVICE).index_fill_(0, gradient.rows[: size[3]], False)
    for found, repeated, expected, old in zip(ours, again, theirs, before, strict=True):
        torch.testing.assert_close(found, expected, **FLOAT32)
        assert torch.equal(found, repeated), "two runs differ"
        assert torch.equal(found[untouched], old[untouched]), "a row without a gradient changed"
        assert size[3] == 0 or not torch.equal(found, old)


@pytest.mark.parametrize("update", [fast.update, reference.rowwise_adamw, rowwise_adamw])
@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_a_factor_that_is_not_finite_changes_nothing(update, factor):
    ours, gradient = draw(*SIZES[0])
    before, _ = draw(*SIZES[0])
    update(*ours, gradient, scalar(1.0), scalar(factor), SETTINGS)
    assert all(torch.equal(found, old) for found, old in zip(ours, before, strict=True))


def test_the_operation_obeys_the_rules_of_custom_operations():
    tensors, gradient = draw(9, 4, 7, 7)
    arguments = (*tensors, *gradient, scalar(3.0), scalar(0.5), list(SETTINGS))
    torch.library.opcheck(torch.ops.memlm.rowwise_adamw.default, arguments)
