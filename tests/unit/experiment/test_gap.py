"""The faults of experiments/gap.py change what they should, and leave the model as it was."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments import gap
from memlm.data.tokenizer import train_tokenizer
from memlm.experiment.config import load_experiment
from memlm.experiment.models import new_model
from memlm.registry import MEMORIES

CONFIG = Path(__file__).parents[3] / "experiments" / "gap.yaml"
SMALLER = ["data.vocab_size=272", "model.d_model=32", "model.n_layers=2", "variants.leak.memory.d_value=64"]


@pytest.fixture(scope="module", params=["sound", "leak"])
def run(request):
    with pytest.MonkeyPatch.context() as patch:  # elsewhere there is no such memory
        patch.setitem(MEMORIES._classes, "pooled_product_key", gap.PooledProductKeyConfig)
        yield trained(request.param)


def trained(variant):
    config = load_experiment(CONFIG, SMALLER)
    config = config.model_copy(update={"variants": {variant: config.variants[variant]}})
    tokenizer = train_tokenizer(["some text of words, to learn from\n" * 20], 272)
    torch.manual_seed(0)
    model = new_model(config, variant, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():  # far from where it is drawn, so that every part counts
            parameter.mul_(3.0)
    finished = SimpleNamespace(config=config, model=model.eval())
    draw = np.random.default_rng(0)
    text = [draw.integers(5, 272, (4, length + 1)) for length in (16, 64, 4, 16)]
    return gap.Trained(finished, tokenizer, *text)


def test_every_fault_but_the_first_changes_the_loss_and_none_the_model(run):
    (variant,) = run.finished.config.variants
    before = {name: value.clone() for name, value in run.decoder.state_dict().items()}
    losses = {fault: evaluate(run) for fault, evaluate in gap.FAULTS.items()}
    same = {fault for fault, loss in losses.items() if loss == pytest.approx(losses["none"], abs=1e-5)}
    told = {"token by token, cached", "token by token, all tokens so far"}
    assert same == {"none"} | (told if variant == "sound" else set())  # only a leak needs the whole sequence
    assert all(torch.equal(value, before[name]) for name, value in run.decoder.state_dict().items())
    assert run.loss(run.held_out) == losses["none"]


def test_the_table_has_the_mean_gap_and_its_interval():
    found = [
        {"variant": variant, "train_loss": 1.0, "losses": {"none": 1.0 + seed / 10, "late": 3.0 + seed}}
        for seed in (0, 1)
        for variant in ("sound", "leak")
    ]
    assert gap.table(found).splitlines()[2:] == [
        "| none | +0.05 ± 0.64 | +0.05 ± 0.64 |",
        "| late | +2.50 ± 6.35 | +2.50 ± 6.35 |",
    ]
    assert gap.table(found[:1]).splitlines()[-1] == "| late | +2.00 |"
