"""Row-wise AdamW of values in bfloat16: the random bits, their rounding, and the fast version against the reference."""

import math

import pytest
import torch

from memlm.kernels.rowwise_adamw import RowGradient, Settings, fast, reference, rowwise_adamw
from memlm.kernels.rowwise_adamw.rounding import random_bits, rounded
from tests.kernels.test_rowwise_adamw import DEVICE, SIZES, draw, scalar
from tests.tolerances import FLOAT32

SETTINGS = Settings(lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8)
EXACT = Settings(lr=2**-14, beta1=0.0, beta2=0.0, eps=0.0)
"""With gradients of one every step of a value is lr, in any order of operations."""
FIRST = torch.tensor(1)
DIGIT = 2**-7
"""The distance from one number of 16 bits to the next, relative to the power of two below both."""


def narrow(size, dtype=torch.float32):
    """Returns a table of 16 bits with its moments, and a gradient."""
    (values, *moments), gradient = draw(*size, dtype)
    return [values.bfloat16(), *moments], gradient


def test_the_bits_are_even_and_know_no_pattern():
    bits = torch.stack([random_bits(torch.arange(128), 128, torch.tensor(step)) for step in range(1, 129)]).double()
    n = bits.numel()
    assert bits.min() >= 0 and bits.max() < 1 << 16
    shares = torch.stack([(bits.long() >> place & 1).double().mean() for place in range(16)])
    assert (shares - 0.5).abs().max() < 5 * 0.5 / n**0.5
    centred = (bits - 32767.5) / (65536 / 12**0.5)
    assert centred.mean().abs() < 5 / n**0.5
    for axis in range(3):  # steps, rows, columns
        for lag in (1, 2, 3, 5, 8, 16, 64):
            assert (centred * centred.roll(lag, axis)).mean().abs() < 5 / n**0.5, (axis, lag)
        assert centred.mean(axis).square().mean().item() * 128 == pytest.approx(1, abs=0.05)


def test_rows_beyond_32_bits_of_numbers_have_bits_of_their_own():
    far = torch.tensor([(1 << 23) + 5])  # times 1024 columns: the 2**33rd number
    assert not torch.equal(random_bits(far, 1024, FIRST), random_bits(torch.tensor([5]), 1024, FIRST))


def test_the_mean_of_many_roundings_is_the_number():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(40, 50, generator=generator) * 10.0 ** torch.randint(-12, 12, (40, 50), generator=generator)
    rows, n = torch.randperm(1 << 20, generator=generator)[:40], 4000
    found = torch.stack([rounded(numbers, rows, torch.tensor(step)).double() for step in range(1, n + 1)])
    digit = 2.0 ** (numbers.abs().log2().floor().double() - 7)
    off = (found.mean(0) - numbers.double()) / digit
    assert (found - numbers).abs().div(digit).max() < 1
    share = (numbers.double() / digit).remainder(1)  # chance of the next number up
    deviations = off / (share * (1 - share) / n).sqrt().clamp_min(1e-9)
    assert deviations.abs().max() < 5 and deviations.square().mean().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("number", [0.0, 1.0, -1.0, 3.3895313892515355e38, 2.0**-130, math.inf, -math.inf, math.nan])
def test_what_16_bits_hold_stays(number):
    numbers = torch.full((300, 40), number)
    numbers.view(torch.int32)[0] |= 0x3FFFFF if math.isnan(number) else 0  # any NaN
    found = rounded(numbers, torch.arange(300), FIRST)
    torch.testing.assert_close(found.float(), torch.full((300, 40), number), rtol=0, atol=0, equal_nan=True)


def stepped(update, size, step):
    """Returns the values after a step whose arithmetic is exact, so that only rounding decides."""
    S, D, capacity, count = size
    values = torch.linspace(1, 2, S * D).view(S, D).bfloat16().to(DEVICE)
    moments = [torch.zeros(S, D, device=DEVICE) for _ in range(2)]
    rows = torch.randperm(S, generator=torch.Generator().manual_seed(step))[:capacity].to(DEVICE)
    sums = torch.ones(capacity, D, device=DEVICE)
    gradient = RowGradient(rows, sums, torch.tensor([count], dtype=torch.int32, device=DEVICE))
    update(values, *moments, gradient, scalar(float(step)), scalar(1.0), EXACT)
    return values


@pytest.mark.parametrize("size", [*SIZES, (3000, 64, 2500, 2000)])
@pytest.mark.parametrize("step", [1, 2, 70_000, (1 << 24) - 1])
def test_the_fast_version_rounds_bit_for_bit_as_the_reference(size, step):
    found, expected = (stepped(update, size, step) for update in (fast.update, reference.rowwise_adamw))
    assert torch.equal(found, expected)
    before = torch.linspace(1, 2, size[0] * size[1]).view(size[:2]).bfloat16().to(DEVICE)
    if size[0] == 3000:  # of 128,000 numbers one in 128 goes down by a digit
        moved = (found != before).sum().item()
        assert moved == pytest.approx(1000, abs=5 * 1000**0.5)
        assert not torch.equal(found, stepped(fast.update, size, step + 1 if step == 1 else 3))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("step", "tile"), [(1, 128), (1000, 16)])
def test_the_fast_version_equals_the_reference(size, dtype, step, tile):
    (ours, gradient), (again, _), (theirs, _), (before, _) = (narrow(size, dtype) for _ in range(4))
    arguments = (gradient, scalar(float(step)), scalar(0.25), SETTINGS)
    fast.update(*ours, *arguments, tile=tile)
    fast.update(*again, *arguments, tile=tile)
    reference.rowwise_adamw(*theirs, *arguments)
    for found, repeated, expected in zip(ours, again, theirs, strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, repeated), "two runs differ"
    for found, expected in zip(ours[1:], theirs[1:], strict=True):
        torch.testing.assert_close(found, expected, **FLOAT32)
    # A last digit of float32 decides once in 2**15 or so whether a number goes up.
    differs = ours[0] != theirs[0]
    assert differs.float().mean() < 1e-3
    off = (ours[0].float() - theirs[0].float()).abs()
    assert (off <= DIGIT * theirs[0].float().abs() * 1.01).all()
    untouched = torch.ones(size[0], dtype=torch.bool, device=DEVICE).index_fill_(0, gradient.rows[: size[3]], False)
    assert torch.equal(ours[0][untouched], before[0][untouched]), "a row without a gradient changed"
    assert size[3] == 0 or not torch.equal(ours[0], before[0])


@pytest.mark.parametrize("update", [fast.update, reference.rowwise_adamw, rowwise_adamw])
def test_the_mean_of_many_steps_is_that_of_float32(update):
    """Steps of a hundredth of a digit; each row is one more try."""
    S, D, steps = 200, 16, 100
    values = torch.full((S, D), 1.5, dtype=torch.bfloat16, device=DEVICE)
    moments = [torch.zeros(S, D, device=DEVICE) for _ in range(2)]
    sums, count = torch.ones(S, D, device=DEVICE), torch.tensor([S], dtype=torch.int32, device=DEVICE)
    gradient = RowGradient(torch.arange(S, device=DEVICE), sums, count)
    settings = EXACT._replace(lr=DIGIT / 128)
    for step in range(1, steps + 1):
        update(values, *moments, gradient, scalar(float(step)), scalar(1.0), settings)
    hops = (1.5 - values.double()) / DIGIT
    expected = steps / 128
    assert hops.mean().item() == pytest.approx(expected, abs=5 * (expected / (S * D)) ** 0.5)


@pytest.mark.parametrize("update", [fast.update, reference.rowwise_adamw, rowwise_adamw])
@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_factor_that_is_not_finite_changes_nothing(update, factor):
    (ours, gradient), (before, _) = narrow(SIZES[0]), narrow(SIZES[0])
    update(*ours, gradient, scalar(1.0), scalar(factor), SETTINGS)
    assert all(torch.equal(found, old) for found, old in zip(ours, before, strict=True))


def test_the_operation_obeys_the_rules_of_custom_operations():
    tensors, gradient = narrow((9, 4, 7, 7))
    arguments = (*tensors, *gradient, scalar(3.0), scalar(0.5), list(SETTINGS))
    torch.library.opcheck(torch.ops.memlm.rowwise_adamw.default, arguments)
