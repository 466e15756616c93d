"""Verdicts of an experiment: Holm over its hypotheses, intervals for other documents, differences of differences."""

import json

import numpy as np
import pytest
from fabricate import SEEDS, edit_record, fabricate, loss_of, write_json
from scipy import stats

from memlm.evaluate.statistics import detectable
from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment


def hypothesis(claim, margin=0.0, metric="validation_loss"):
    return {"name": claim, "claim": claim, "metric": metric, "margin": margin}


def compared(tmp_path, *hypotheses, **plan):
    folder = fabricate(tmp_path, list(hypotheses))
    edit_plan(folder, **plan)
    return compare(read_experiment(folder))


def edit_plan(folder, **fields):
    path = folder / "experiment.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | fields)


def losses(variant):
    return np.array([loss_of(variant, seed) for seed in SEEDS])


def test_the_family_is_all_hypotheses_of_the_experiment(tmp_path):
    asked = [("gated_mlp < cross_attention", 0.05), ("dense < gated_mlp", 0.0), ("dense < nobody", 0.0)]
    judged = compared(tmp_path, *(hypothesis(claim, margin) for claim, margin in asked)).judgements
    p = [
        stats.ttest_1samp(losses("gated_mlp") - losses("cross_attention"), -0.05).pvalue,
        stats.ttest_1samp(losses("dense") - losses("gated_mlp"), 0).pvalue,
    ]
    assert [j.verdict.p for j in judged] == pytest.approx([*p, 1])
    assert [j.verdict.adjusted_p for j in judged] == pytest.approx([3 * p[0], 2 * p[1], 1])
    assert [j.verdict.level for j in judged] == pytest.approx([0.05 / 3, 0.05 / 2, 0.05])
    assert [j.difference and j.difference.confidence for j in judged[:2]] == pytest.approx([1 - 0.05 / 3, 0.975])


def test_alpha_is_the_experiments(tmp_path):
    claim = hypothesis("门控记忆 < dense", 0.06)
    (loose,) = compared(tmp_path / "a", claim).judgements
    (strict,) = compared(tmp_path / "b", claim, alpha=0.001).judgements
    assert 0.001 < loose.verdict.p == strict.verdict.p < 0.05
    assert (loose.verdict.word, strict.verdict.word) == ("supported", "inconclusive")


def test_an_interval_for_other_documents_has_the_same_mean_and_is_wider(tmp_path):
    (judged,) = compared(tmp_path, hypothesis("gated_mlp < cross_attention", 0.05)).judgements
    assert judged.n_documents == 30
    assert judged.documents.mean == pytest.approx(judged.difference.mean, abs=1e-4)
    assert judged.documents.low < judged.difference.low < judged.difference.high < judged.documents.high
    assert judged.documents.confidence == judged.difference.confidence


def test_losses_under_the_controls_have_documents_and_other_metrics_have_none(tmp_path):
    off, time = compared(
        tmp_path,
        hypothesis("gated_mlp < cross_attention", metric="memory_off_loss"),
        hypothesis("gated_mlp < cross_attention", metric="time_s"),
    ).judgements
    assert (off.n_documents, time.n_documents) == (30, 0)
    assert time.documents is None


@pytest.mark.parametrize("which", ["missing", "of other text"])
def test_without_the_same_documents_everywhere_there_is_no_such_interval(folder, which):
    path = folder / "gated_mlp-s1" / "documents.json"
    if which == "missing":
        path.unlink()
    else:
        path.write_text(path.read_text().replace("000000000000", "ffffffffffff"))
    comparison = compare(read_experiment(folder))
    assert comparison.judgements[0].documents is None
    assert comparison.judgements[0].verdict.word == "supported"
    assert not comparison.missing


def test_damaged_losses_of_documents_are_told_and_left_out(folder):
    (folder / "gated_mlp-s1" / "documents.json").write_text('{"documents": [', encoding="utf-8")
    edit_record(folder / "dense-s0", results={"validation_loss": 4.0})
    comparison = compare(read_experiment(folder))
    first, second = sorted(comparison.missing)
    assert "dense-s0/documents.json: validation_loss adds up to 4.1000, and the record has 4.0" in first
    assert "gated_mlp-s1/documents.json:1: is not valid JSON" in second
    assert comparison.judgements[0].documents is None


def test_a_difference_of_differences(tmp_path):
    claim = "gated_mlp - dense < cross_attention - dense"
    (judged,) = compared(tmp_path, hypothesis(claim, 0.1)).judgements
    expected = (losses("gated_mlp") - losses("dense")) - (losses("cross_attention") - losses("dense"))
    assert judged.difference.mean == pytest.approx(expected.mean())
    assert judged.difference.sd == pytest.approx(expected.std(ddof=1))
    assert judged.documents.mean == pytest.approx(expected.mean(), abs=1e-4)
    assert judged.verdict.word == "supported"


def test_an_effect_that_exceeds_another_whatever_its_sign(tmp_path):
    claim = "|dense - cross_attention| > |gated_mlp - dense|"
    (judged,) = compared(tmp_path, hypothesis(claim, 0.2)).judgements
    bigger, smaller = losses("cross_attention") - losses("dense"), losses("gated_mlp") - losses("dense")
    assert judged.difference.mean == pytest.approx((bigger - smaller).mean())
    assert judged.verdict.p == pytest.approx(2 * stats.ttest_1samp(smaller - bigger, -0.2).pvalue), (
        "two ways to come true"
    )
    assert judged.verdict.word == "supported"


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.6])
def test_above_is_judged_as_below_and_told_as_it_is_written(tmp_path, margin):
    (below,) = compared(tmp_path / "a", hypothesis("gated_mlp < cross_attention", margin)).judgements
    (above,) = compared(tmp_path / "b", hypothesis("cross_attention > gated_mlp", margin)).judgements
    assert above.verdict == below.verdict and below.verdict.word in ("supported", "refuted")
    assert (below.bound, above.bound) == (-margin, margin)
    for one, other in ((above.difference, below.difference), (above.documents, below.documents)):
        assert one.mean == pytest.approx(-other.mean)
        assert [one.low, one.high] == pytest.approx([-other.high, -other.low])


def test_a_pattern_is_the_mean_over_variants(tmp_path):
    (judged,) = compared(tmp_path, hypothesis("dense < *_*")).judgements
    expected = losses("dense") - (losses("gated_mlp") + losses("cross_attention")) / 2
    assert judged.difference.mean == pytest.approx(expected.mean())
    assert judged.difference.sd == pytest.approx(expected.std(ddof=1))
    assert judged.documents.mean == pytest.approx(expected.mean(), abs=1e-4)


def test_a_claim_with_four_sides_says_what_it_lacks(tmp_path):
    folder = fabricate(tmp_path, [hypothesis("gated_mlp - dense < cross_attention - 门控记忆")])
    edit_record(folder / "门控记忆-s1", status="interrupted")
    (judged,) = compare(read_experiment(folder)).judgements
    assert judged.difference.n == 2
    assert judged.notes == ["not finished: 门控记忆-s1"]


def test_noise_is_that_of_the_seeds(tmp_path):
    (noise,) = compared(tmp_path, hypothesis("dense < gated_mlp"), hypothesis("gated_mlp < dense")).noise
    assert noise.sd["dense"] == pytest.approx(losses("dense").std(ddof=1))
    variants = list(noise.sd)
    pairs = [(losses(a) - losses(b)).var(ddof=1) for n, a in enumerate(variants) for b in variants[n + 1 :]]
    assert noise.paired_sd == pytest.approx(np.mean(pairs) ** 0.5)
    assert noise.level == 0.025
    assert list(noise.detectable) == [3] and noise.detectable[3] > noise.paired_sd


def test_noise_knows_how_many_seeds_each_pair_has(tmp_path):
    folder = fabricate(tmp_path, [])
    edit_record(folder / "dense-s0", status="interrupted")
    (noise,) = compare(read_experiment(folder)).noise
    assert noise.detectable == {n: detectable(noise.paired_sd, n, 0.05) for n in (3, 2)}


def test_an_effect_of_either_sign_makes_the_strictest_level_half_of_it(tmp_path):
    claim = "|dense - gated_mlp| > |dense - cross_attention|"
    (noise,) = compared(tmp_path, hypothesis("dense < gated_mlp"), hypothesis(claim)).noise
    assert noise.level == 0.0125


def test_one_seed_tells_of_no_noise(tmp_path):
    folder = fabricate(tmp_path, [], seeds=(0,))
    assert compare(read_experiment(folder)).noise == []


def test_a_level_that_was_changed_is_told(folder):
    edit_plan(folder, alpha=0.2)
    (warning,) = compare(read_experiment(folder)).warnings
    assert warning.startswith("alpha was changed after dense-s0")
