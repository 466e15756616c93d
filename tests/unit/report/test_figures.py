import json

from fabricate import ENTROPY, fabricate

from memlm.experiment.reading import read_experiment
from memlm.report import figures


def test_a_variant_keeps_its_colour_in_every_figure(folder):
    experiment = read_experiment(folder)
    curves, usage = figures.curves(experiment), figures.usage(experiment)
    for variant in experiment.plan.variants:
        paint = figures.colour(experiment.plan.variants, variant)
        assert paint in curves
        assert (paint in usage) == (variant != "dense")


def test_many_variants_are_told_apart_by_their_dashes():
    variants = [f"v{n}" for n in range(12)]
    assert len({(figures.colour(variants, v), figures.dash(variants, v)) for v in variants}) == 12
    assert len({figures.swatch(variants, v) for v in variants}) == 12


def test_the_unigram_entropy_is_marked_only_where_the_curves_reach_it(folder):
    assert "unigram entropy" in figures.curves(read_experiment(folder))
    for path in folder.glob("*/record.json"):
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(f'"unigram_entropy": {ENTROPY}', '"unigram_entropy": 30.0'), encoding="utf-8")
    assert "unigram entropy" not in figures.curves(read_experiment(folder))


def test_seeds_that_logged_at_different_steps_are_drawn_together(tmp_path):
    experiment = read_experiment(fabricate(tmp_path))
    path = experiment.runs[0].folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()][:71:7]
    path.write_text("\n".join(map(json.dumps, lines)))
    assert figures.curves(experiment)


def test_seeds_that_share_no_tokens_have_no_line(tmp_path):
    folder = fabricate(tmp_path, seeds=(0, 1))
    for variant in read_experiment(folder).plan.variants:
        path = folder / f"{variant}-s1" / "metrics.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("\n".join(json.dumps(line | {"tokens": line["tokens"] + 1e6}) for line in lines))
    experiment = read_experiment(folder)
    assert figures.curves(experiment) is None
    assert figures.usage(experiment), "its bars are there"
