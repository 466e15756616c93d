"""The FLOPs that our operations are counted with, against plain torch under the same counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from memlm.kernels.gather_joined import gather_joined
from memlm.kernels.product_key_select import product_key_select
from memlm.kernels.product_key_select import reference as select
from memlm.kernels.read_attention import read_attention
from memlm.kernels.read_attention import reference as attend
from memlm.kernels.weighted_lookup import weighted_lookup
from tests.tolerances import FLOPS

N, H, K, M, C, S, D = 6, 3, 4, 10, 5, 40, 7
READS = 9


def leaf(*shape, draw=torch.randn):
    return draw(shape).requires_grad_()


def plain_lookup(values, slots, weights):
    """A token's weights times its rows, as matrices."""
    return (weights[:, None] @ values[slots])[:, 0]


def selection():
    inputs = leaf(N, H, 2, C), leaf(H, 2, M, C), K
    return lambda: product_key_select(*inputs)[1], lambda: select.product_key_select(*inputs)[1]


def attention():
    inputs = leaf(N, H, D), leaf(N, READS, D), leaf(N, READS), 0.5
    return lambda: read_attention(*inputs), lambda: attend.read_attention(*inputs)


def lookup():
    inputs = leaf(S, D), torch.randint(S, (N, READS)), leaf(N, READS)
    return lambda: weighted_lookup(*inputs), lambda: plain_lookup(*inputs)


def joined():
    hidden, values, slots, scales = leaf(N, C), leaf(S, D), torch.randint(S, (N, READS)), leaf(N, READS)
    plain = lambda: torch.cat([hidden, (values[slots] * scales[..., None]).flatten(1)], dim=1)  # noqa: E731
    return lambda: gather_joined(hidden, values, slots, scales), plain


def counted(forward, backward):
    counter = FlopCounterMode(display=False)
    with counter:
        result = forward()
        if backward:
            result.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("operation", [selection, attention, lookup, joined])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "with_backward"])
def test_an_operation_counts_what_plain_torch_does(operation, backward):
    ours, plain = operation()
    expected = counted(plain, backward)
    assert counted(ours, backward) == pytest.approx(expected, rel=FLOPS)
    assert (expected > 0) == (operation is not joined), "a gather that scales has no matrix product"


def test_the_table_of_a_frozen_bank_has_no_gradient_to_count():
    values, slots, weights = torch.randn(S, D), torch.randint(S, (N, READS)), leaf(N, READS)
    assert counted(lambda: weighted_lookup(values, slots, weights), True) == 2 * 2 * N * READS * D
