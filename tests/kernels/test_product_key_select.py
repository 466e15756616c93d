"""Selection from queries and keys: the fast version against the reference, and both against brute force."""

import pytest
import torch

from memlm.kernels.product_key_select import _pairs, product_key_select, reference
from tests.tolerances import FLOAT32

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [  # N, H, C, M, K
    (37, 2, 16, 20, 3),
    (70, 1, 16, 150, 8),
    (65, 3, 20, 33, 16),
    (5, 1, 64, 256, 8),
    (1, 1, 8, 2, 2),
    (40, 1, 8, 512, 2),
]


def draw(n, heads, half, n_keys, dtype=torch.float32):
    generator = torch.Generator().manual_seed(n * n_keys)
    query = torch.randn(n, heads, 2, half, generator=generator).to(dtype)
    return query, torch.randn(heads, 2, n_keys, half, generator=generator).to(dtype)


@pytest.mark.parametrize(("n", "heads", "half", "n_keys", "top_k"), SIZES)
def test_selection_equals_brute_force(n, heads, half, n_keys, top_k):
    query, keys = draw(n, heads, half, n_keys)
    slots, scores = product_key_select(query, keys, top_k)
    half_scores = torch.einsum("nhpc,hpmc->nhpm", query, keys)
    sums = (half_scores[:, :, 0, :, None] + half_scores[:, :, 1, None, :]).flatten(2)
    expected, order = sums.sort(dim=-1, descending=True, stable=True)
    assert torch.equal(slots, order[..., :top_k])
    torch.testing.assert_close(scores, expected[..., :top_k], rtol=0, atol=0)


@pytest.mark.parametrize(("n", "heads", "half", "n_keys", "top_k"), SIZES)
def test_gradients_are_those_of_plain_torch(n, heads, half, n_keys, top_k):
    query, keys = (tensor.double().requires_grad_() for tensor in draw(n, heads, half, n_keys))
    slots, scores = product_key_select(query.float(), keys.float(), top_k)
    seed = torch.randn_like(scores)
    found = torch.autograd.grad(scores, (query, keys), seed)
    half_scores = torch.einsum("nhpc,hpmc->nhpm", query, keys)
    picked = half_scores[:, :, 0].gather(-1, slots // n_keys) + half_scores[:, :, 1].gather(-1, slots % n_keys)
    torch.testing.assert_close(found, torch.autograd.grad(picked, (query, keys), seed.double()), **FLOAT32)


def test_the_operation_obeys_the_rules_of_custom_operations():
    query, keys = (tensor.requires_grad_() for tensor in draw(9, 2, 8, 12))
    operation = torch.ops.memlm.product_key_select.default
    # The fourth check sums all outputs, which integers among them do not survive; the next test compiles instead.
    checks = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(operation, (query, keys, 3), test_utils=checks)


def test_autocast_leaves_its_sums_alone():
    query, keys = (tensor.bfloat16().requires_grad_() for tensor in draw(9, 2, 8, 12))
    slots, scores = product_key_select(query, keys, 3)
    gradients = torch.autograd.grad(scores.sum(), (query, keys))
    with torch.autocast("cpu", torch.bfloat16):
        under, found = product_key_select(query, keys, 3)
        assert torch.equal(under, slots) and torch.equal(found, scores)
        for ours, theirs in zip(torch.autograd.grad(found.sum(), (query, keys)), gradients, strict=True):
            assert torch.equal(ours, theirs)


def test_it_compiles_whole_with_its_gradient():
    def loss(query, keys):
        slots, scores = product_key_select(query, keys, 3)
        return (scores.softmax(-1) * slots).sum()

    query, keys = (tensor.requires_grad_() for tensor in draw(9, 2, 8, 12))
    expected = torch.autograd.grad(loss(query, keys), (query, keys))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(torch.autograd.grad(compiled(query, keys), (query, keys)), expected, **FLOAT32)


def run_fast(dtype, n, heads, half, n_keys, top_k):
    from memlm.kernels.product_key_select import fast

    query, keys = (tensor.to(DEVICE) for tensor in draw(n, heads, half, n_keys, dtype))
    slots, scores = fast.select(query, keys, _pairs(top_k, query.device), top_k)
    seed = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    return query, keys, slots, scores, seed, fast.backward(seed, slots, query, keys)


@pytest.mark.parametrize("size", SIZES)
def test_the_fast_version_equals_the_reference(size):
    query, keys, slots, scores, seed, gradients = run_fast(torch.float16, *size)
    expected_slots, expected = reference.product_key_select(query, keys, size[-1])
    # Sums in another order may cross a step of the rounded scores.
    torch.testing.assert_close(scores, expected, rtol=2.0**-12, atol=2.0**-12)
    assert (slots == expected_slots).float().mean() > 0.99
    assert slots.sort(-1).values.diff(dim=-1).min() > 0, "a slot is read twice"
    double = (tensor.double() for tensor in (seed, query, keys))
    exact = reference.backward(*(next(double), slots, next(double), next(double)))
    for found, right in zip(gradients, exact, strict=True):
        assert (found.double() - right).norm() <= 3e-3 * right.norm()


def test_ties_go_to_the_lowest_slot_in_the_fast_version():
    from memlm.kernels.product_key_select import fast

    device = "cuda" if torch.cuda.is_available() else "cpu"
    query = torch.zeros(3, 1, 2, 16, dtype=torch.float16, device=device)
    slots, scores = fast.select(
        query, torch.ones(1, 2, 20, 16, dtype=torch.float16, device=device), _pairs(4, query.device), 4
    )
    assert slots[:, 0].tolist() == [[0, 1, 2, 3]] * 3 and not scores.any()


def test_queries_that_are_not_numbers_stay_inside_the_table():
    from memlm.kernels.product_key_select import fast

    device = "cuda" if torch.cuda.is_available() else "cpu"
    query = torch.full((5, 1, 2, 16), torch.nan, dtype=torch.float16, device=device)
    slots, _ = fast.select(
        query, torch.ones(1, 2, 20, 16, dtype=torch.float16, device=device), _pairs(4, query.device), 4
    )
    assert slots.min() >= 0 and slots.max() < 400
