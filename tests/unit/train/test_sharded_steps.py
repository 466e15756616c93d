"""Steps of parameters of which a process holds a part; `tests/distributed` compares them with those of one process."""

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from memlm.bank.vectors import VectorBank
from memlm.train.columns import ColumnBank
from memlm.train.updater import Updater


@pytest.fixture
def sharded():
    """A layer whose parameters FSDP holds, with one process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    layer = nn.Linear(3, 2)
    fully_shard(layer, mesh=init_device_mesh("cpu", (1,)))
    yield layer
    dist.destroy_process_group()


@pytest.mark.parametrize(("size", "is_taken"), [(1.0, True), (float("inf"), False)])
def test_a_step_that_is_not_finite_leaves_them(size, is_taken, sharded):
    optimizer = torch.optim.AdamW(sharded.parameters(), fused=True)
    updater = Updater(optimizer, sharded, clip=1.0)
    before = sharded.weight.full_tensor().clone()
    sharded(torch.full((1, 3), size)).sum().backward()
    norm = updater.clip()
    updater.step(norm.isfinite())
    updater.clear()
    assert torch.equal(sharded.weight.full_tensor(), before) is not is_taken
    assert optimizer.state[sharded.weight]["step"] == is_taken
    assert sharded.weight.grad is None


def test_the_norm_is_on_the_device_where_all_is_sharded():
    """NCCL adds up nothing on the CPU, where torch has the norm of no gradients."""
    bank = ColumnBank(VectorBank(6, 4), n_ranks=2, rank=0).to("meta")
    bank.values.grad = torch.empty_like(bank.values)
    updater = Updater(torch.optim.AdamW(bank.parameters()), bank, clip=1.0)
    assert updater.clip().is_meta
