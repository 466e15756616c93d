"""A verdict on runs that missed their match has a caveat where the miss speaks for what was found."""

import json

import pytest
from fabricate import LOSSES, SEEDS, edit_record, fabricate, write_json

from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment
from memlm.report.page import write_report

CAVEAT = "but not at equal cost"


def missed(tmp_path, claim, off, metric="validation_loss"):
    """dense was to take the time of 门控记忆, which has the lower loss, and took so much more or less of it."""
    folder = fabricate(tmp_path, [{"name": "pays", "claim": claim, "metric": metric, "margin": 0.0}])
    path = folder / "experiment.json"
    solution = {"variant": "dense", "to": "门控记忆", "by": "wall_clock", "setting": "steps", "value": 9}
    plan = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, plan | {"matches": [solution | {"target": 1.0, "reached": 1.0}]})
    for variant in LOSSES:
        for seed in SEEDS:
            seconds = 100 * (1 + off) if variant == "dense" else 100
            right = 5 - LOSSES[variant] + 0.01 * seed
            measures = {"time_s": seconds, "recall": {"seen": {"exact_match": right}}, "odd": right}
            edit_record(folder / f"{variant}-s{seed}", results=measures)
    return folder


@pytest.mark.parametrize(
    ("claim", "off", "metric", "outcome"),
    [
        ("门控记忆 < dense", -0.19, "validation_loss", f"supported, {CAVEAT}"),
        ("dense > 门控记忆", -0.19, "validation_loss", f"supported, {CAVEAT}"),
        ("门控记忆 < dense", 0.19, "validation_loss", "supported"),
        ("门控记忆 < dense", -0.04, "validation_loss", "supported"),
        ("dense < 门控记忆", -0.19, "validation_loss", f"refuted, {CAVEAT}"),
        ("dense < 门控记忆", 0.19, "validation_loss", "refuted"),
        ("门控记忆 > dense", -0.19, "recall.seen.exact_match", f"supported, {CAVEAT}"),
        ("门控记忆 > dense", 0.19, "recall.seen.exact_match", "supported"),
        ("门控记忆 - gated_mlp < dense - gated_mlp", -0.19, "validation_loss", f"supported, {CAVEAT}"),
        ("门控记忆 > dense", 0.19, "odd", f"supported, {CAVEAT}"),
        ("gated_mlp < cross_attention", -0.19, "validation_loss", "supported"),
    ],
)
def test_the_caveat_stands_where_the_miss_may_have_made_the_verdict(tmp_path, claim, off, metric, outcome):
    (judgement,) = compare(read_experiment(missed(tmp_path, claim, off, metric))).judgements
    assert judgement.outcome == outcome


def test_it_is_told_beside_the_verdict_and_in_its_own_colour(tmp_path):
    page, text = (
        path.read_text(encoding="utf-8") for path in write_report(missed(tmp_path, "门控记忆 < dense", -0.19))
    )
    told = f"supported, {CAVEAT}"
    assert f"**pays: 门控记忆 \\< dense. Verdict: {told}.**" in text and f"| {told} |" in text
    assert f'<div class="verdict caveat">\n<strong>Verdict: {told}</strong>' in page
    assert f'caveat">{told}</td>' in page
    assert "had 19 % less, which speaks for the claim" in page
