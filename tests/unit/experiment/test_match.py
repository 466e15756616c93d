"""Variants that are matched to another: what is solved, what is refused, what is recorded."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from fabricate import edit_record

from memlm.config.load import read_file
from memlm.errors import ConfigError, RunError
from memlm.experiment import match as match_module
from memlm.experiment.compare import compare
from memlm.experiment.config import load_experiment
from memlm.experiment.match import recall_steps, solve_widths, standing
from memlm.experiment.reading import read_experiment, read_plan
from memlm.experiment.rerun import plan_rerun
from memlm.experiment.run import run_experiment
from memlm.experiment.settings import recorded_experiment
from memlm.experiment.variants import QUANTITIES
from memlm.model.cost import cost
from memlm.report import tables
from tests.told import one_line

MEMORY = "memory: {type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3}, fusion: {type: gated_mlp}"
PARALLEL = f"{{{MEMORY}, placement: parallel}}"


def variants(control, partner=PARALLEL):
    return ["hypotheses=[]", "seeds=[0]", f"variants={{memory: {partner}, control: {control}}}"]


def priced(config, variant, quantity, **changes):
    model = config.variants[variant].model_copy(update=changes)
    return getattr(cost(model, config.data.vocab_size, config.data.seq_len), quantity)


@pytest.mark.parametrize("by", ["flops", "active_parameters", "total_parameters"])
@pytest.mark.parametrize("shape", ["n_layers: 2", "n_layers: 3, d_model: 16", "experts: {n_experts: 3, top_k: 2}"])
def test_the_width_that_comes_nearest_is_solved(by, shape, experiment_yaml):
    stated = load_experiment(experiment_yaml, variants(f"{{match: {{to: memory, by: {by}}}, {shape}}}"))
    config, (solution,) = solve_widths(stated)
    control = config.variants["control"]
    assert control.match is None and control.d_ff == solution.value
    assert solution.target == priced(config, "memory", QUANTITIES[by])
    assert solution.reached == priced(config, "control", QUANTITIES[by])
    finer = [priced(config, "control", QUANTITIES[by], d_ff=solution.value + step) for step in (-1, 1)]
    closest = min(abs(found / solution.target - 1) for found in finer)
    assert solution.off <= max(closest, match_module.CLOSE)


def test_a_multiple_of_eight_is_taken_where_it_is_near_enough():
    assert match_module._nearest(203.0, tolerance=3.0) == 200
    assert match_module._nearest(203.0, tolerance=1.0) == 204
    assert match_module._nearest(203.2, tolerance=0.1) == 203
    assert match_module._nearest(1.2, tolerance=0.0) == 1


def test_a_partner_that_is_too_cheap_is_refused_in_one_line(experiment_yaml):
    config = load_experiment(experiment_yaml, variants("{match: {to: memory}, n_layers: 40}"))
    with pytest.raises(ConfigError) as raised:
        solve_widths(config)
    told = one_line(raised.value, "even with a feed-forward layer of width 1")
    assert told.startswith("variants.control.match: memory has ")
    assert raised.value.exit_code == 2


def fake_measurement(patch):
    """Takes the place of the measurement: a step of the memory model takes 3 s, one of the control 1 s."""
    calls = []

    def step_time(_config, variant, *_):
        calls.append(variant)
        return {"memory": 3.0, "control": 1.0}[variant] + 0.01 * len(calls)

    patch.setattr(match_module, "step_time", step_time)
    return calls


@pytest.fixture
def measured(monkeypatch):
    return fake_measurement(monkeypatch)


TIMED = "{match: {to: memory, by: wall_clock}}"


@pytest.fixture(scope="module")
def once(corpus, tmp_path_factory):
    """An experiment with a control by wall clock, run once."""
    from tests.conftest import experiment_yaml

    folder = tmp_path_factory.mktemp("timed")
    config = load_experiment(experiment_yaml.__wrapped__(corpus, folder), variants(TIMED))
    with pytest.MonkeyPatch.context() as patch:
        calls = fake_measurement(patch)
        return run_experiment(config, folder, progress=False), config, calls


@pytest.fixture
def timed(once, tmp_path):
    """A copy of its folder, and its configuration."""
    folder, config, _ = once
    return shutil.copytree(folder, tmp_path / "tiny"), config


def test_steps_are_solved_in_turns_recorded_and_not_measured_again(once, timed, measured):
    folder, config = timed
    assert once[2] == ["control", "memory"] * 3
    (solution,) = read_plan(folder).matches
    assert solution.step_times_s == (pytest.approx(1.03), pytest.approx(3.04))
    assert solution.value == round(6 * 3.04 / 1.03) == 18
    assert (solution.target, solution.reached) == (pytest.approx(6 * 3.04), pytest.approx(18 * 1.03))
    assert solution.spread == pytest.approx(0.04 / 1.03)
    run = yaml.safe_load((folder / "control-s0" / "config.yaml").read_text())
    assert (run["train"]["steps"], run["train"]["tokens"], "match" in run["model"]) == (18, None, False)
    assert json.loads((folder / "control-s0" / "record.json").read_text())["steps"] == 18
    run_experiment(config.model_copy(update={"seeds": [0, 1]}), folder.parent, progress=False)
    assert not measured, "it was measured again"
    assert json.loads((folder / "control-s1" / "record.json").read_text())["steps"] == 18


def test_other_settings_make_the_measurement_void(timed):
    folder, config = timed
    plan = read_plan(folder)
    before = recorded_experiment(plan.config)
    assert standing(config, before, plan.matches) == recall_steps(config, plan.matches)[1] == plan.matches
    wider = config.model_copy(update={"data": config.data.model_copy(update={"seq_len": 8})})
    assert standing(wider, before, plan.matches) == []
    assert standing(config, None, plan.matches) == []
    assert standing(config, before, [replace(plan.matches[0], to="gone")]) == []


def of_other_text(folder, **changes):
    """Has the record say that steps were measured on other text."""
    plan = json.loads((folder / "experiment.json").read_text())
    plan["matches"][0] |= {"data": "of other text", **changes}
    (folder / "experiment.json").write_text(json.dumps(plan))


def test_other_text_makes_the_measurement_void(timed, measured):
    folder, config = timed
    of_other_text(folder, value=17)
    for run in folder.glob("*-s0"):
        shutil.rmtree(run)
    run_experiment(config, folder.parent, progress=False)
    assert measured, "what was measured on other text was taken"
    (solution,) = read_plan(folder).matches
    text = json.loads((folder / "memory-s0" / "record.json").read_text())["data"]["fingerprint"]
    assert (solution.data, solution.value) == (text, 18)


def test_runs_of_other_text_keep_their_measurement(timed, measured):
    folder, config = timed
    of_other_text(folder)
    edit_record(folder / "control-s0", data={"fingerprint": "of other text"})
    before = (folder / "experiment.json").read_text()
    with pytest.raises(RunError, match="control-s0 was run on other text"):
        run_experiment(config.model_copy(update={"seeds": [0, 1]}), folder.parent, progress=False)
    assert not measured and (folder / "experiment.json").read_text() == before
    assert not (folder / "memory-s1").exists()


def test_a_measurement_stands_when_a_setting_was_added_since(timed, measured):
    folder, config = timed
    plan = json.loads((folder / "experiment.json").read_text())
    del plan["config"]["train"]["shard"], plan["config"]["variants"]["control"]["experts"], plan["matches"][0]["data"]
    plan["matches"][0]["settings_hash"] = "of a version that recorded one"
    (folder / "experiment.json").write_text(json.dumps(plan))
    run_experiment(config.model_copy(update={"seeds": [0, 2]}), folder.parent, progress=False)
    assert not measured, "it was measured again"
    assert json.loads((folder / "control-s2" / "record.json").read_text())["steps"] == 18


def test_a_rerun_takes_the_recorded_steps(timed, measured):
    folder, _ = timed
    assert plan_rerun(folder / "control-s0", progress=False).config.train.steps == 18
    assert not measured


def test_what_was_meant_is_no_warning_and_stands_in_the_ledger(timed):
    folder, _ = timed
    comparison = compare(read_experiment(folder))
    assert not [warning for warning in comparison.warnings if "train." in warning]
    (match,) = comparison.ledger.matches
    times = [row.values["time_s"] for row in comparison.ledger.rows]
    assert match.quantity == "time_s" and match.off == pytest.approx(times[1] / times[0] - 1)
    said = tables.held_sentence(comparison)
    assert "control has steps 18, solved for the wall clock of memory, which its runs met within" in said
    assert "step times varied by 3.9 % when measured" in said
    table = tables.ledger(comparison)
    assert [row[-1].text for row in table.rows] == [tables.NOTHING, "steps 18"]
    assert {len(row) for row in [*table.rows, table.foot]} == {len(table.columns)}


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (8.4, "16 % less, which speaks for the claim"),
        (10.6, "6 % more, which speaks against the claim"),
        (10.4, None),
        (9.6, None),
    ],
)
def test_a_match_that_the_runs_missed_is_told(timed, own, said):
    folder, _ = timed
    plan = json.loads((folder / "experiment.json").read_text())
    plan["hypotheses"] = [{"name": "it pays", "claim": "memory < control", "metric": "validation_loss", "margin": 0.0}]
    (folder / "experiment.json").write_text(json.dumps(plan))
    for variant, seconds in (("memory", 10.0), ("control", own)):
        path = folder / f"{variant}-s0" / "record.json"
        record = json.loads(path.read_text())
        record["results"]["time_s"] = seconds
        path.write_text(json.dumps(record))
    (judgement,) = compare(read_experiment(folder)).judgements
    told = f"not at equal cost: control was to equal memory by wall clock and had {said}"
    assert [note for note in judgement.notes if "cost" in note] == ([told] if said else [])


def test_a_difference_that_was_not_meant_is_still_told(timed):
    folder, _ = timed
    path = folder / "control-s0" / "config.yaml"
    path.write_text(path.read_text().replace("steps: 18", "steps: 17"))
    warnings = compare(read_experiment(folder)).warnings
    assert any(warning.startswith("Not comparable: train.steps differs") for warning in warnings)
    assert not read_file(path).problems


def test_own_training_and_flops_go_through_a_run(experiment_yaml, tmp_path):
    config = load_experiment(
        experiment_yaml, variants("{match: {to: memory, by: flops}, train: {lr: 2.0e-3, steps: 4, clip: 0}}")
    )
    comparison = compare(read_experiment(run_experiment(config, tmp_path, progress=False)))
    assert not [warning for warning in comparison.warnings if "train." in warning]
    (match,) = comparison.ledger.matches
    assert match.off is not None and abs(match.off) < 0.01
    assert comparison.ledger.held["flops_per_token"].startswith("differs by less than 0.1 %") or abs(match.off) > 1e-3
    assert [row[-1].text for row in tables.ledger(comparison).rows] == [tables.NOTHING, "steps 4, lr 0.002, clip 0"]
    run = yaml.safe_load((tmp_path / "tiny" / "control-s0" / "config.yaml").read_text())
    assert run["model"]["d_ff"] == match.solution.value and run["train"]["lr"] == 2e-3
