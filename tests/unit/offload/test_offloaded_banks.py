"""Banks whose values lie elsewhere: they give what the bank of vectors gives, and keep the right rows near."""

import pytest
import torch

from memlm.bank.vectors import VectorBank
from memlm.errors import RunError
from memlm.offload import HostBank, Int8Bank, MappedBank
from memlm.offload.cached import FIRST

CPU = torch.device("cpu")
CACHED = [HostBank, MappedBank]


@pytest.fixture
def bank():
    torch.manual_seed(0)
    return VectorBank(40, 12).requires_grad_(False)


def reads(*shape, n_slots=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(n_slots, shape, generator=generator), torch.rand(shape, generator=generator)


def everything(bank, slots, weights):
    """What a bank can be asked for."""
    hidden = torch.arange(3.0).expand(*slots.shape[:-1], 3)
    return (
        bank.gather(slots),
        bank.gather(slots, weights),
        bank.gather_joined(hidden, slots, weights),
        bank.weighted_sum(slots, weights),
    )


@pytest.mark.parametrize("kind", CACHED)
@pytest.mark.parametrize("room", [5, 11, 1000])
def test_reads_are_those_of_the_values_bit_for_bit(kind, room, bank):
    cached = kind(bank.values.detach(), CPU, hot_share=0.2, room=room)
    for seed in range(2 * FIRST):  # hot rows are chosen anew in between
        slots, weights = reads(2, 3, 5, seed=seed)
        for found, right in zip(everything(cached, slots, weights), everything(bank, slots, weights), strict=True):
            assert found.shape == right.shape and torch.equal(found, right)


@pytest.mark.parametrize("kind", CACHED)
def test_a_token_that_reads_more_than_there_is_room_for_is_refused(kind, bank):
    cached = kind(bank.values.detach(), CPU, hot_share=0.2, room=4)
    with pytest.raises(RunError, match=r"^5 rows are read at once, and a bank that is elsewhere takes 4$"):
        cached.weighted_sum(*reads(2, 5))


@pytest.mark.parametrize("kind", CACHED)
def test_rows_that_are_read_often_become_hot(kind, bank):
    cached = kind(bank.values.detach(), CPU, hot_share=0.1)  # 4 rows, at first the first ones
    often = torch.tensor([[7, 20, 33, 39]])
    for call in range(1, FIRST):
        cached.gather(often)
        assert cached.traffic()[:2] == (4 * call, 4 * call)
    cached.gather(often)  # the call before which they are chosen
    assert cached.traffic() == (4 * FIRST, 4 * FIRST - 4, 12 * 4)
    assert cached.traffic().bytes == (4 * FIRST - 4) * 48
    assert cached.traffic().hit_rate == pytest.approx(1 / FIRST)
    assert sorted(cached.hot.slot_at.tolist()) == [7, 20, 33, 39]
    cached.gather(torch.tensor([[0, 7]]))
    assert cached.traffic()[:2] == (4 * FIRST + 2, 4 * FIRST - 3)


def test_hot_rows_follow_what_is_read_now(bank):
    cached = HostBank(bank.values.detach(), CPU, hot_share=0.05)
    for slots in ([30, 31], [35, 36]):
        for _ in range(3):
            cached.gather(torch.tensor([slots] * 4))
            cached.refresh()
        assert sorted(cached.hot.slot_at.tolist()) == slots
    before = cached.hot.slot_at.clone()
    for _ in range(9):
        cached.refresh()
    assert torch.equal(cached.hot.slot_at, before), "rows that nothing has replaced stay"
    assert (cached.hot.place_of >= 0).nonzero()[:, 0].tolist() == [35, 36]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bits_are_off_by_half_a_step_at_most(dtype, bank):
    values = bank.values.detach() * torch.logspace(-4, 4, 40)[:, None]
    values[3], values[4] = 0, values[4] * 0 + 5
    values = values.to(dtype)
    held = Int8Bank(values, CPU)
    step = values.float().abs().amax(1, keepdim=True) / 127
    found = held.integers * held.scales[:, None]
    assert ((found - values.float()).abs() <= 0.5001 * step).all()
    assert not held.table()[3].any() and (held.table()[4] == 5).all()
    assert held.integers.abs().amax() == 127 and held.integers.dtype == torch.int8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_8_bits_are_read_as_what_they_stand_for(dtype, bank):
    held = Int8Bank(bank.values.detach().to(dtype), CPU)
    plain = VectorBank(40, 12).requires_grad_(False)
    plain.values.data = held.integers * held.scales[:, None]
    slots, weights = reads(2, 3, 5)
    for found, right in zip(everything(held, slots, weights), everything(plain, slots, weights), strict=True):
        assert found.shape == right.shape
        eps = torch.finfo(found.dtype).eps
        torch.testing.assert_close(found.float(), right, rtol=8 * eps, atol=8 * eps)
    assert held.gather(slots).dtype == held.weighted_sum(slots, weights).dtype == dtype


@pytest.mark.parametrize("kind", [HostBank, MappedBank, Int8Bank])
def test_other_values_can_be_shown(kind, bank):
    held, other = kind(bank.values.detach(), CPU), VectorBank(40, 12).requires_grad_(False)
    slots, weights = reads(2, 3, 5)
    before = everything(held, slots, weights)
    with held.showing(other.values):
        for found, right in zip(everything(held, slots, weights), everything(other, slots, weights), strict=True):
            assert torch.equal(found, right)
    for found, right in zip(everything(held, slots, weights), before, strict=True):
        assert torch.equal(found, right)
    assert not held.learns and not list(held.parameters())


def test_what_lacks_its_values_is_not_saved(bank):
    with pytest.raises(RunError, match="loaded to be read, without its values as parameters; save one loaded as usual"):
        torch.nn.ModuleList([HostBank(bank.values.detach(), CPU)]).state_dict()
