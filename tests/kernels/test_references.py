"""The plain references, against brute force."""

import pytest
import torch

from memlm.kernels.product_key_select.reference import best_slots


def brute_force(scores, top_k):
    """Sorts all M * M slots: by score, then by slot."""
    sums = scores[..., 0, :, None] + scores[..., 1, None, :]
    values, slots = sums.flatten(-2).sort(dim=-1, descending=True, stable=True)
    return slots[..., :top_k], values[..., :top_k]


@pytest.mark.parametrize(("n_keys", "top_k"), [(2, 2), (5, 3), (8, 8), (16, 7), (33, 8), (64, 32)])
@pytest.mark.parametrize("ties", [False, True])
def test_selection_equals_brute_force(n_keys, top_k, ties):
    generator = torch.Generator().manual_seed(n_keys * 100 + top_k)
    scores = torch.randn(3, 5, 2, 2, n_keys, generator=generator)
    if ties:
        scores = (scores * 2).round()  # small integers tie often, and their sums are exact
    slots, values = best_slots(scores, top_k)
    expected_slots, expected_values = brute_force(scores, top_k)
    assert torch.equal(slots, expected_slots)
    assert torch.equal(values, expected_values)


def test_equal_scores_go_to_the_lowest_slots():
    slots, _ = best_slots(torch.zeros(1, 2, 6), 4)
    assert slots.tolist() == [[0, 1, 2, 3]]
    slots, _ = best_slots(torch.tensor([[[0.0, -0.0, 0.0], [-0.0, 0.0, -1.0]]]), 3)
    assert slots.tolist() == [[0, 1, 3]], "-0.0 ties with 0.0"


def test_gradient_reaches_the_selected_half_keys_only():
    scores = torch.randn(4, 2, 9, requires_grad=True, generator=torch.Generator().manual_seed(0))
    slots, values = best_slots(scores, 3)
    values.sum().backward()
    expected = torch.zeros_like(scores)
    for row, chosen in enumerate(slots.tolist()):
        for slot in chosen:
            expected[row, 0, slot // 9] += 1
            expected[row, 1, slot % 9] += 1
    assert torch.equal(scores.grad, expected)
