"""Training whose bank keeps its gradient for the rows that are read."""

import logging
import math

import numpy as np
import pytest
import torch

from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.errors import RunError
from memlm.evaluate.usage import UsageCounter
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.kernels.compact import CompactGradient
from memlm.kernels.rowwise_adamw import rowwise_adamw
from memlm.model.loss import TokenLoss
from memlm.train import optimizer as rules
from memlm.train import updater as updater_module
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from memlm.train.optimizer import build_optimizer, compact_gradients
from memlm.train.state import TrainingState
from memlm.train.updater import Updater
from tests.tolerances import GRADIENT

V, T = 61, 8
VALUES = "decoder.banks.0.values"
TOKENS = np.random.default_rng(0).integers(0, V, size=40 * T + 1).astype(np.uint16)
BATCHES = torch.from_numpy(np.stack([Sampler(TOKENS, T, 4, 0).batch(index) for index in range(8)]))


@pytest.fixture
def by_rows(monkeypatch):
    """Every bank, however small and however much of it is read, has a compact gradient."""
    monkeypatch.setattr(rules, "COMPACT_SIZE", 0)
    monkeypatch.setattr(rules, "COMPACT_SHARE", 1.0)


def new_model(n_keys=8, top_k=2, fusion="gated_mlp", shared=True):
    torch.manual_seed(0)
    memory = {"type": "product_key", "n_keys": n_keys, "d_key": 16, "d_value": 8, "top_k": top_k}
    wiring = {"memory": memory, "fusion": {"type": fusion}, "shared_bank": shared}
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2}
    return MemlmForCausalLM(MemlmConfig(model=shape | wiring, vocab_size=V))


def run(model, folder, hooks=None, state=None, **settings):
    settings = {"steps": 10, "batch_size": 4, "lr": 1e-2, "evaluate_every": 0, "device": "cpu"} | settings
    config = TrainConfig(**settings)
    with MetricLog(folder / "metrics.jsonl", []) as log:
        return train(model, Sampler(TOKENS, T, config.batch_size, 0), config, log, hooks or Hooks(), folder, state)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def kept(folder):
    """Returns hooks that write the state as it is when they are called, and the states as read from there."""

    def save(state):
        (folder / str(state.step)).mkdir()
        state.write(folder / str(state.step), {})

    return Hooks(save=save), lambda step: TrainingState.read(folder / str(step))


@pytest.fixture
def counts(monkeypatch):
    """How many rows each step has read."""
    seen, sound = [], CompactGradient.clear

    def clear(self):
        seen.append(self.gradient().n_rows.item())
        sound(self)

    monkeypatch.setattr(CompactGradient, "clear", clear)
    return seen


@pytest.mark.parametrize("fusion", ["gated_mlp", "cross_attention", "weighted_sum"])
def test_where_every_row_is_read_it_is_the_dense_training(by_rows, counts, tmp_path, fusion, monkeypatch):
    settings = {"accumulation": 2, "clip": 0.3, "value_lr": 3e-2}
    rows = new_model(3, 3, fusion)
    found = run(rows, tmp_path, **settings)
    assert counts == [9] * 10, "the test needs every row read in every step"
    monkeypatch.setattr(rules, "COMPACT_SHARE", -1.0)
    dense = new_model(3, 3, fusion)
    expected = run(dense, tmp_path, **settings)
    assert len(counts) == 10, "the other is dense"
    assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
    for name, weight in weights(dense).items():
        torch.testing.assert_close(weights(rows)[name], weight, **GRADIENT, msg=name)


@pytest.mark.parametrize("limit", [0.3, 0.0])
def test_a_large_bank_takes_its_dense_gradient_as_one_of_all_rows(tmp_path, limit, monkeypatch):
    """Some rows are read by no token: their moments decay all the same, and momentum moves their values."""
    settings = {"accumulation": 2, "clip": limit, "value_lr": 3e-2}
    dense, rows, stepped = new_model(16), new_model(16), []
    expected = run(dense, tmp_path, **settings)
    monkeypatch.setattr(updater_module, "WHOLE_SIZE", 0)
    monkeypatch.setattr(updater_module, "is_fast", lambda *_: True)
    monkeypatch.setattr(updater_module, "rowwise_adamw", lambda *a: (stepped.append(len(a[3].rows)), rowwise_adamw(*a)))
    found = run(rows, tmp_path, **settings)
    assert stepped == [256] * 10
    assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
    for name, weight in weights(dense).items():
        torch.testing.assert_close(weights(rows)[name], weight, **GRADIENT, msg=name)


def updater_of(model, clip=0.0, tokens=8 * T):
    compact_gradients(model.decoder, tokens)
    optimizer = build_optimizer(model, TrainConfig(steps=1, lr=1e-2))
    return optimizer, Updater(optimizer, model, clip)


@pytest.mark.parametrize("shared", [True, False])
def test_rows_that_a_step_does_not_read_stay_bit_for_bit_as_they_are(by_rows, shared):
    model = new_model(16, shared=shared)
    bank = model.decoder.banks[0]
    optimizer, updater = updater_of(model)
    for batch in BATCHES[:3]:
        moments = optimizer.state.get(bank.values, {})
        before = {key: tensor.clone() for key, tensor in moments.items()} | {"values": bank.values.detach().clone()}
        TokenLoss(model.decoder)(batch[:1])[0].backward()
        rows, _, count = bank.compact.gradient()
        read = torch.zeros(256, dtype=torch.bool).index_fill_(0, rows[:count], True)
        updater.clip()
        updater.step(torch.tensor(True))
        updater.clear()
        after = optimizer.state[bank.values] | {"values": bank.values.detach()}
        assert 0 < read.sum() < 256
        for key in ("values", "exp_avg", "exp_avg_sq"):
            old = before.get(key, torch.zeros(256, 8))
            assert torch.equal(after[key][~read], old[~read]), "no moment decays, and no momentum moves the values"
            assert (after[key] != old)[read].any(1).all()
    assert optimizer.state[bank.values]["step"] == 3


def test_the_norm_and_the_clipping_count_rows_as_the_dense_gradient_does(by_rows, monkeypatch):
    rows, dense = new_model(16), new_model(16)
    (_, by_row), batch = updater_of(rows, clip=0.05), BATCHES[0]
    monkeypatch.setattr(rules, "COMPACT_SHARE", -1.0)
    _, plain = updater_of(dense, clip=0.05)
    for model in (rows, dense):
        TokenLoss(model.decoder)(batch)[0].backward()
    torch.testing.assert_close(by_row.clip(), plain.clip(), **GRADIENT)
    for updater in (by_row, plain):
        updater.step(torch.tensor(True))
    for name, weight in weights(dense).items():
        torch.testing.assert_close(weights(rows)[name], weight, **GRADIENT, msg=name)


def test_values_that_are_read_past_the_bank_are_told(by_rows):
    model = new_model(16)
    _, updater = updater_of(model)
    bank = model.decoder.banks[0]
    bank.values[3].sum().backward()
    updater.clip()  # all of it is dense
    bank.gather(torch.tensor([3])).sum().backward()
    with pytest.raises(RunError, match=r"some of its values are read past its methods.*by gather and weighted_sum"):
        updater.clip()


def test_a_step_that_is_not_finite_is_left_out_in_rows_too(by_rows):
    model = new_model(16)
    optimizer, updater = updater_of(model)
    for step, poison in enumerate((1.0, math.nan, math.inf, 1.0)):
        before = weights(model)
        (TokenLoss(model.decoder)(BATCHES[step])[0] * poison).backward()
        norm = updater.clip()
        updater.step(norm.isfinite())
        updater.clear()
        changed = {name: not torch.equal(weight, before[name]) for name, weight in weights(model).items()}
        assert changed[VALUES] is any(changed.values()) is math.isfinite(poison)
    assert {state["step"].item() for state in optimizer.state.values()} == {2.0}


def test_a_step_that_is_not_finite_is_left_out_where_adamw_does_not_look_itself(by_rows):
    class NotFinite:
        device = torch.device("mps")

        def __bool__(self):
            return False

    model = new_model(16)
    optimizer, updater = updater_of(model)
    TokenLoss(model.decoder)(BATCHES[0])[0].backward()
    updater.clip()
    updater.step(NotFinite())
    assert not optimizer.state


@pytest.mark.parametrize("fusion", ["gated_mlp", "weighted_sum"])
def test_a_model_with_compact_gradients_compiles_whole(by_rows, fusion):
    plain, compiled = new_model(16, fusion=fusion), new_model(16, fusion=fusion)
    for model in (plain, compiled):
        _, updater = updater_of(model)
        module = TokenLoss(model.decoder)
        if model is compiled:
            module = torch.compile(module, fullgraph=True, backend="aot_eager")
        for _ in range(2):  # the second step begins with a cleared list
            for batch in BATCHES[:2]:
                module(batch)[0].backward()
            updater.clip()
            updater.step(torch.tensor(True))
            updater.clear()
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(compiled)[name], weight, **GRADIENT, msg=name)


def test_a_run_that_goes_on_gives_the_same_bits(by_rows, tmp_path):
    untouched, first = new_model(16), new_model(16)
    settings = {"accumulation": 2, "clip": 0.3, "save_every": 4}
    run(untouched, tmp_path, **settings)
    hooks, read = kept(tmp_path)
    halfway = {}
    sound = hooks.save

    def save(state):
        sound(state)
        halfway.setdefault(state.step, weights(first))

    run(first, tmp_path, Hooks(save=save), **settings)
    assert all(name in read(4).tensors for name in (f"optimizer/{VALUES}/exp_avg", f"optimizer/{VALUES}/step"))
    again = new_model(16)
    again.load_state_dict(halfway[4])
    run(again, tmp_path, state=read(4), **settings)
    for name, weight in weights(untouched).items():
        assert torch.equal(weights(again)[name], weight), name


def test_a_run_can_go_on_with_the_other_kind_of_gradient(by_rows, tmp_path, monkeypatch):
    model = new_model(16)
    hooks, read = kept(tmp_path)
    run(model, tmp_path, hooks, save_every=4)
    monkeypatch.setattr(rules, "COMPACT_SHARE", -1.0)
    before = weights(model)[VALUES]
    run(model, tmp_path, state=read(8))
    assert not torch.equal(weights(model)[VALUES], before)


def test_values_freeze_and_evaluation_reads_without_a_trace(by_rows, tmp_path):
    model, seen = new_model(16), []
    epoch = Sampler(TOKENS, T, 4, 0).n_sequences // 4

    def evaluate():
        compact = model.decoder.banks[0].compact
        with torch.no_grad(), UsageCounter().watching(model.decoder):
            model.decoder(BATCHES[0][:, :-1])
        assert compact.gradient() is None
        assert compact.assign(torch.tensor([3])).positions.item() == 0, "the list is empty between two steps"
        compact.clear()
        seen.append(weights(model)[VALUES])
        return {}

    run(model, tmp_path, Hooks(evaluate=evaluate), steps=epoch + 4, evaluate_every=1, train_values_epochs=1)
    assert not torch.equal(seen[0], seen[epoch - 1])
    assert all(torch.equal(values, seen[epoch - 1]) for values in seen[epoch:])
    assert model.decoder.banks[0].compact is None, "training lets go of it"


def told(caplog, n_keys, tokens):
    caplog.clear()
    model = new_model(n_keys)
    with caplog.at_level(logging.INFO, "memlm"):
        compact_gradients(model.decoder, tokens)
    return model.decoder.banks[0].compact is not None, [r.message for r in caplog.records if "compact" in r.message]


def test_the_gradient_is_compact_where_a_small_part_of_a_large_bank_is_read(caplog, monkeypatch):
    assert told(caplog, 16, 8) == (False, []), "the bank is small"
    monkeypatch.setattr(rules, "COMPACT_SIZE", 16 * 16 * 8)
    assert told(caplog, 8, 1) == (False, []), "the bank is smaller"
    text = "bank: compact gradients for up to 256 of 256 rows"
    assert told(caplog, 16, 64) == (True, [text]), "2 layers x 2 reads x 64 tokens read 63 % of 256 rows"
    assert told(caplog, 16, 72) == (False, []), "and 72 tokens 68 %"
    assert told(caplog, 16, 10) == (True, [text.replace("to 256", "to 40")])


def test_every_bank_is_counted_by_the_layers_that_read_it(monkeypatch, caplog):
    monkeypatch.setattr(rules, "COMPACT_SIZE", 0)
    model = new_model(16, shared=False)
    with caplog.at_level(logging.INFO, "memlm"):
        compact_gradients(model.decoder, 10)
    assert [bank.compact.carrier.shape for bank in model.decoder.banks] == [(20, 8), (20, 8)]
    assert [r.message for r in caplog.records] == 2 * ["bank: compact gradients for up to 20 of 256 rows"]
