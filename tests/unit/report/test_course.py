"""The claimed differences over training."""

import json

import pytest
from fabricate import fabricate, loss_of

from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment
from memlm.report import course
from memlm.report.page import write_report

CLAIMS = [
    {"name": "memory pays", "claim": "gated_mlp < dense"},
    {"name": "fusion beats router", "claim": "cross_attention - gated_mlp > gated_mlp - dense"},
    {"name": "elsewhere", "claim": "gated_mlp < dense", "metric": "memory_off_loss"},
]


def log(folder, variant, seed, points):
    lines = [
        {"step": n + 1, "tokens": tokens, "evaluate/validation_loss": loss} for n, (tokens, loss) in enumerate(points)
    ]
    path = folder / f"{variant}-s{seed}" / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def courses(folder):
    return course.table(compare(read_experiment(folder)))


@pytest.fixture
def folder(tmp_path):
    """Every run was evaluated after 1,000 and 2,000 tokens; its loss fell from three times what it is in the end."""
    folder = fabricate(tmp_path, CLAIMS)
    for variant in ("dense", "gated_mlp", "cross_attention"):
        for seed in (0, 1, 2):
            log(folder, variant, seed, [(1_000, 3 * loss_of(variant, seed)), (2_000, loss_of(variant, seed))])
    return folder


def mean(variant):
    return sum(loss_of(variant, seed) for seed in (0, 1, 2)) / 3


def test_a_claim_has_the_mean_of_its_pairs_at_every_evaluation(folder):
    found = courses(folder)
    assert found.columns == ["Claim", "1,000 tokens", "2,000 tokens"]
    assert [texts[0] for texts in found.texts] == ["memory pays", "fusion beats router"]
    gain = mean("gated_mlp") - mean("dense")
    assert [float(text.replace("−", "-")) for text in found.texts[0][1:]] == pytest.approx([3 * gain, gain], abs=6e-4)
    assert "Claims over training" in write_report(folder)[1].read_text(encoding="utf-8")


def test_runs_of_other_lengths_are_not_laid_beside_each_other(folder):
    for seed in (0, 1, 2):
        log(folder, "dense", seed, [(1_500, 9.0), (3_000, 4.0)])
    assert courses(folder).rows == []
    assert "Claims over training" not in write_report(folder)[1].read_text(encoding="utf-8")


def test_of_many_evaluations_some_are_shown_and_the_last(folder):
    for variant in ("dense", "gated_mlp", "cross_attention"):
        for seed in (0, 1, 2):
            log(folder, variant, seed, [(1_000 * n, float(n)) for n in range(1, 101)])
    columns = courses(folder).columns
    assert len(columns) == 1 + course.POINTS and columns[-1] == "100 k tokens"
