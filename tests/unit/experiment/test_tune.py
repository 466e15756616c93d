"""Trials of learning rates: which rates, on which text, and what becomes of them when a tune is broken off."""

import json
import math
import sys
from dataclasses import asdict

import numpy as np
import pytest
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.data.prepare import prepare
from memlm.errors import DivergedError, Interrupted, MissingDependencyError, RunError
from memlm.experiment import tune as tune_module
from memlm.experiment.config import load_experiment
from memlm.experiment.record import config_hash
from memlm.experiment.trials import Trial, Tune, TunePlan, read_tune
from memlm.experiment.tune import TuneWatcher, tune, write_tuned
from memlm.report import tuning
from memlm.storage import write_json
from tests.told import one_line

pytest.importorskip("optuna")
SHORT = ["data.tune_share=0.1", "tune.trials=8", "tune.steps=3"]


@pytest.fixture(scope="module")
def tuned(corpus, tmp_path_factory):
    """A tune of the tiny experiment, its folder and its config."""
    from tests.conftest import experiment_yaml

    folder = tmp_path_factory.mktemp("tune")
    path = experiment_yaml.__wrapped__(corpus, folder)
    return tune(load_experiment(path, SHORT), folder / "runs", progress=False), path


def losses(found):
    return [(trial.variant, trial.number, trial.rates, trial.loss) for trial in found.trials]


def test_every_variant_has_as_many_trials_and_begins_with_its_own_rates(tuned):
    found, path = tuned
    assert {variant: len(found.of(variant)) for variant in found.plan.variants} == dict.fromkeys(found.plan.variants, 8)
    assert found.of("dense")[0].rates == {"lr": 5e-3}
    assert found.of("gated_mlp")[0].rates == {"lr": 5e-3, "value_lr": 5e-3}
    lows_and_highs = load_experiment(path, SHORT).tune
    for trial in found.trials:
        for name, rate in trial.rates.items():
            low, high = getattr(lows_and_highs, name)
            assert low <= rate <= high
    spread = [[trial.rates["lr"] for trial in found.of(variant)[1:7]] for variant in found.plan.variants]
    assert spread[0] == spread[1] == spread[2], "the spread rates are the same for all"
    assert len({round(np.log(rate), 2) for rate in spread[0]}) == 6


def test_a_tune_that_was_broken_off_goes_on_as_if_nothing_had_happened(tuned, tmp_path):
    expected, path = tuned
    config = load_experiment(path, SHORT)

    def stop(variant, number, _step):
        if (variant, number) == ("cross_attention", 7):
            raise Interrupted

    with pytest.raises(Interrupted):
        tune(config, tmp_path, TuneWatcher(step=stop), progress=False)
    assert len(read_tune(tmp_path / "tiny-tune").trials) == 22
    before = []
    found = tune(config, tmp_path, TuneWatcher(finished=lambda trial, is_old: before.append(is_old)), progress=False)
    assert losses(found) == losses(expected)
    assert before == [True] * 22 + [False] * 2


def test_more_trials_go_on_from_those_there_and_other_settings_are_refused(tuned, tmp_path):
    _, path = tuned
    variants = ["variants={dense: {}}", "hypotheses=[]"]
    few = tune(load_experiment(path, [*SHORT, *variants, "tune.trials=2"]), tmp_path, progress=False)
    more = tune(load_experiment(path, [*SHORT, *variants, "tune.trials=3"]), tmp_path, progress=False)
    assert losses(more)[:2] == losses(few) and len(more.trials) == 3
    others = {
        "tune.steps": ["tune.steps=4"],
        "tune.lr": ["tune.lr=[1e-3, 1e-2]"],
        "tune.seed": ["tune.seed=1"],
        "train.clip, data.vocab_size": ["data.vocab_size=330", "train.clip=0.5"],
        "its variants": ["variants.other={}"],
    }
    for names, overrides in others.items():
        config = load_experiment(path, [*SHORT, *variants, *overrides])
        with pytest.raises(RunError) as told:
            tune(config, tmp_path, progress=False)
        assert "tiny-tune is a tune with other settings (" in str(told.value), names
        assert all(name in str(told.value) for name in names.split(", ")), told.value


def test_other_settings_are_refused_before_the_text_is_prepared_and_matched_widths_are_none(tmp_path, experiment_yaml):
    matched = ["variants={dense: {}, wide: {match: {to: dense, by: flops}}}", "hypotheses=[]", "tune.trials=2"]
    config = load_experiment(experiment_yaml, [*SHORT, *matched])
    tune(config, tmp_path, progress=False)
    tune(config, tmp_path, progress=False)  # the width that was solved is no other setting
    gone = [f"data.corpus={tmp_path / 'gone.jsonl'}", "train.clip=0.5"]
    with pytest.raises(RunError, match=r"other settings \(data.corpus, train.clip\); give this one another name"):
        tune(load_experiment(experiment_yaml, [*SHORT, *matched, *gone]), tmp_path, progress=False)


def test_a_tune_of_an_earlier_version_goes_on_and_an_edited_one_does_not(tuned, tmp_path):
    _, path = tuned
    config = load_experiment(path, [*SHORT, "variants={dense: {}}", "hypotheses=[]", "tune.trials=2"])
    tune(config, tmp_path, progress=False)
    file = tmp_path / "tiny-tune" / "tune.json"
    as_made = file.read_text()

    def written(is_hashed, **changes):
        plan = json.loads(as_made)
        del plan["settings"]["dense"]["train"]["shard"]  # what the earlier version did not have
        plan |= changes
        decides = {"variants": plan["settings"], **{name: plan[name] for name in ("steps", "ranges", "data")}}
        file.write_text(json.dumps(plan | ({"settings_hash": config_hash(decides)} if is_hashed else {})))

    def trials():
        before = []
        tune(config, tmp_path, TuneWatcher(finished=lambda trial, is_old: before.append(is_old)), progress=False)
        return before

    written(is_hashed=True)
    assert trials() == [True] * 2
    written(is_hashed=False, settings={})  # older still: by the hash alone
    assert trials() == [True] * 2
    others = [{"data": "other text"}, {"steps": 4}, {"settings": {"gone": {}}}, {"settings": {"dense": {}}}]
    edited = [(False, {}), (False, {"settings": {}, "settings_hash": "another"})]
    for is_hashed, changes in [*((True, other) for other in others), *edited]:
        written(is_hashed, **changes)
        with pytest.raises(RunError, match="tiny-tune is a tune with other settings"):
            trials()


def test_variants_can_be_tuned_without_the_others_and_with_the_same_rates(tuned, tmp_path):
    all_of_them, path = tuned
    config = load_experiment(path, [*SHORT, "tune.trials=2"])
    found = tune(config, tmp_path, progress=False, variants=["dense"])
    assert found.plan.variants == ["dense"]
    assert [trial.loss for trial in found.trials] == [trial.loss for trial in all_of_them.of("dense")[:2]]
    assert write_tuned(found, path)["variants"].keys() == {"dense"}
    with pytest.raises(RunError, match=r"unknown variant 'densee'\. Did you mean 'dense'"):
        tune(config, tmp_path, progress=False, variants=["densee"])


def test_the_tune_split_is_no_text_of_any_run(tuned):
    _, path = tuned
    with_split = prepare(load_experiment(path, SHORT).data, progress=False)
    without = prepare(load_experiment(path).data, progress=False)

    def documents(tokens):
        ends = np.flatnonzero(tokens.ids == tokens.ids[-1])
        return {tuple(part) for part in np.split(np.asarray(tokens.ids), ends + 1)}

    assert with_split.tune.n_documents > 10 and without.tune.n_documents == 0
    kept = {split: documents(getattr(with_split, split)) for split in ("train", "validation", "judge", "tune")}
    kept["tune"] -= {()}
    assert not any(kept["tune"] & kept[split] for split in ("train", "validation", "judge"))
    total = sum(getattr(with_split, split).n_documents for split in kept)
    assert total == 300 and with_split.validation.n_documents == without.validation.n_documents
    assert with_split.fingerprint != without.fingerprint


def test_trials_are_evaluated_on_the_tune_split(tuned, monkeypatch):
    _, path = tuned
    config = load_experiment(path, SHORT)
    data = prepare(config.data, progress=False)
    suite = tune_module._suite(config, data)
    assert np.array_equal(suite.sequences[0], data.tune.ids[: config.data.seq_len + 1])
    kept = load_experiment(path, [*SHORT, "data.test_share=0.1", "evaluate.split=test"])
    data = prepare(kept.data, progress=False)
    suite = tune_module._suite(kept, data)
    assert np.array_equal(suite.held_out.ids, data.tune.ids), "the test split is not opened by tuning"
    with pytest.raises(RunError, match=r"the tune split has \d+ tokens, fewer than one sequence of 17"):
        tune_module._suite(config, prepare(load_experiment(path, ["data.tune_share=1e-9"]).data, progress=False))


def test_a_trial_that_diverges_is_the_worst_and_stops_nothing(tuned, tmp_path, monkeypatch):
    _, path = tuned
    sound = tune_module.train_briefly

    def diverging(config, variant, sampler, tokenizer, changes, progress):
        if changes["lr"] > 5e-3:
            raise DivergedError("step 2: loss nan: not finite")
        return sound(config, variant, sampler, tokenizer, changes, progress)

    monkeypatch.setattr(tune_module, "train_briefly", diverging)
    overrides = [*SHORT, "variants={dense: {}}", "hypotheses=[]"]
    found = tune(load_experiment(path, overrides), tmp_path, progress=False)
    lost = [trial for trial in found.trials if trial.loss is None]
    assert lost and all(trial.error == "step 2: loss nan: not finite" for trial in lost)
    assert len(found.trials) == 8 and found.best("dense").rates["lr"] <= 5e-3
    assert tuning.best(found).rows[0][-1].text == str(len(lost))


def test_another_error_of_a_trial_is_no_divergence(tuned, tmp_path, monkeypatch):
    _, path = tuned
    monkeypatch.setattr(tune_module, "train_briefly", lambda *_: (_ for _ in ()).throw(RunError("the disk is full")))
    with pytest.raises(RunError, match="the disk is full"):
        tune(load_experiment(path, SHORT), tmp_path, progress=False)
    assert read_tune(tmp_path / "tiny-tune").trials == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "data.tune_share is 0, so there is no text to tune on that runs are not judged by; set it, such as "),
        ([*SHORT, "train.lr=0.5"], r"dense's train.lr is 0.5, outside of tune.lr \[0.0002, 0.02\]; widen that"),
        ([*SHORT, "train.value_lr=0.5"], r"cross_attention's train.value_lr is 0.5, outside of tune.value_lr"),
    ],
)
def test_what_cannot_be_tuned_is_one_line(overrides, message, experiment_yaml, tmp_path):
    with pytest.raises(RunError, match=message):
        tune(load_experiment(experiment_yaml, overrides), tmp_path, progress=False)
    assert not (tmp_path / "tiny-tune").exists()


def test_without_optuna_one_line_says_how_to_install_it(experiment_yaml, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"optuna is needed for memlm tune; .* 'memlm\[tune\]'"):
        tune(load_experiment(experiment_yaml, SHORT), tmp_path, progress=False)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--variant", "densee"], "unknown variant 'densee'. Did you mean 'dense'? Known: "),
        ([], "data.tune_share is 0"),
        (["-o", "data.tune_share=0.1", "-o", "train.lr=0.5"], "outside of tune.lr"),
    ],
)
def test_the_command_refuses_before_it_announces_anything(arguments, told, experiment_yaml, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "memlm.experiment.tune", None)  # what takes seconds to import
    line = ["tune", str(experiment_yaml), *arguments, "--runs", str(tmp_path)]
    result = CliRunner().invoke(app, line)
    assert isinstance(result.exception, RunError) and told in str(result.exception)
    assert result.output == ""


def test_the_command_asks_for_optuna_before_it_announces_anything(experiment_yaml, tmp_path, monkeypatch):
    for module in ("optuna", "memlm.experiment.tune"):
        monkeypatch.setitem(sys.modules, module, None)
    result = CliRunner().invoke(app, ["tune", str(experiment_yaml), "--runs", str(tmp_path)])
    assert isinstance(result.exception, MissingDependencyError) and result.output == ""


def test_the_winners_are_a_config_that_stands_on_the_one_that_was_tuned(tuned):
    found, path = tuned
    best = write_tuned(found, path, [*SHORT, "train.clip=0.5", "name=other"])
    config = load_experiment(found.folder / "tuned.yaml")
    assert config.name == "tiny-tuned" and config.data.tune_share == 0.1 and config.train.clip == 0.5
    for variant in config.variants:
        train = config.train_of(variant)
        assert {"lr": train.lr, **({"value_lr": train.value_lr} if variant != "dense" else {})} == found.best(
            variant
        ).rates
        assert best["variants"][variant]["train"] == found.best(variant).rates
    assert config.data.corpus == load_experiment(path).data.corpus and config.seeds == [0, 1]


def test_a_config_that_has_a_base_is_written_whole(tuned):
    found, path = tuned
    above = path.with_name("above.yaml")
    above.write_text("base: tiny.yaml\nseeds: [5]\n", encoding="utf-8")
    write_tuned(found, above, ["data.tune_share=0.1"])
    config = load_experiment(found.folder / "tuned.yaml")
    assert config.seeds == [5] and config.train_of("dense").lr == found.best("dense").rates["lr"]


WORLD = """\
data:
  corpus: facts
  facts: {entities: 20, attributes: 2, values: 8, hops: 1, exposures: 3}
  vocab_size: 400
  seq_len: 16
model: {d_model: 32, n_layers: 1, n_heads: 2}
train: {steps: 2, batch_size: 4, lr: 1.0e-3}
evaluate: {tokens: 500, train_tokens: 200, samples: 0}
tune: {trials: 2, steps: 2}
variants: {dense: {}}
"""


def test_a_generated_world_is_tuned_on_another_one(tmp_path, monkeypatch):
    path = tmp_path / "world.yaml"
    path.write_text(WORLD, encoding="utf-8")
    config = load_experiment(path)
    evaluated = []
    sound = tune_module._suite
    monkeypatch.setattr(tune_module, "_suite", lambda *given: evaluated.append(given) or sound(*given))
    found = tune(config, tmp_path, progress=False)
    (as_tuned, data), runs = evaluated[0], prepare(config.data, progress=False)
    assert found.trials[0].loss is not None
    assert as_tuned.data.facts.seed != config.data.facts.seed and data.fingerprint != runs.fingerprint
    assert np.array_equal(sound(as_tuned, data).sequences[0], data.validation.ids[:17])
    write_tuned(found, path)
    assert load_experiment(found.folder / "tuned.yaml").data == config.data
    tune(config, tmp_path, progress=False)  # goes on
    assert (
        "another generated world than the runs'"
        in CliRunner().invoke(app, ["tune", str(path), "--runs", str(tmp_path)]).output
    )


def test_a_generated_world_is_tuned_on_text_that_is_named(tmp_path, corpus):
    path = tmp_path / "world.yaml"
    path.write_text(WORLD, encoding="utf-8")
    config = load_experiment(path, [f"data.tune={corpus}"])
    found = tune(config, tmp_path, progress=False)
    data = prepare(config.data, progress=False)
    assert found.plan.data == data.fingerprint
    assert np.array_equal(tune_module._suite(config, data).held_out.ids, data.tune.ids)


def fabricated(tmp_path, trials):
    ranges = {"lr": (1e-4, 1e-2), "value_lr": (1e-4, 1e-2)}
    plan = TunePlan("tiny", ["a", "b"], 2, 10, 640, 0, ranges, "")
    return Tune(tmp_path, plan, trials)


def test_table_warnings_and_picture(tmp_path):
    trials = [
        Trial("a", 0, {"lr": 1e-3}, 3.5, 1.0),
        Trial("a", 1, {"lr": 9.9e-3}, 3.25, 1.0),
        Trial("b", 0, {"lr": 1e-3, "value_lr": 1e-3}, None, 1.0, "not finite"),
    ]
    found = fabricated(tmp_path, trials)
    tuning.write_tuning(found)
    text = (tmp_path / "tuning.md").read_text(encoding="utf-8")
    assert "| a | 0.0099 | – | 3.2500 | 3.5000 | 2 | 0 |" in text
    assert "| b | – | – | – | – | 1 | 1 |" in text
    assert "The best lr of a lies at the edge of tune.lr: widen it." in text
    assert "Every trial of b diverged: lower tune.lr." in text
    picture = (tmp_path / tuning.PICTURE).read_text(encoding="utf-8")
    assert picture.lstrip().startswith("<?xml") and ">lr<" in picture and ">value_lr<" in picture


def test_a_best_trial_that_lacks_a_rate_of_others_is_drawn_without_it(tmp_path):
    trials = [Trial("a", 0, {"lr": 1e-3}, 3.25, 1.0), Trial("a", 1, {"lr": 1e-3, "value_lr": 1e-3}, 3.5, 1.0)]
    tuning.write_tuning(fabricated(tmp_path, trials))
    assert "| a | 0.001 | – | 3.2500 | 3.2500 | 2 | 0 |" in (tmp_path / "tuning.md").read_text(encoding="utf-8")
    assert ">value_lr<" in (tmp_path / tuning.PICTURE).read_text(encoding="utf-8")


ORDER = "must be the lowest and the highest rate, above 0 and in this order"


@pytest.mark.parametrize(
    ("ranges", "rates", "told"),
    [
        ({"lr": (1e-4, 1e-2)}, {"lr": 1e-3, "value_lr": 1e-3}, "a-0.json: rates.value_lr: is no rate of this tune"),
        ({"lr": (1e-3, 1e-3)}, {"lr": 1e-3}, f"tune.json: ranges.lr: {ORDER}"),
        ({"lr": (1e-2, 1e-4)}, {"lr": 1e-3}, f"tune.json: ranges.lr: {ORDER}"),
        ({"lr": (0, 1e-2)}, {"lr": 1e-3}, f"tune.json: ranges.lr: {ORDER}"),
        ({"lr": (-2, -1)}, {"lr": 1e-3}, f"tune.json: ranges.lr: {ORDER}"),
        ({"lr": (1e-4, 1e-2)}, {"lr": 0}, "a-0.json: rates.lr: must be above 0"),
        ({"lr": (1e-4, 1e-2)}, {"lr": -1e-3}, "a-0.json: rates.lr: must be above 0"),
    ],
)
def test_rates_that_cannot_be_are_one_line(tmp_path, ranges, rates, told):
    (tmp_path / "trials").mkdir()
    write_json(tmp_path / "tune.json", asdict(TunePlan("tiny", ["a"], 1, 10, 640, 0, ranges, "")))
    write_json(tmp_path / "trials" / "a-0.json", asdict(Trial("a", 0, rates, 3.5, 1.0)))
    for command in ("compare", "report"):
        error = CliRunner().invoke(app, [command, str(tmp_path)]).exception
        assert isinstance(error, RunError) and told in one_line(error), error


def test_rates_far_apart_and_close_together_are_at_an_edge_or_not(tmp_path):
    found = fabricated(tmp_path, [])
    found.plan.ranges["lr"] = (5e-324, 1e308)
    assert found.at_edge(Trial("a", 0, {"lr": 1.0}, 3.5, 1.0)) == []
    found.plan.ranges["lr"] = (1.0, math.nextafter(1.0, 2))
    assert found.at_edge(Trial("a", 0, {"lr": 1.0}, 3.5, 1.0)) == ["lr"]


def test_a_damaged_trial_is_told(tuned, tmp_path):
    _, path = tuned
    config = load_experiment(path, [*SHORT, "variants={dense: {}}", "hypotheses=[]", "tune.trials=2"])
    folder = tune(config, tmp_path, progress=False).folder
    (folder / "trials" / "dense-1.json").write_text(json.dumps({"variant": "dense"}))
    with pytest.raises(RunError, match=r"dense-1.json: number: field required"):
        read_tune(folder)
