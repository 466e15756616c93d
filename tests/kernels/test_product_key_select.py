"""Selection from queries and keys: the fast version against the reference, and both against brute force."""

from functools import partial

import pytest
import torch

from memlm.kernels.product_key_select import IN_REGISTERS, product_key_select, reference
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


def versions(n_keys, top_k):
    """Returns the fast versions that serve these sizes, with blocks that suit the interpreter on a CPU."""
    from memlm.kernels.product_key_select import fast, fast_large

    blocks = {} if DEVICE == "cuda" else {"block": 32, "keys_block": 64}
    found = [partial(fast_large.select, **blocks)]  # first, as it serves all
    if n_keys <= IN_REGISTERS["n_keys"] and top_k <= IN_REGISTERS["top_k"]:
        found.append(fast.select if DEVICE == "cuda" else partial(fast.select, block=32))
    return found


def equal_reads(found, expected, tolerance):
    """Asserts equal slots in equal order, but for scores that sums in another order round to neighbours."""
    (slots, scores), (expected_slots, expected_scores) = found, expected
    torch.testing.assert_close(scores, expected_scores, rtol=tolerance, atol=tolerance)
    assert (slots == expected_slots).float().mean() > 0.99
    assert (slots.sort(-1).values.diff(dim=-1) > 0).all(), "a slot is read twice"


FAST_SIZES = [  # N, H, C, M, K
    (37, 2, 16, 20, 3),
    (37, 1, 16, 20, 1),
    (1, 1, 8, 2, 2),
    (30, 1, 20, 33, 16),
    (9, 1, 16, 33, 33),
    (5, 1, 64, 256, 8),
    (9, 1, 16, 257, 33),
    (3, 1, 256, 140, 8),
    (40, 1, 8, 512, 2),
    (5, 1, 16, 1024, 32),
    (5, 1, 16, 2048, 8),
    (2, 1, 16, 4096, 64),
]


@pytest.mark.parametrize("size", FAST_SIZES)
def test_the_fast_versions_equal_the_reference(size):
    query, keys = (tensor.to(DEVICE) for tensor in draw(*size[:4], torch.float16))
    expected = reference.product_key_select(query, keys, size[-1])
    for select in versions(*size[3:]):
        found = select(query, keys, size[-1])
        equal_reads(found, expected, 2.0**-10)


def test_the_fast_versions_repeat_themselves():
    query, keys = (tensor.to(DEVICE) for tensor in draw(20, 1, 16, 100, torch.bfloat16))
    for select in versions(100, 5):
        first, second = select(query, keys, 5), select(query, keys, 5)
        assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


@pytest.mark.parametrize("size", [(40, 1, 4, 150, 8), (17, 1, 4, 130, 32)])
def test_the_fast_versions_break_ties_as_the_reference_does(size):
    draws = torch.Generator().manual_seed(1)
    n, heads, half, n_keys, top_k = size
    query = torch.randint(-1, 2, (n, heads, 2, half), generator=draws).half().to(DEVICE)
    keys = torch.randint(-1, 2, (heads, 2, n_keys, half), generator=draws).half().to(DEVICE)
    slots, scores = reference.product_key_select(query, keys, top_k)
    for select in versions(n_keys, top_k):
        found = select(query, keys, top_k)
        assert torch.equal(found[0], slots) and torch.equal(found[1], scores)


@pytest.mark.parametrize("pattern", ["all alike", "rising", "falling", "one group", "one thread"])
def test_scores_that_defeat_the_bound_cost_time_only(pattern):
    n_keys, top_k = 200, 8
    numbers = torch.arange(n_keys)
    levels = {
        "all alike": torch.zeros(n_keys),
        "rising": numbers,
        "falling": -numbers,
        "one group": torch.where(numbers % 32 == 5, numbers, -numbers),
        "one thread": torch.where(numbers % 8 < 2, numbers, -numbers),
    }
    keys = torch.zeros(1, 2, n_keys, 16, dtype=torch.float16)
    keys[..., 0] = levels[pattern].half()
    query = torch.zeros(5, 1, 2, 16, dtype=torch.float16)
    query[..., 0] = 1
    query, keys = query.to(DEVICE), keys.to(DEVICE)
    slots, scores = reference.product_key_select(query, keys, top_k)
    found = versions(n_keys, top_k)[0](query, keys, top_k)
    assert torch.equal(found[0], slots) and torch.equal(found[1], scores)


def test_ties_go_to_the_lowest_slot_in_the_fast_versions():
    query = torch.zeros(3, 1, 2, 16, dtype=torch.float16, device=DEVICE)
    keys = torch.ones(1, 2, 20, 16, dtype=torch.float16, device=DEVICE)
    for select in versions(20, 4):
        slots, scores = select(query, keys, 4)
        assert slots[:, 0].tolist() == [[0, 1, 2, 3]] * 3 and not scores.any()


def test_queries_that_are_not_numbers_stay_inside_the_table():
    query = torch.full((5, 1, 2, 16), torch.nan, dtype=torch.float16, device=DEVICE)
    keys = torch.ones(1, 2, 20, 16, dtype=torch.float16, device=DEVICE)
    for select in versions(20, 4):
        slots, _ = select(query, keys, 4)
        assert slots.min() >= 0 and slots.max() < 400


def test_infinite_scores_stay_inside_the_table():
    query = torch.full((5, 1, 2, 16), -torch.inf, dtype=torch.float16, device=DEVICE)
    keys = torch.ones(1, 2, 20, 16, dtype=torch.float16, device=DEVICE)
    for select in versions(20, 4):
        slots, _ = select(query, keys, 4)
        assert slots.min() >= 0 and slots.max() < 400


@pytest.mark.parametrize("traffic", ["drawn", "Zipf", "one slot"])
@pytest.mark.parametrize("size", [(37, 2, 16, 20, 3), (33, 1, 20, 33, 16), (9, 1, 16, 257, 33)])
def test_the_fast_gradients_are_those_of_the_formulas(size, traffic):
    from memlm.kernels.product_key_select import fast_gradient, fast_gradient_large

    query, keys = (tensor.to(DEVICE) for tensor in draw(*size[:4], torch.float16))
    slots, scores = reference.product_key_select(query, keys, size[-1])
    draws = torch.Generator().manual_seed(0)
    if traffic == "Zipf":
        ranks = (torch.rand(slots.shape, generator=draws) * 8).exp().long().to(DEVICE)
        slots = ranks.clamp(max=size[3] ** 2) - 1
    elif traffic == "one slot":
        slots = torch.full_like(slots, size[3] + 1)
    seed = torch.randn(scores.shape, generator=draws).to(DEVICE)
    blocks = {"block": 32, "keys_block": 32, "programs": 4}  # that suit the interpreter on a CPU
    exact = reference.backward(seed.double(), slots, query.double(), keys.double())
    for version in (fast_gradient, fast_gradient_large):
        backward = partial(version.backward, seed, slots, query, keys, **({} if DEVICE == "cuda" else blocks))
        gradients = backward()
        for found, right in zip(gradients, exact, strict=True):
            assert (found.double() - right).norm() <= 3e-3 * right.norm()
        assert all(torch.equal(*pair) for pair in zip(gradients, backward(), strict=True))
