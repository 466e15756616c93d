"""Training whose values stay on the host: it is the training with compact gradients on the device."""

from types import SimpleNamespace

import pytest
import torch

from memlm.config.train import TrainConfig
from memlm.errors import RunError
from memlm.evaluate.controls import memory_off, memory_shuffled
from memlm.experiment import models
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.offload.trained import TrainedOnHost
from memlm.train.loop import Hooks
from memlm.train.optimizer import hold_on_host
from tests.unit.train.test_compact_training import V, kept, new_model, run, weights
from tests.unit.train.test_compact_training import by_rows as by_rows  # a fixture is found by its name

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SETTINGS = {"accumulation": 2, "clip": 0.3, "value_lr": 3e-2}


def same(left, right):
    assert left.keys() == right.keys()
    return all(torch.equal(left[name].cpu(), right[name].cpu()) for name in left)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("fusion", ["gated_mlp", "cross_attention", "weighted_sum"])
def test_it_is_the_training_on_the_device(by_rows, fusion, shared, device, tmp_path):
    near, far = (new_model(fusion=fusion, shared=shared) for _ in range(2))
    before = weights(near)
    settings = SETTINGS | {"device": device, "precision": "fp32", "deterministic": device == "cuda"}
    expected = run(near, tmp_path, **settings)
    found = run(far, tmp_path, values_on="host", **settings)
    assert all(bank.values.device.type == "cpu" for bank in far.decoder.banks)
    assert found.compact_rows == expected.compact_rows > 0
    if device == "cpu":
        assert found.train_loss == expected.train_loss and same(weights(far), weights(near))
    else:  # the last bits of the update are those of the processor
        assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-5)
        for name, weight in weights(near).items():
            torch.testing.assert_close(weights(far)[name].cpu(), weight.cpu(), rtol=1e-3, atol=1e-4)
    assert not torch.equal(weights(far)["decoder.banks.0.values"], before["decoder.banks.0.values"])


def test_a_small_bank_is_compact_all_the_same_when_it_is_on_the_host(tmp_path):
    assert run(new_model(), tmp_path).compact_rows == 0
    assert run(new_model(), tmp_path, values_on="host").compact_rows == 64


def test_it_goes_on_as_if_it_had_not_been_broken_off(tmp_path):
    whole = new_model()
    hooks, state_after = kept(tmp_path)
    at_five = {}
    save = hooks.save

    def saved(state):
        save(state)
        at_five.update({name: tensor.clone() for name, tensor in whole.state_dict().items()})

    run(whole, tmp_path, Hooks(save=saved), values_on="host", save_every=5)
    again = new_model()
    again.load_state_dict(at_five)
    run(again, tmp_path, values_on="host", state=state_after(5))
    assert same(weights(again), weights(whole))


def test_values_that_are_frozen_stay_and_are_read(by_rows, tmp_path):
    frozen, near = new_model(), new_model()
    settings = {"steps": None, "epochs": 2, "train_values_epochs": 1}
    run(frozen, tmp_path, values_on="host", **settings)
    assert not frozen.decoder.banks[0].values.requires_grad
    run(near, tmp_path, **settings)
    assert same(weights(frozen), weights(near))


def test_it_can_be_evaluated_and_controlled_on_the_way(tmp_path):
    near, far = new_model(), new_model()
    ids = torch.arange(24).view(3, 8)
    told = []

    def evaluate(model):
        def hook():
            model.eval()
            with torch.no_grad():
                plain = model.decoder(ids).hidden
                with memory_off(model.decoder):
                    off = model.decoder(ids).hidden
                with memory_shuffled(model.decoder):
                    shuffled = model.decoder(ids).hidden
            model.train()
            told.append(torch.stack([plain, off, shuffled]))
            return {}

        return Hooks(evaluate=hook)

    settings = {"steps": 1, "evaluate_every": 1}
    run(near, tmp_path, evaluate(near), **settings)
    run(far, tmp_path, evaluate(far), values_on="host", **settings)
    torch.testing.assert_close(told[1], told[0], rtol=1e-4, atol=1e-5)
    assert not torch.equal(told[1][0], told[1][1]) and not torch.equal(told[1][0], told[1][2])


def test_only_the_rows_that_a_step_reads_are_brought():
    bank = TrainedOnHost(new_model().decoder.banks[0], torch.device("cpu"))
    bank.make_room(10)
    for slots, expected in ([5, 9, 5], [5, 9]), ([9, 2, 7], [5, 9, 2, 7]):
        table, places, _ = bank.rows(torch.tensor(slots))
        assert bank.compact.n_rows == len(expected)
        assert sorted(bank.compact.rows[: len(expected)].tolist()) == sorted(expected)
        assert torch.equal(table[places], bank.values[torch.tensor(slots)])
    assert len(table) == 10


def test_what_cannot_be_held_on_the_host_is_refused():
    decoder = new_model().decoder
    with pytest.raises(RunError, match=r"values_on is host, which is for one process; leave it out, or the launcher"):
        hold_on_host(decoder, torch.device("cpu"), 2)
    memory = {"type": "product_key", "n_keys": 8, "d_key": 16, "d_value": 8, "bank": {"type": "tokens"}}
    shape = {"d_model": 16, "n_layers": 2, "n_heads": 2, "memory": memory, "fusion": {"type": "weighted_sum"}}
    decoder = MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=V)).decoder
    with pytest.raises(RunError, match=r"values_on is host, and a bank holds tokens; leave it out, or use bank\.type"):
        hold_on_host(decoder, torch.device("cpu"), 1)


@pytest.mark.parametrize(
    ("apart", "expected"), [({}, "cuda"), ({"values_on": "host"}, "cpu"), ({"shard": "bank"}, "cpu")]
)
def test_what_no_device_holds_alone_is_loaded_on_the_host_to_go_on(apart, expected, monkeypatch):
    accelerator = SimpleNamespace(device=torch.device("cuda"))
    monkeypatch.setattr(models, "build_accelerator", lambda _config: accelerator)
    assert models.starting_device(TrainConfig(steps=1, **apart)).type == expected
