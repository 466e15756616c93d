"""Loss, optimizer, schedule and loop."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from memlm.config.train import TrainConfig, interval
from memlm.data.sampler import Sampler
from memlm.errors import DivergedError, RunError
from memlm.evaluate.loss import mean_loss, spread_sequences
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog, PeakMemory
from memlm.train.optimizer import build_optimizer, parameter_groups, set_learning_rates
from memlm.train.schedule import Plan, lr_factor
from tests.tolerances import FLOAT32, GRADIENT

V, T = 61, 8
WIRING = {
    "memory": {"type": "product_key", "n_keys": 8, "d_key": 16, "d_value": 8, "top_k": 2},
    "fusion": {"type": "gated_mlp"},
}
TOKENS = np.random.default_rng(0).integers(0, V, size=40 * T + 1).astype(np.uint16)


def new_model(wiring=WIRING, seed=0):
    torch.manual_seed(seed)
    return MemlmForCausalLM(MemlmConfig(model={"d_model": 16, "n_layers": 2, "n_heads": 2, **wiring}, vocab_size=V))


def run(model, tmp_path, name="metrics.jsonl", seed=0, hooks=None, **settings):
    config = TrainConfig(**{"steps": 4, "batch_size": 4, "lr": 1e-2, "evaluate_every": 0, "device": "cpu"} | settings)
    sampler = Sampler(TOKENS, T, config.batch_size, seed)
    hooks = hooks or Hooks()
    with MetricLog(tmp_path / name, []) as log:
        return train(model, sampler, config, log, hooks, tmp_path)


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_accumulated_micro_steps_equal_one_large_step(tmp_path):
    whole, parts = new_model(), new_model()
    one = run(whole, tmp_path, "a", batch_size=8, steps=3)
    many = run(parts, tmp_path, "b", batch_size=2, accumulation=4, steps=3)
    assert many.train_loss == pytest.approx(one.train_loss, rel=1e-5)
    assert many.tokens == one.tokens == 3 * 8 * T
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], weight, **GRADIENT, msg=name)


def test_the_same_seed_gives_the_same_bits(tmp_path):
    first, second, other = new_model(), new_model(), new_model()
    run(first, tmp_path, "a"), run(second, tmp_path, "b"), run(other, tmp_path, "c", seed=1)
    assert all(torch.equal(weights(second)[name], weight) for name, weight in weights(first).items())
    assert not all(torch.equal(weights(other)[name], weight) for name, weight in weights(first).items())
    lines = [[json.loads(line)["train/loss"] for line in (tmp_path / n).read_text().splitlines()] for n in "ab"]
    assert lines[0] == lines[1]


def test_training_learns(tmp_path):
    model = new_model()
    sequences = spread_sequences(TOKENS, T, 10**6)
    before = mean_loss(model.decoder, sequences, 7)
    run(model, tmp_path, steps=60)
    assert mean_loss(model.decoder, sequences, 7) < before - 0.5


def test_the_logged_loss_is_the_mean_over_tokens(tmp_path):
    model = new_model()
    sampler = Sampler(TOKENS, T, 4, 0)
    expected = mean_loss(model.decoder, sampler.batch(0), 3)
    run(model, tmp_path, steps=1, log_every=1)
    logged = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert logged["train/loss"] == pytest.approx(expected, rel=1e-5)
    assert logged["tokens"] == 4 * T and logged["step"] == 1
    assert logged["train/lr"] == pytest.approx(1e-2) and logged["train/grad_norm"] > 0


def test_a_loss_that_is_not_finite_stops_before_the_step(tmp_path):
    model = new_model()
    with torch.no_grad():
        model.decoder.norm.weight[0] = math.nan
    before = weights(model)
    with pytest.raises(DivergedError, match=r"diverged at step 1: loss nan.*not finite.*lower train\.lr") as raised:
        run(model, tmp_path)
    for name, weight in weights(model).items():
        torch.testing.assert_close(weight, before[name], rtol=0, atol=0, equal_nan=True)
    assert raised.value.exit_code == 4


def test_a_step_that_is_not_finite_is_left_out_if_the_config_allows_it(tmp_path):
    class Poisoned(Sampler):
        def batch(self, index):
            for parameter in model.parameters():
                parameter.data[..., 0] *= math.nan if index == 1 else 1.0
            return super().batch(index)

    model, told = new_model(), []
    config = TrainConfig(
        steps=2, batch_size=4, log_every=1, evaluate_every=0, device="cpu", alarms={"non_finite": 1}, save_every=0
    )
    with MetricLog(tmp_path / "metrics.jsonl", []) as log:
        hooks = Hooks(alarm=lambda entry: told.append(dict(entry)))
        result = train(model, Poisoned(TOKENS, T, 4, 0), config, log, hooks, tmp_path)
    (alarm,) = told
    assert (alarm["name"], alarm["step"], alarm["value"]) == ("non_finite", 2, 1)
    first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert second["alarms"] == ["non_finite"] and second["train/loss"] is None and "alarms" not in first
    assert math.isnan(result.train_loss)


def test_values_freeze_after_their_epochs(tmp_path):
    epoch = Sampler(TOKENS, T, 4, 0).n_sequences // 4
    frozen, learning = new_model(), new_model()
    run(frozen, tmp_path, "a", steps=epoch, train_values_epochs=1)
    after_one_epoch = weights(frozen)["decoder.banks.0.values"]
    assert not torch.equal(after_one_epoch, weights(new_model())["decoder.banks.0.values"])
    frozen = new_model()
    run(frozen, tmp_path, "b", steps=2 * epoch, schedule="constant", warmup=0.0, train_values_epochs=1)
    run(learning, tmp_path, "c", steps=epoch, schedule="constant", warmup=0.0)
    torch.testing.assert_close(
        weights(frozen)["decoder.banks.0.values"], weights(learning)["decoder.banks.0.values"], rtol=0, atol=0
    )
    assert not torch.equal(weights(frozen)["decoder.embedding.weight"], weights(learning)["decoder.embedding.weight"])


def test_a_router_that_does_not_learn_stays_as_drawn(tmp_path):
    model, before = new_model(), weights(new_model())
    run(model, tmp_path, steps=3, router_lr=0.0)
    after = weights(model)
    router = {name for name in before if ".memory." in name}
    assert {name.rpartition(".memory.")[2] for name in router} == {"keys", "query.weight", "scale"}
    assert all(torch.equal(after[name], before[name]) for name in router)
    assert all(not torch.equal(after[name], before[name]) for name in before.keys() - router)


def test_values_may_end_at_a_rate_of_their_own():
    model = new_model()
    config = TrainConfig(
        steps=50, lr=1e-3, value_lr=1e-2, router_lr=2e-3, warmup=0.0, min_lr_share=0.1, min_value_lr_share=0.01
    )
    optimizer = build_optimizer(model, config)
    rates = []
    for step in (0, 49):
        set_learning_rates(optimizer, config, step, 50)
        rates.append({group["name"]: group["lr"] for group in optimizer.param_groups})
    others, routers = ("decay", "no_decay"), ("router_decay", "router_no_decay")
    assert rates[0] == pytest.approx({"values": 1e-2, **dict.fromkeys(others, 1e-3), **dict.fromkeys(routers, 2e-3)})
    assert rates[1] == pytest.approx({"values": 1e-4, **dict.fromkeys(others, 1e-4), **dict.fromkeys(routers, 2e-4)})


def test_groups_hold_every_parameter_once_and_spare_the_right_ones():
    model = new_model()
    config = TrainConfig(steps=1, lr=1e-3, value_lr=4e-3, weight_decay=0.1)
    groups = {group["name"]: group for group in parameter_groups(model, config)}
    names = {id(p): name for name, p in model.named_parameters()}
    members = {key: {names[id(p)] for p in group["params"]} for key, group in groups.items()}
    assert sum(len(group) for group in members.values()) == len(names)
    assert members["values"] == {"decoder.banks.0.values"}
    assert (groups["values"]["lr"], groups["values"]["weight_decay"]) == (4e-3, 0.0)
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert decays == {"values": 0.0, "decay": 0.1, "no_decay": 0.0, "router_decay": 0.1, "router_no_decay": 0.0}
    for name in ("embedding.weight", "blocks.1.update_norm.weight"):
        assert f"decoder.{name}" in members["no_decay"]
    for name in ("attention.query", "fusion.down"):
        assert f"decoder.blocks.0.{name}.weight" in members["decay"]
    routers = {block: f"decoder.blocks.{block}.memory" for block in (0, 1)}
    assert members["router_decay"] == {f"{router}.query.weight" for router in routers.values()}
    assert members["router_no_decay"] == {f"{router}.{n}" for router in routers.values() for n in ("keys", "scale")}


def test_rows_that_no_token_reads_stay_as_they_are():
    model = new_model()
    optimizer = build_optimizer(model, TrainConfig(steps=1, lr=1e-2))
    before = weights(model)["decoder.banks.0.values"]
    read = set()
    for step in range(5):
        ids = torch.from_numpy(Sampler(TOKENS, T, 2, 0).batch(step))
        output = model.decoder(ids[:, :-1])
        read |= {slot for r in output.reads.values() for slot in r.slots.flatten().tolist()}
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    unread = sorted(set(range(64)) - read)
    after = weights(model)["decoder.banks.0.values"]
    assert unread, "the test needs rows that nothing reads"
    assert torch.equal(after[unread], before[unread])
    assert not torch.equal(after, before)


@pytest.mark.parametrize(
    ("budget", "steps"), [({"steps": 7}, 7), ({"tokens": 1000}, 11), ({"epochs": 1.5}, 19), ({"epochs": 0.01}, 1)]
)
def test_budgets_become_steps(budget, steps):
    plan = Plan.of(TrainConfig(**budget, batch_size=3, accumulation=2, train_values_epochs=1), 16, 75)
    assert (plan.steps, plan.tokens_per_step, plan.freeze_values_at) == (steps, 96, 13)


def test_the_learning_rate_rises_then_falls():
    config = TrainConfig(steps=100, warmup=0.1, min_lr_share=0.2)
    factors = [lr_factor(step, 100, config) for step in range(100)]
    assert factors[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert factors[10] == 1 and factors[-1] == pytest.approx(0.2)
    assert all(a >= b for a, b in itertools.pairwise(factors[10:]))
    assert lr_factor(55, 101, TrainConfig(steps=1, warmup=0.1, min_lr_share=0.0)) == pytest.approx(0.5, abs=0.02)
    flat = TrainConfig(steps=100, warmup=0.0, schedule="constant")
    assert [lr_factor(step, 100, flat) for step in (0, 50, 99)] == [1, 1, 1]


def test_clipping_bounds_the_gradient_and_zero_turns_it_off(tmp_path):
    run(new_model(), tmp_path, "a", steps=1, log_every=1, clip=1e-3)
    run(new_model(), tmp_path, "b", steps=1, log_every=1, clip=0)
    norms = [json.loads((tmp_path / name).read_text())["train/grad_norm"] for name in "ab"]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4), "the norm is logged as it was before clipping"


def test_clipping_scales_the_step():
    model, clipped = new_model(), new_model()
    for each, limit in ((model, math.inf), (clipped, 0.05)):
        ids = torch.from_numpy(Sampler(TOKENS, T, 4, 0).batch(0))
        each(ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(each.parameters(), limit)
    norm = torch.nn.utils.get_total_norm([p.grad for p in clipped.parameters()])
    torch.testing.assert_close(norm, torch.tensor(0.05), **FLOAT32)


def test_hooks_are_called_when_due(tmp_path):
    calls = []
    hooks = Hooks(
        evaluate=lambda: calls.append("evaluate") or {"evaluate/validation_loss": 1.0},
        save=lambda state: calls.append(f"save {state.step}"),
        progress=lambda step, loss, speed: calls.append(step),
    )
    run(new_model(), tmp_path, hooks=hooks, steps=5, evaluate_every=0.4, save_every=4, profile_every=5)
    assert calls == [1, 2, "evaluate", 3, 4, "evaluate", "save 4", 5, "evaluate"]
    assert "aten::" in (tmp_path / "profile" / "step-000005.txt").read_text()
    assert json.loads((tmp_path / "profile" / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("every", "steps", "expected"), [(0, 50, 0), (10, 50, 10), (0.1, 50, 5), (0.01, 50, 1), (1, 50, 1)]
)
def test_intervals_are_steps_or_shares(every, steps, expected):
    assert interval(every, steps) == expected


def test_a_device_that_is_not_there_is_one_clear_line(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(RunError, match=r"train\.device is cuda, and torch sees no GPU; use -o train\.device=auto"):
        run(new_model(), tmp_path, device="cuda")


def test_peak_memory_sees_what_was_allocated_and_freed():
    before = PeakMemory(torch.device("cpu")).gib()
    watched = PeakMemory(torch.device("cpu"))
    torch.ones(2**27)  # half a GiB, gone at once
    assert watched.gib() - before > 0.4
