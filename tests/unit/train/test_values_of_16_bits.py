"""Training with values in bfloat16: updates in float32, rounded at random, the same bits after a resume."""

import numpy as np
import pytest
import torch

from memlm.bank.vectors import VectorBank
from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.errors import RunError
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.kernels.rowwise_adamw import reference
from memlm.model.loss import TokenLoss
from memlm.train.columns import ColumnBank
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from memlm.train.optimizer import build_optimizer, compact_gradients, give_compact_gradient, sums_dtype
from memlm.train.state import TrainingState
from memlm.train.updater import Updater
from tests.tolerances import FLOAT32, GRADIENT

V, T = 61, 8
VALUES = "decoder.banks.0.values"
TOKENS = np.random.default_rng(0).integers(0, V, size=40 * T + 1).astype(np.uint16)


def new_model(dtype="bfloat16", fusion="weighted_sum", layers="all"):
    torch.manual_seed(0)
    bank = {"type": "vectors", "dtype": dtype}
    memory = {"type": "product_key", "n_keys": 8, "d_key": 16, "d_value": 8, "top_k": 2, "bank": bank}
    wiring = {"memory": memory, "fusion": {"type": fusion}, "placement": "parallel", "layers": layers}
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2}
    return MemlmForCausalLM(MemlmConfig(model=shape | wiring, vocab_size=V))


def run(model, folder, hooks=None, state=None, **settings):
    settings = {"steps": 10, "batch_size": 4, "lr": 1e-2, "evaluate_every": 0, "device": "cpu"} | settings
    config = TrainConfig(**settings)
    with MetricLog(folder / "metrics.jsonl", []) as log:
        return train(model, Sampler(TOKENS, T, config.batch_size, 0), config, log, hooks or Hooks(), folder, state)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def kept(folder, model, at):
    """Returns hooks that write the state, and a list that gets the weights as they were at step ``at``."""
    found = []

    def save(state):
        (folder / str(state.step)).mkdir()
        state.write(folder / str(state.step), {})
        if state.step == at:
            found.append(weights(model))

    return Hooks(save=save), found


@pytest.mark.parametrize("fusion", ["gated_mlp", "weighted_sum"])
def test_it_learns_as_with_values_of_float32(tmp_path, fusion):
    narrow, wide = new_model(fusion=fusion), new_model("float32", fusion)
    wide.load_state_dict(narrow.state_dict())
    before = weights(narrow)[VALUES]
    settings = {"steps": 60, "lr": 3e-2, "value_lr": 3e-2}
    found, expected = (run(model, tmp_path, **settings) for model in (narrow, wide))
    assert weights(narrow)[VALUES].dtype == torch.bfloat16 and not torch.equal(weights(narrow)[VALUES], before)
    assert found.train_loss == pytest.approx(expected.train_loss, rel=0.03)
    assert found.train_loss < 4.0, "ln V is 4.11"
    assert (found.compact_rows, expected.compact_rows) == (64, 0), "by rows, however small the bank is"


@pytest.mark.parametrize("values_on", ["device", "host"])
def test_a_run_that_goes_on_gives_the_same_bits(tmp_path, values_on):
    untouched, first, again = new_model(), new_model(), new_model()
    settings = {"accumulation": 2, "clip": 0.3, "save_every": 4, "values_on": values_on}
    run(untouched, tmp_path, **settings)
    hooks, halfway = kept(tmp_path, first, 4)
    run(first, tmp_path, hooks, **settings)
    state = TrainingState.read(tmp_path / "4")
    assert state.tensors[f"optimizer/{VALUES}/exp_avg"].dtype == torch.float32
    again.load_state_dict(halfway[0])
    run(again, tmp_path, state=state, **settings)
    for name, weight in weights(untouched).items():
        assert torch.equal(weights(again)[name], weight), name
    assert not torch.equal(weights(again)[VALUES], halfway[0][VALUES])


def test_values_on_the_host_get_the_bits_of_those_on_the_device(tmp_path):
    near, far = new_model(), new_model()
    run(near, tmp_path)
    run(far, tmp_path, values_on="host")
    assert far.decoder.banks[0].values.dtype == torch.bfloat16
    for name, weight in weights(near).items():
        assert torch.equal(weights(far)[name], weight), name


def updater_of(model, accumulation, clip=0.0):
    compact_gradients(model.decoder, 100 * T, accumulation=accumulation)
    return Updater(build_optimizer(model, TrainConfig(steps=1, lr=1e-2)), model, clip)


def drift(model):
    """Returns the norm of the compact gradient of 64 equal micro-steps over that of one, and the updater's norm."""
    updater = updater_of(model, accumulation=64)
    batch = torch.from_numpy(Sampler(TOKENS, T, 4, 0).batch(0))
    found = []
    for _ in range(64):
        TokenLoss(model.decoder)(batch)[0].backward()
        found.append(model.decoder.banks[0].compact.gradient().sums.float().norm().item())
    return found[-1] / found[0], updater


def test_micro_steps_add_up_in_float32(monkeypatch):
    exact, updater = drift(new_model())
    assert exact == pytest.approx(64, rel=1e-5)
    gradients = [p.grad for p in updater._parameters if p.grad is not None]
    sums = updater._banks[0].compact.gradient().sums
    assert sums.dtype == torch.float32
    torch.testing.assert_close(updater.clip(), torch.stack([g.norm() for g in (*gradients, sums)]).norm(), **GRADIENT)
    monkeypatch.setattr("memlm.train.optimizer.sums_dtype", lambda bank, _: bank.values.dtype)
    rounded, _ = drift(new_model())
    assert abs(rounded - 64) > 100 * abs(exact - 64), "in 16 bits digits would be lost"


def test_one_layer_and_micro_step_have_a_gradient_of_16_bits_and_a_norm_of_32():
    model = new_model(layers=[1])
    updater = updater_of(model, accumulation=1)
    TokenLoss(model.decoder)(torch.from_numpy(Sampler(TOKENS, T, 4, 0).batch(0)))[0].backward()
    sums = model.decoder.banks[0].compact.gradient().sums
    assert sums.dtype == torch.bfloat16
    others = [p.grad for p in model.parameters() if p.grad is not None]
    expected = torch.stack([tensor.double().norm() for tensor in (*others, sums)]).norm()
    torch.testing.assert_close(updater.clip().double(), expected, **FLOAT32)
    bank = VectorBank(4, 2)
    assert sums_dtype(bank, 1) == sums_dtype(bank, 6) == torch.float32


def nearest(numbers, _rows, _step):
    return numbers.bfloat16()


def change_after(steps, lr):
    """Returns how far values of one and more have moved after steps along a gradient that never changes."""
    bank = VectorBank(64, 32, torch.bfloat16)
    bank.values.data.fill_(1.5)
    give_compact_gradient(bank, 64)
    optimizer = torch.optim.AdamW([{"params": [bank.values], "name": "values"}], lr=lr, fused=True)
    updater = Updater(optimizer, bank, clip=0)
    for _ in range(steps):
        bank.weighted_sum(torch.arange(64)[:, None], torch.ones(64, 1)).sum().backward()
        updater.step(updater.clip().isfinite())
        updater.clear()
    return bank.values.detach().float() - 1.5


def test_updates_far_below_the_last_digit_arrive_on_average(monkeypatch):
    steps, lr = 100, 1e-5
    moved = change_after(steps, lr)
    # A step of AdamW along a constant gradient is lr, and the next number below 1.5 in 16 bits is 2**-7 away.
    n_hops, hop = moved.numel() * steps * lr / 2**-7, 2**-7
    assert moved.sum().item() == pytest.approx(-n_hops * hop, abs=4 * n_hops**0.5 * hop)
    assert 0.8 < (moved == 0).float().mean() < 0.95, "most values did not move yet, the others did by whole digits"
    monkeypatch.setattr(reference, "rounded", nearest)
    assert not change_after(steps, lr).any(), "to the nearest number every one of these steps is lost"


def test_what_would_round_to_the_nearest_is_refused():
    model = new_model()
    updater = updater_of(model, accumulation=1)
    model.decoder.banks[0].values[3].sum().backward()
    with pytest.raises(RunError, match=r"some of its values are read past its methods"):
        updater.clip()
    with pytest.raises(RunError, match=r"values of 16 bits \(bank\.dtype\) are not sharded; set train\.shard: none"):
        ColumnBank(model.decoder.banks[0], n_ranks=2, rank=0)


def test_apple_gpus_are_refused():
    class OnApple:
        device = torch.device("mps")

    model = new_model()
    model.decoder.embedding._parameters["weight"] = OnApple()
    with pytest.raises(RunError, match=r"^bank\.dtype is bfloat16, which is not for Apple GPUs.*train\.device=cpu$"):
        compact_gradients(model.decoder, 4)


def test_revival_copies_values_of_16_bits(tmp_path):
    model = new_model()
    run(model, tmp_path, revive_every=2, steps=8, record_writers=True)
    assert weights(model)[VALUES].isfinite().all()
