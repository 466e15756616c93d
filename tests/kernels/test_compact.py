"""Positions of the rows that a step reads, and the gradient that goes there."""

import pytest
import torch
from torch.nn import functional as F

from memlm.bank.vectors import VectorBank
from memlm.kernels.compact import CompactGradient
from memlm.kernels.weighted_lookup import weighted_lookup
from tests.tolerances import FLOAT32

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def slots_of(*rows):
    return torch.tensor(rows, device=DEVICE)


def test_a_row_keeps_its_position_until_the_list_is_cleared():
    compact = CompactGradient(torch.zeros(10, 3, device=DEVICE), 6)
    assert compact.gradient() is None
    assert compact.assign(slots_of([7, 2], [7, 7])).positions.tolist() == [[1, 0], [1, 1]]
    assert compact.assign(slots_of([9, 2], [0, 9])).positions.tolist() == [[3, 0], [2, 3]]
    carrier, positions = compact.assign(slots_of([2, 7], [9, 0]))
    assert positions.tolist() == [[0, 1], [3, 2]] and positions.dtype == torch.int32
    F.embedding(positions, carrier).sum().backward()
    rows, sums, count = compact.gradient()
    assert rows[: count.item()].tolist() == [2, 7, 0, 9]
    assert sums.tolist() == [[1.0] * 3] * 4 + [[0.0] * 3] * 2
    compact.clear()
    assert compact.gradient() is None
    assert compact.assign(slots_of([9, 0])).positions.tolist() == [[1, 0]]


def test_more_rows_than_the_list_holds_are_an_error():
    if DEVICE == "cuda":
        pytest.skip("an assertion of the device ends the process")
    compact = CompactGradient(torch.zeros(10, 3), 2)
    compact.assign(slots_of([1, 2]))
    with pytest.raises(RuntimeError, match="out of bounds"):
        compact.assign(slots_of([3]))


def test_the_list_takes_no_memory_before_it_has_a_gradient():
    compact = CompactGradient(torch.zeros(10, 3), 6)
    assert compact.carrier.shape == (6, 3) and compact.carrier.untyped_storage().nbytes() == 4


@pytest.mark.parametrize("backend", [None, "aot_eager"])
@pytest.mark.parametrize("read", ["gather", "weighted_sum", "both"])
def test_the_gradient_of_two_layers_and_three_micro_steps_is_the_dense_one(read, backend):
    generator = torch.Generator().manual_seed(0)
    dense, rows = VectorBank(40, 5).to(DEVICE), VectorBank(40, 5).to(DEVICE)
    rows.load_state_dict(dense.state_dict())
    rows.compact = CompactGradient(rows.values.detach(), 40)

    def loss(bank, first, second, weights):
        total = torch.zeros((), device=DEVICE)
        for slots in (first, second):
            if read != "weighted_sum":
                total = total + (bank.gather(slots) * 2).sin().sum()
            if read != "gather":
                total = total + bank.weighted_sum(slots, weights).cos().sum()
        return total

    other = loss if backend is None else torch.compile(loss, fullgraph=True, backend=backend)
    for micro_step in range(3):
        first, second = torch.randint(10 * (micro_step + 1), (2, 3, 4), generator=generator).to(DEVICE)
        weights, same = (torch.full((3, 4), 0.3, device=DEVICE, requires_grad=True) for _ in range(2))
        expected, found = loss(dense, first, second, weights), other(rows, first, second, same)
        torch.testing.assert_close(found, expected, **FLOAT32)
        expected.backward(), found.backward()
        if read != "gather":
            torch.testing.assert_close(same.grad, weights.grad, **FLOAT32)
    listed, sums, count = rows.compact.gradient()
    spread = torch.zeros(40, 5, device=DEVICE).index_copy_(0, listed[:count], sums[:count])
    torch.testing.assert_close(spread, dense.values.grad, **FLOAT32)
    assert rows.values.grad is None and not sums[count:].any()
    assert set(listed[:count].tolist()) == set(dense.values.grad.any(1).nonzero().flatten().tolist())


def test_nothing_is_assigned_where_nothing_is_learned():
    bank = VectorBank(10, 3)
    bank.compact = CompactGradient(bank.values.detach(), 4)
    slots = torch.tensor([[1, 2]])
    with torch.no_grad():
        bank.gather(slots)
    bank.values.requires_grad_(False)
    bank.weighted_sum(slots, torch.ones(1, 2))
    assert bank.compact.assign(torch.tensor([5])).positions.item() == 0
    assert set(bank.state_dict()) == {"values"}


def test_a_lookup_gives_the_same_with_and_without_a_list():
    values = torch.randn(10, 3, requires_grad=True)
    slots, weights = torch.tensor([[1, 2], [2, 9]]), torch.rand(2, 2)
    compact = CompactGradient(values.detach(), 4)
    result = weighted_lookup(values, slots, weights, compact.assign(slots))
    assert torch.equal(result, weighted_lookup(values, slots, weights))
    result.sum().backward()
    assert values.grad is None and compact.gradient() is not None


def test_the_operation_obeys_the_rules_of_custom_operations():
    def whole(size, fill):
        return torch.full((size,), fill, dtype=torch.int32, device=DEVICE)

    rows = torch.zeros(4, dtype=torch.int64, device=DEVICE)
    arguments = (slots_of([3, 1, 3]), whole(9, -1), rows, whole(1, 0))
    torch.library.opcheck(torch.ops.memlm.assign_positions.default, arguments)
