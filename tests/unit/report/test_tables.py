import json
from pathlib import Path

import pytest
import yaml
from fabricate import SEEDS, edit_record, fabricate, write_json

from memlm.experiment.compare import compare
from memlm.experiment.config import load_experiment
from memlm.experiment.reading import read_experiment
from memlm.report import claims, figures, tables
from memlm.report.page import write_report

DEVICE = "NVIDIA GeForce RTX 4090 (cuda)"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9_999, "9,999"), (65_536, "65.54 k"), (1_183_744, "1.184 M"), (2.5e9, "2.5 G"), (3e13, "30 T")],
)
def test_compact(value, text):
    assert tables.compact(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(12.34, "12.3 s"), (150, "2.5 min"), (55_440, "15.4 h")])
def test_duration(seconds, text):
    assert tables.duration(seconds) == text


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("usage.2.kl_uniform", "KL from uniform, layer 2"),
        ("usage.11.share_read", "Share of slots read, layer 11"),
        ("usage.0.dead_slots", "Dead slots, layer 0"),
        ("recall.two_hop.exact_match", "Share of right answers, two hop"),
        ("quality.metrics.model.distinct_2", "Distinct 2"),
        ("quality.score", "Quality score"),
        ("learned_bits.total", "Learned bits total"),
        ("validation_loss", "Held-out loss"),
    ],
)
def test_a_key_of_a_record_is_told_in_words(key, text):
    assert (tables.name(key), tables.name(key, False)[1:]) == (text, text[1:])


def test_differences_show_their_sign():
    assert [tables.signed(value) for value in (0.1, -0.1)] == ["+0.100", "−0.100"]


def of_lineage(folder, **changes):
    """Has the runs' models be those of the lineage's recipe."""
    for path in folder.glob("*/config.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["model"] |= tables.LINEAGE_MODEL | changes
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return compare(read_experiment(folder))


def test_the_lineage_stands_beside_its_own_recipe_alone(folder):
    assert not tables.lineage(compare(read_experiment(folder))).rows, "another model that is called dense"
    assert not tables.lineage(of_lineage(folder, n_layers=2)).rows
    assert "lineage's record" not in "".join(path.read_text(encoding="utf-8") for path in write_report(folder))
    assert tables.lineage(of_lineage(folder)).rows


def test_the_recipe_of_the_lineage_is_known_by_its_models():
    config = load_experiment(Path(__file__).parents[3] / "configs" / "lineage" / "connection.yaml")
    for variant in tables.LINEAGE:
        assert tables.LINEAGE_MODEL.items() <= config.run_config(variant, 0)["model"].items()


def test_every_row_is_as_wide_as_its_header(folder):
    of_lineage(folder)
    comparison = compare(read_experiment(folder))
    for make in (tables.results, tables.ledger, tables.controls, tables.usage, tables.generation, tables.lineage):
        table = make(comparison)
        assert table.rows
        assert {len(row) for row in [*table.rows, table.foot or table.rows[0]]} == {len(table.columns)}


def test_usage_says_over_how_many_reads(folder):
    comparison = compare(read_experiment(folder))
    assert [row[-1].text for row in tables.usage(comparison).rows] == ["1.2"] * 12  # 5,000 reads of 4,096 slots
    del comparison.results["gated_mlp"]["usage.0.reads"]
    assert tables.usage(comparison).rows[4][-1].text == tables.NOTHING


def test_a_memory_without_slots_has_no_reads_a_slot(folder):
    usage = {"0": {"reads": 5000, "n_slots": 0}, "1": {"reads": 5000, "n_slots": 4096}}
    for seed in SEEDS:
        edit_record(folder / f"gated_mlp-s{seed}", results={"usage": usage})
    rows = tables.usage(compare(read_experiment(folder))).rows
    assert [row[-1].text for row in rows if row[0].text == "gated_mlp"] == [tables.NOTHING, "1.2"]


def test_claims_are_told_with_both_intervals(tmp_path):
    names = ["gated_mlp < cross_attention", "|dense - cross_attention| > |gated_mlp - dense|"]
    folder = fabricate(tmp_path, [{"name": claim, "claim": claim, "margin": 0.05} for claim in names])
    comparison = compare(read_experiment(folder))
    table = claims.table(comparison)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    for row, judgement in zip(table.rows, comparison.judgements, strict=True):
        found, other = judgement.difference, judgement.documents
        asked, told_so = {
            -1: ("asked < −0.05", "A negative difference supports the claim, which asks for less than −0.05;"),
            1: ("asked > 0.05", "A positive difference supports the claim, which asks for more than 0.05;"),
        }[judgement.claim.sign]
        assert row[3] == tables.Cell(tables.signed(found.mean), asked)
        assert row[4].text == f"{tables.signed(found.low)} to {tables.signed(found.high)}"
        assert row[5].text == f"{tables.signed(other.low)} to {tables.signed(other.high)}"
        assert row[4].note == row[5].note == f"({100 * (1 - judgement.verdict.level):.4g} %)"
        told = claims.sentence(judgement)
        assert row[4].text in told and row[5].text in told and "30 documents" in told and told_so in told
    assert claims.missing_documents(comparison) == ""
    figure = figures.claims(comparison.judgements)
    assert all(name.replace("<", "&lt;").replace(">", "&gt;") in figure for name in names)


def test_the_pairs_behind_a_claim_are_told(tmp_path):
    """cross_attention lies 0.290, 0.282 and 0.284 above gated_mlp with the seeds 0, 1, 2."""
    below, above = "gated_mlp < cross_attention", "cross_attention > gated_mlp"
    asked = [(below, 0.0, 3), (below, 0.283, 2), (above, 0.285, 1), (below, 0.4, 0)]
    folder = fabricate(tmp_path, [{"name": f"{n}", "claim": c, "margin": m} for n, (c, m, _) in enumerate(asked)])
    comparison = compare(read_experiment(folder))
    for place, (claim, _, n) in enumerate(asked):
        extent, side = {below: ("−0.290 to −0.282", "below"), above: ("+0.282 to +0.290", "above")}[claim]
        assert claims.table(comparison).rows[place][6] == tables.Cell(f"{n} of 3", extent)
        told = claims.sentence(comparison.judgements[place])
        assert f"{n} of 3 pairs lie {side} that, and they reach from {extent}." in told
    p = [judgement.verdict.p for judgement in comparison.judgements]
    assert len(set(p)) == 4
    assert [row[7].note for row in claims.table(comparison).rows] == [
        f"({'< 0.0001' if value < 1e-4 else f'{value:.2g}'})" for value in p
    ]
    assert f"after Holm's adjustment, {p[3]:.2g} by itself" in claims.sentence(comparison.judgements[3])


def test_each_claim_says_what_its_variants_share(tmp_path):
    """A control that was matched is equal in what it was matched by, whatever other variants cost."""
    asked = ["gated_mlp < dense", "cross_attention < gated_mlp", "dense < nobody"]
    folder = fabricate(tmp_path, [{"name": claim, "claim": claim} for claim in asked])
    for seed in SEEDS:
        edit_record(folder / f"cross_attention-s{seed}", cost={"flops_per_token": 5_000_000})
    comparison = compare(read_experiment(folder))
    dense, memory = claims.shared(comparison).rows
    assert [cell.text for cell in dense] == [
        "gated_mlp < dense",
        "active parameters, FLOPs per token (0.04 %), bytes read per token (0.022 %), tokens",
        "parameters (22 %), memory parameters (none in some), wall clock (48 %)",
    ]
    assert memory[1].text == "parameters, active parameters, memory parameters, bytes read per token, tokens"
    assert memory[2].text == "FLOPs per token (99 %), wall clock (49 %)"
    told = claims.shared_sentence(comparison, comparison.judgements[0])
    assert told == f"Equal to 1 %: {dense[1].text}. Not equal: {dense[2].text}."
    assert "Not in all: parameters, memory parameters, FLOPs per token" in tables.held_sentence(comparison)


@pytest.mark.parametrize("which", ["missing", "broken", "of other documents"])
def test_documents_that_are_missing_broken_or_others_are_told_once(folder, which):
    path = folder / "gated_mlp-s0" / "documents.json"
    text = path.read_text(encoding="utf-8")
    path.write_text(text[:100] if which == "broken" else text.replace("000000000000", "ffffffffffff"), encoding="utf-8")
    if which == "missing":
        path.unlink()
    comparison = compare(read_experiment(folder))
    assert claims.missing_documents(comparison) == (
        "Not all runs have losses by document that are sound and of the same documents, so no interval speaks for "
        "other text."
    )
    assert claims.missing_documents(comparison) in claims.explanation(comparison)


def test_noise_is_one_sentence(folder):
    (noise,) = compare(read_experiment(folder)).noise
    told = claims.noise_sentence(noise)
    assert told.startswith("Seed noise in held-out loss (standard deviations): dense 0.01")
    assert f"With that, 3 paired seeds find a difference of {noise.detectable[3]:.3f} in four of five cases at " in told


def test_noise_speaks_of_the_seeds_that_pairs_have(folder):
    edit_record(folder / "dense-s0", status="interrupted")
    (noise,) = compare(read_experiment(folder)).noise
    many, few = (f"{noise.detectable[n]:.3f}" for n in (3, 2))
    assert (
        f"3 paired seeds find a difference of {many} and 2 paired seeds find a difference of {few} in four of five "
        "cases at level 0.05."
    ) in claims.noise_sentence(noise)


def test_a_variant_alone_has_nothing_to_be_compared_with(folder):
    plan = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
    write_json(folder / "experiment.json", plan | {"variants": ["dense"], "hypotheses": []})
    comparison = compare(read_experiment(folder))
    table = tables.ledger(comparison)
    assert table.rows and not table.foot
    alone = "dense is the only variant: there is nothing to compare it with."
    assert tables.held_sentence(comparison) == f"{alone} All finished runs ran on {DEVICE}."
    for path in write_report(folder):
        text = path.read_text(encoding="utf-8")
        assert "there is nothing to compare it with" in text
        assert "annot be told" not in text and "held equal" not in text


def test_a_device_is_named_once_and_has_no_column(folder):
    comparison = compare(read_experiment(folder))
    assert f"All finished runs ran on {DEVICE}." in tables.held_sentence(comparison)
    assert not any(DEVICE in text for row in tables.ledger(comparison).texts for text in row)
    edit_record(folder / "dense-s1", device={"name": "NVIDIA H100 80GB HBM3"})
    comparison = compare(read_experiment(folder))
    said = tables.held_sentence(comparison)
    others = [variant for variant in comparison.results if variant != "dense"]
    assert f"{', '.join(others)} ran on {DEVICE}." in said and "All finished runs" not in said
    assert f"dense ran on {DEVICE} and NVIDIA H100 80GB HBM3 (cuda)." in said


def test_a_claimed_metric_gets_a_column(tmp_path):
    claim = {"name": "facts", "claim": "gated_mlp < dense", "metric": "recall_loss", "margin": 0.0}
    folder = fabricate(tmp_path, [claim])
    edit_record(folder / "dense-s0", results={"recall_loss": 1.234})
    table = tables.results(compare(read_experiment(folder)))
    assert table.columns[-1] == "Recall loss"
    assert table.rows[0][-1] == tables.Cell("1.234")


def test_the_quality_score_stands_beside_the_lineage_only(folder):
    comparison = of_lineage(folder)
    assert not [column for column in tables.results(comparison).columns if "uality" in column]
    rows = tables.lineage(comparison).rows
    assert [row[0].text for row in rows] == ["dense", "cross_attention", "gated_mlp"]
    assert [cell.text for cell in rows[1][2::2]] == ["2.84", "7.68", "2.0"]


def test_the_unigram_entropy_has_two_sides(folder):
    edit_record(folder / "dense-s0", results={"validation_loss": 9.0})
    entropy, first, second, *_ = tables.unigram_sentences(compare(read_experiment(folder)))
    assert entropy == "the unigram entropy of the held-out text is 5.250 nats"
    assert first.endswith("above it: worse than guessing by token frequency")
    assert second.endswith("below it")
