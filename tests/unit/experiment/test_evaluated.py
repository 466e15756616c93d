"""A model is evaluated again as its run did it: the device, the precision, and where the values are."""

import json
import weakref
from types import SimpleNamespace

import pytest
import torch
from transformers.utils import logging
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.config.train import TrainConfig
from memlm.data.prepare import prepare
from memlm.evaluate.loss import mean_loss
from memlm.experiment import evaluated, held_out
from memlm.experiment.config import load_experiment
from memlm.experiment.evaluated import accelerator_of, load_evaluated
from memlm.experiment.reading import read_finished
from memlm.experiment.run import run_experiment
from memlm.experiment.text import suite_of
from memlm.experiment.trained import open_model
from memlm.train.checkpoint import load_model
from tests.unit.export.conftest import runs as runs  # a fixture is found by its name

LOSSES = ("validation_loss", "memory_off_loss", "memory_shuffled_loss", "usage")


def by_name(rows):
    return {row.values: row.loss for row in rows}


@pytest.mark.parametrize("apart", [{}, {"values_on": "host"}, {"shard": "bank"}, {"shard": "model"}])
def test_values_that_no_device_held_alone_stay_on_the_host(runs, apart):
    config = TrainConfig(steps=1, device="cpu", **apart)
    model = load_evaluated(runs / "gated_mlp-s0" / "checkpoint", config, torch.device("meta"))
    where = {name: tensor.device.type for name, tensor in model.named_parameters()}
    assert where.pop("decoder.banks.0.values") == ("cpu" if apart else "meta")
    assert set(where.values()) == {"meta"} and not model.training


def test_no_bar_is_drawn_for_the_weights(runs, capfd):
    logging.enable_progress_bar()
    load_evaluated(runs / "gated_mlp-s0" / "checkpoint", TrainConfig(steps=1), torch.device("cpu"))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("variant", ["dense", "ngram"])
def test_a_model_without_vectors_is_on_the_device(runs, variant):
    config = TrainConfig(steps=1, shard="bank")
    model = load_evaluated(runs / f"{variant}-s0" / "checkpoint", config, torch.device("meta"))
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("asked", [{"device": "cuda"}, {"precision": "bf16"}])
def test_a_run_that_asked_for_a_gpu_is_evaluated_where_there_is_none(runs, asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = TrainConfig(steps=1, **asked)
    model = load_evaluated(runs / "dense-s0" / "checkpoint", config, torch.device("cpu"))
    assert model.device == torch.device("cpu")


def test_a_run_with_its_values_on_the_host_has_the_numbers_of_its_model_on_the_device(experiment_yaml, tmp_path):
    config = load_experiment(experiment_yaml, ["train.values_on=host", "seeds=[0]", "evaluate.samples=0"])
    config = config.model_copy(update={"variants": {"gated_mlp": config.variants["gated_mlp"]}, "hypotheses": []})
    run = run_experiment(config, tmp_path, progress=False) / "gated_mlp-s0"
    record = read_finished(run)
    suite = suite_of(config, prepare(config.data, progress=False))
    near = suite.evaluate(load_model(run / "checkpoint", torch.device("cpu")), seed=0).results
    assert {name: record.record.results[name] for name in LOSSES} == {name: near[name] for name in LOSSES}
    again = by_name(held_out.held_out(run, []))
    assert again == {"host": near["validation_loss"], "memory off": near["memory_off_loss"]}
    done = CliRunner().invoke(app, ["eval", str(run), "--values", "device", "--json"], catch_exceptions=False)
    losses = {row["values"]: row["loss"] for row in json.loads(done.stdout)}
    assert losses == again | {"device": near["validation_loss"]}


def test_every_loss_is_taken_in_the_precision_of_the_run(runs, monkeypatch):
    run = runs / "gated_mlp-s0"
    in_bf16 = SimpleNamespace(
        device=torch.device("cpu"), autocast=lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
    )
    monkeypatch.setattr(held_out, "accelerator_of", lambda _run, _config: in_bf16)
    sequences = []

    def seen(decoder, *others):
        sequences.append(others)
        return mean_loss(decoder, *others)

    monkeypatch.setattr(held_out, "mean_loss", seen)
    rows = list(held_out.held_out(run, ["device", "host", "int8"]))
    assert [row.values for row in rows] == ["device", "memory off", "host", "int8"], "the device is measured twice"
    losses = by_name(rows)
    model, _ = open_model(run, "cpu")
    with in_bf16.autocast():
        assert losses["device"] == mean_loss(model.decoder, *sequences[0]) == losses["host"]
    recorded = read_finished(run).result("validation_loss")
    assert losses["device"] != recorded and losses["int8"] != losses["device"]
    assert losses["device"] == pytest.approx(recorded, rel=1e-2)


def test_one_model_is_held_at_a_time(runs, monkeypatch):
    loaded = []

    def watched(load):
        def lone(*arguments):
            assert not [decoder for decoder in loaded if decoder() is not None], "another model is still held"
            model = load(*arguments)
            loaded.append(weakref.ref(model.decoder))
            return model

        return lone

    monkeypatch.setattr(held_out, "load_evaluated", watched(held_out.load_evaluated))
    monkeypatch.setattr(held_out, "model_of", watched(held_out.model_of))
    list(held_out.held_out(runs / "gated_mlp-s0", ["host", "mapped", "int8"]))
    assert len(loaded) == 4


@pytest.mark.parametrize(
    ("kind", "precision", "here", "expected"),
    [
        ("cuda", "bf16", "cuda", ("cuda", "bf16")),
        ("cuda", "bf16", None, ("cpu", "fp32")),
        ("mps", "auto", "cuda", ("cpu", "fp32")),
        ("cpu", "auto", "cuda", ("cpu", "auto")),
    ],
)
def test_the_device_is_that_of_the_record_if_it_is_here(runs, kind, precision, here, expected, monkeypatch, caplog):
    device = None if here is None else torch.device(here)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: device)
    monkeypatch.setattr(evaluated, "build_accelerator", lambda config: (config.device, config.precision))
    run = SimpleNamespace(folder=runs, record=SimpleNamespace(device=SimpleNamespace(kind=kind)))
    assert accelerator_of(run, TrainConfig(steps=1, precision=precision)) == expected
    told = f"{runs} was evaluated on {kind}, which is not here; on the CPU, in float32, its losses may differ"
    assert caplog.messages == ([] if kind == expected[0] else [told])
