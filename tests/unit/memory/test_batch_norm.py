"""BatchNorm on the query: what it computes, what it keeps, and that the preflight reports what it breaks."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from memlm.bank.vectors import VectorBank
from memlm.config.train import TrainConfig
from memlm.memory.product_key_batch_norm import BatchNorm, ProductKeyBatchNormConfig
from memlm.model.config import ModelConfig
from memlm.train.preflight import preflight

MEMORY = {"type": "product_key_batch_norm", "n_keys": 16, "n_heads": 2, "d_key": 16, "d_value": 8, "top_k": 3}


def test_it_is_torchs_batch_norm():
    torch.manual_seed(0)
    ours, theirs = BatchNorm(6), nn.BatchNorm1d(6)
    with torch.no_grad():
        for norm in (ours, theirs):
            norm.weight.copy_(torch.linspace(0.5, 2, 6))
            norm.bias.copy_(torch.linspace(-1, 1, 6))
    for _ in range(3):
        x = 3 * torch.randn(20, 6) + 1
        torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.mean, theirs.running_mean)
    # Torch keeps the variance of the population, ours that of the batch, by which it norms.
    torch.testing.assert_close(ours.variance - 0.729, (theirs.running_var - 0.729) * 19 / 20)
    theirs.running_var.copy_(ours.variance)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_a_batch_that_is_not_finite_leaves_the_statistics_alone():
    norm = BatchNorm(3)
    norm(torch.randn(9, 3))
    kept = norm.mean.clone(), norm.variance.clone()
    norm(torch.full((9, 3), torch.inf))
    assert torch.equal(norm.mean, kept[0]) and torch.equal(norm.variance, kept[1])


def test_queries_are_centred_and_scaled_over_the_batch():
    torch.manual_seed(0)
    memory = ProductKeyBatchNormConfig.model_validate(MEMORY).build(24)
    hidden = torch.randn(2, 50, 24) + 3
    query, _ = memory.addresses(hidden)
    query = query / 8**-0.5  # the factor that scores are scaled by
    torch.testing.assert_close(query.mean(0), torch.zeros(2, 2, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(query.var(0, correction=0), torch.ones(2, 2, 8), atol=1e-3, rtol=0)


def test_another_norm_beside_it_is_refused():
    with pytest.raises(ValidationError, match="has no effect, because BatchNorm takes its place"):
        ProductKeyBatchNormConfig.model_validate(MEMORY | {"query_norm": True})


def test_the_preflight_reports_what_is_declared():
    model = ModelConfig.model_validate(
        {"d_model": 32, "n_layers": 2, "n_heads": 2, "memory": MEMORY, "fusion": {"type": "weighted_sum"}}
    )
    report = preflight(model, TrainConfig(steps=1), use_cache=False)
    assert report.faults == []
    declared = {outcome.check for outcome in report.outcomes if outcome.status == "declared"}
    assert declared == {"train_eval_parity", "causality_in_training", "batch_invariance_in_training"}


def test_through_the_compiler_the_statistics_are_the_same():
    torch.manual_seed(0)
    config = ProductKeyBatchNormConfig.model_validate(MEMORY)
    memory, bank, hidden = config.build(24), VectorBank(config.n_slots, config.value_width), torch.randn(2, 7, 24)
    start = {key: value.clone() for key, value in memory.state_dict().items()}
    expected = memory(hidden, bank)
    statistics = memory.norm.mean.clone(), memory.norm.variance.clone()
    memory.load_state_dict(start)
    found = torch.compile(memory, fullgraph=True, backend="aot_eager")(hidden, bank)
    assert torch.equal(found.slots, expected.slots)
    torch.testing.assert_close((memory.norm.mean, memory.norm.variance), statistics)
