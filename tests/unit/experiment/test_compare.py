import json
import shutil
from statistics import mean

import pytest
import yaml
from fabricate import ENTROPY, SEEDS, edit_record, fabricate, loss_of, write_json

from memlm.config.checks import LEFT_OUT
from memlm.errors import RunError
from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment
from memlm.report.tables import held_sentence


def compared(folder):
    return compare(read_experiment(folder))


def hypothesis(claim, margin=0.0, metric="validation_loss"):
    return {"name": "h", "claim": claim, "metric": metric, "margin": margin}


def test_means_and_gaps_are_those_of_the_records(folder):
    comparison = compared(folder)
    found = comparison.results["gated_mlp"]["validation_loss"]
    expected = mean(loss_of("gated_mlp", seed) for seed in SEEDS)
    assert (found.mean, found.n) == (pytest.approx(expected), 3)
    assert found.low < found.mean < found.high
    assert comparison.above_unigram["gated_mlp"] == pytest.approx(expected - ENTROPY)
    assert not comparison.missing
    assert not comparison.warnings


@pytest.mark.parametrize(
    ("claim", "margin", "word"),
    [
        ("gated_mlp < cross_attention", 0.05, "supported"),
        ("cross_attention > gated_mlp", 0.05, "supported"),
        ("cross_attention < gated_mlp", 0.0, "refuted"),
        ("门控记忆 < dense", 0.08, "inconclusive"),
    ],
)
def test_verdicts(tmp_path, claim, margin, word):
    (judgement,) = compared(fabricate(tmp_path, [hypothesis(claim, margin)])).judgements
    assert judgement.verdict.word == word
    assert judgement.difference.n == 3
    assert ("seeds would refute it" in str(judgement.verdict)) == (word == "inconclusive")


def test_a_verdict_says_what_it_lacks(tmp_path):
    folder = fabricate(tmp_path, [hypothesis("gated_mlp < dense", metric="recall"), hypothesis("dense < nobody")])
    edit_record(folder / "dense-s1", status="interrupted")
    recall, nobody = compared(folder).judgements
    assert str(recall.verdict) == "inconclusive (no seed has both sides)"
    assert "no recall in gated_mlp-s0, gated_mlp-s1, gated_mlp-s2, dense-s0 and 1 more" in recall.notes
    assert "not finished: dense-s1" in recall.notes
    assert "the experiment has no variant 'nobody'" in nobody.notes


def test_a_claim_that_cannot_be_read_is_refused(tmp_path):
    folder = fabricate(tmp_path, [hypothesis("dense is best")])
    with pytest.raises(RunError, match="hypothesis 'h'"):
        compared(folder)


def test_one_seed_is_never_enough(tmp_path):
    (judgement,) = compared(fabricate(tmp_path, [hypothesis("gated_mlp < cross_attention")], seeds=(7,))).judgements
    assert judgement.verdict.word == "inconclusive"
    assert judgement.difference.low is None


def test_the_ledger_says_what_was_held_equal(folder):
    ledger = compared(folder).ledger
    assert ledger.equal() == ["active_parameters", "tokens", "device"]
    assert ledger.held["parameters"] == "differs by up to 22 %"
    assert ledger.held["flops_per_token"] == "differs by less than 0.1 %"
    assert ledger.held["memory_parameters"] == "differs (none in some)"


def test_a_variant_without_a_finished_run_hides_nothing_of_the_others(folder):
    for run in folder.glob("dense-s*"):
        shutil.rmtree(run)
    comparison = compared(folder)
    assert comparison.ledger.equal()[:2] == ["parameters", "active_parameters"]
    assert comparison.ledger.unknown() == []
    assert held_sentence(comparison).startswith(
        "Held equal in all variants with a finished run: parameters, active par"
    )


def test_nothing_is_called_equal_of_a_single_variant(folder):
    for run in folder.glob("*-s*"):
        if not run.name.startswith("dense-"):
            shutil.rmtree(run)
    ledger = compared(folder).ledger
    assert ledger.equal() == ledger.unequal() == []
    assert set(ledger.held.values()) == {"cannot be told"}


def test_controls_are_paired_and_only_for_a_memory(folder):
    controls = {(c.variant, c.name): c.difference for c in compared(folder).controls}
    assert {variant for variant, _ in controls} == {"cross_attention", "gated_mlp", "门控记忆"}
    assert controls["gated_mlp", "memory off"].mean == pytest.approx(0.3)
    assert controls["gated_mlp", "values shuffled"].mean == pytest.approx(0.11)


def test_missing_runs_and_values_are_said(folder):
    shutil.rmtree(folder / "dense-s0")
    edit_record(folder / "dense-s1", status="failed", error="out of memory", steps=1200)
    edit_record(folder / "gated_mlp-s0", status="running")
    edit_record(folder / "gated_mlp-s1", results={"validation_loss": None})
    shutil.copytree(folder / "dense-s2", folder / "dense-s9")
    comparison = compared(folder)
    assert comparison.missing == [
        "dense-s0 was not run",
        "dense-s1 failed at step 1,200: out of memory",
        "gated_mlp-s0 is still running",
        "dense-s9 is in the folder but not in the experiment, and is left out",
        "gated_mlp-s1 finished without a finite validation_loss",
    ]
    assert comparison.results["dense"]["validation_loss"].n == 1
    shutil.rmtree(folder / "dense-s1")
    assert compared(folder).missing[0] == "dense was not run with the seeds 0, 1"


def test_runs_that_differ_in_more_than_the_model_are_warned_of(folder):
    edit_record(folder / "dense-s1", data={"fingerprint": "other"}, device={"name": "A100"}, dirty=True)
    edit_config(folder / "dense-s2", "lr: 0.001", "lr: 0.1")
    warnings = compared(folder).warnings
    assert [warning.split(" differs")[0] for warning in warnings[:3]] == [
        "Not comparable: text",
        "Not comparable: device",
        "Not comparable: train.lr",
    ]
    assert "other in dense-s1." in warnings[0]
    assert warnings[3] == "Uncommitted changes: the commit does not say what code ran in dense-s1."


def test_a_run_that_went_on_elsewhere_is_told_with_both_places(folder):
    before = {"step": 600, "commit": "0123456789", "device": {"name": "A100", "kind": "cuda"}}
    record = json.loads((folder / "dense-s1" / "record.json").read_text(encoding="utf-8"))
    edit_record(folder / "dense-s1", continued=[before | {"commit": record["commit"]}])
    (told,) = compared(folder).warnings
    assert told.startswith("Broken off and gone on with another device: dense-s1 (A100 (cuda), then ")
    back = [before | {"device": record["device"], "commit": commit} for commit in (record["commit"], "9876543210")]
    edit_record(folder / "dense-s1", continued=back)
    (told,) = compared(folder).warnings
    own = record["commit"][:7]
    assert told == f"Broken off and gone on with another commit: dense-s1 ({own}, then 9876543, then {own})."


def test_a_commit_that_is_abbreviated_is_the_same_commit(folder):
    edit_record(folder / "dense-s1", commit="0123456")
    assert compared(folder).warnings == []
    edit_record(folder / "dense-s1", commit="0123457")
    assert [warning.split(" differs")[0] for warning in compared(folder).warnings] == ["Not comparable: commit"]


def test_a_run_with_the_rate_of_other_variants_is_told(folder):
    plan = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    write_json(folder / "experiment.json", plan | {"own_training": {"dense": {"lr": 2e-3}}})
    for seed in SEEDS[1:]:
        edit_config(folder / f"dense-s{seed}", "lr: 0.001", "lr: 0.002")
    assert compared(folder).warnings == ["Not comparable: train.lr was to be 0.002, and is 0.001 in dense-s0."]


def test_a_run_with_another_model_than_its_variant_is_told(folder):
    edit_config(folder / "gated_mlp-s1", "d_model: 128", "d_model: 192")
    (warning,) = compared(folder).warnings
    assert warning.startswith("Not comparable: model.d_model differs between runs: 128 in gated_mlp-s0")


def test_a_run_without_the_memory_of_its_variant_is_told(folder):
    path = folder / "gated_mlp-s1" / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["model"]["memory"] = None
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    told = (
        "Not comparable: model.memory differs between runs: given in gated_mlp-s0, gated_mlp-s2; none in gated_mlp-s1."
    )
    assert compared(folder).warnings == [told]


def edit_config(run, old, new):
    path = run / "config.yaml"
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def test_an_experiment_without_a_finished_run_compares_nothing(folder):
    for run in folder.glob("*-s*"):
        shutil.rmtree(run)
    comparison = compared(folder)
    assert comparison.missing == [
        f"{v} was not run with the seeds 0, 1, 2" for v in comparison.experiment.plan.variants
    ]
    assert comparison.ledger.held["tokens"] == "cannot be told"
    assert comparison.judgements[0].verdict.word == "inconclusive"


def test_what_the_preflight_left_out_is_told(folder):
    for seed in SEEDS[1:]:
        checks = [
            {"check": "overfit", "status": "skipped", "reason": LEFT_OUT},
            {"check": "top_k", "status": "skipped", "reason": "after another one"},
            {"check": "causality_in_training", "status": "declared", "reason": "future_leak_in_training: BatchNorm"},
        ]
        edit_record(folder / f"gated_mlp-s{seed}", preflight={"checks": checks})
    told = [warning for warning in compared(folder).warnings if warning.startswith("Preflight")]
    assert told == [
        "Preflight: overfit was left out by name in gated_mlp-s1, gated_mlp-s2.",
        "Preflight: causality_in_training: future_leak_in_training: BatchNorm, in gated_mlp-s1, gated_mlp-s2.",
    ]


def test_hypotheses_that_were_added_changed_or_left_out_are_named(tmp_path):
    now = [hypothesis("dense < gated_mlp") | {"name": name} for name in ("kept", "milder", "new")]
    folder = fabricate(tmp_path, now)
    before = [now[0], now[1] | {"margin": 0.1}, now[2] | {"name": "gone"}]
    for run in folder.glob("*-s*"):
        edit_record(run, hypotheses=now[::-1])
    assert compared(folder).warnings == [], "another order is no change"
    edit_record(folder / "dense-s0", hypotheses=before)
    edit_record(folder / "dense-s2", hypotheses=before)
    edit_record(folder / "dense-s1", hypotheses=now[:2])
    assert compared(folder).warnings == [
        "The hypotheses were changed after dense-s0, dense-s2 had been run: added: 'new'; changed: 'milder'; left out: "
        "'gone'.",
        "The hypotheses were changed after dense-s1 had been run: added: 'new'.",
    ]
