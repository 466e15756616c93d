"""Knowing what is known: scores, their AUROC and risk against plain counting, and what breaks an index."""

import itertools
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.config.facts import FactsConfig
from memlm.data.asking import ask
from memlm.data.world import World
from memlm.edit.abstention import (
    TOKENS,
    UNKNOWN,
    KnownReads,
    PairIndex,
    auroc,
    by_head,
    last_alone,
    last_first,
    measure,
    misspelt,
    risk,
)
from memlm.edit.results import read_parts
from memlm.errors import EditError
from memlm.experiment.editing import open_editing
from memlm.hf import MemlmConfig, MemlmForCausalLM


def test_auroc_is_the_share_of_pairs_in_order():
    draw = np.random.default_rng(0)
    scores, known = draw.integers(0, 4, 30), draw.random(30) < 0.4
    pairs = itertools.product(scores[known], scores[~known])
    expected = np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs])
    assert auroc(scores, known) == pytest.approx(expected)


def test_risk_is_of_the_surest():
    scores, right = np.array([0.1, 0.9, 0.5, 0.7]), np.array([False, True, True, False])
    assert [risk(scores, right, share) for share in (0.25, 0.5, 1.0)] == [0, 0.5, 0.5]


def test_an_index_knows_told_pairs_letter_by_letter():
    world = World(FactsConfig(entities=40, values=16, untold_share=0.3, hops=1))
    index = PairIndex(world)
    asked = list(ask(world, 50))
    for question in asked:
        if question.kind == "paraphrase":
            assert index.names(question.prompt)
            for spell in (misspelt, last_first, last_alone):
                assert not index.names(spell(question).prompt) and spell(question).answer == question.answer
            assert sorted(last_first(question).prompt) == sorted(question.prompt)
            assert len(last_alone(question).prompt) < len(question.prompt)
            assert index.names(index.corrected(misspelt(question).prompt))
            assert not index.names(index.corrected(last_alone(question).prompt))
    unknown = [question for question in asked if question.kind == "unknown_entity"]
    assert not any(index.names(index.corrected(misspelt(question).prompt)) for question in unknown)
    assert unknown and not any(index.names(question.prompt) for question in unknown)


def test_the_nearest_read_is_that_of_the_highest_cosine(trained, monkeypatch):
    monkeypatch.setattr("memlm.edit.abstention.COMPARED", 3)
    editing = open_editing(trained / "memory-s0")
    decoder, text = editing.editor.model.decoder, editing.background[:3]
    prompts = [text[0][:5], text[1][3:9], [7, 7, 7, 7], [5]]
    router, sure = KnownReads(decoder, text).judge(prompts)

    def reads(ids):
        output = decoder(torch.tensor([ids]))
        row = np.zeros((len(ids), sum(r.slots.shape[2] * r.bank.n_slots for r in output.reads.values())))
        slots, weights = by_head(list(output.reads.values()))
        for place in range(len(ids)):
            row[place, slots[0, place].numpy()] = weights[0, place].detach().numpy()
        return row, output.hidden[0, -1]

    known = np.concatenate([reads(ids)[0] for ids in text])
    for prompt, near, chance in zip(prompts, router, sure, strict=True):
        row, hidden = reads(prompt)
        assert near == pytest.approx((known @ row[-1]).max(), abs=1e-5)
        assert chance == pytest.approx(decoder.logits(hidden).softmax(-1).max().item(), abs=1e-5)
    assert router[0] == pytest.approx(1) and router.min() < 0.999, "what stands in the text is known, other text less"


def test_a_model_is_measured(trained):
    editing = open_editing(trained / "memory-s0")
    editor, text, told = editing.editor, editing.training_text(TOKENS), []
    found = measure(
        editor.model.decoder,
        editor.tokenizer,
        editor.seq_len,
        editing.world(),
        text,
        lambda *what: told.append(what),
    )
    n_asked = sum(question.kind in ("paraphrase", *UNKNOWN) for question in ask(editing.world(), 500))
    ends = {stage: (done, total) for stage, done, total in told}
    assert ends == {
        "reading the training text": (len(text), len(text)),
        "comparing questions": (4 * n_asked, 4 * n_asked),
    }
    compared = [done for stage, done, _ in told if stage == "comparing questions"]
    assert compared == sorted(set(compared)) and len(compared) >= 4
    told_apart = {row.pop("what"): row for row in found["auroc"]}
    assert {f"{kind.replace('_', ' ')}, as told" for kind in UNKNOWN} <= set(told_apart)
    assert told_apart["unknown entity, as told"]["index"] == told_apart["unknown entity, as told"]["both"] == 1
    assert told_apart["unknown entity, misspelt"]["index"] == 0.5
    risks = {row.pop("coverage"): row for row in found["risk"]}
    assert list(risks) == sorted(risks) and len(set(risks[1.0].values())) == 1
    assert all(0 <= value <= 1 for row in (*risks.values(), *told_apart.values()) for value in row.values())


def test_a_memory_without_a_router_has_no_score_of_one(trained):
    editing = open_editing(trained / "memory-s0")
    memory = {"type": "ngram_hash", "orders": [2], "n_heads": 2, "n_rows": 64, "d_value": 16}
    shape = {"d_model": 32, "n_layers": 1, "n_heads": 2, "memory": memory, "fusion": {"type": "weighted_sum"}}
    decoder = MemlmForCausalLM(MemlmConfig(model=shape, vocab_size=400)).eval().decoder
    found = measure(decoder, editing.editor.tokenizer, 32, editing.world(), editing.background[:8])
    for row in (*found["auroc"], *found["risk"]):
        assert list(row)[1:] == ["n-grams", "answer", "index", "near", "both"]


def test_a_world_without_anything_unknown_is_refused():
    world = World(FactsConfig(entities=20, values=8, untold_share=0, unknown_share=0, hops=1))
    with pytest.raises(EditError, match="tells all its facts, and has no unknown entities; there is nothing to tell"):
        measure(None, None, 64, world, [])  # pyright: ignore[reportArgumentType]


def test_the_command_measures_the_base_whatever_edits_there_are(trained, tmp_path):
    run = shutil.copytree(trained / "memory-s0", tmp_path / "memory-s0")
    editing = open_editing(run)
    editor, world, base = editing.editor, editing.world(), editing.editor.base
    expected = measure(editor.model.decoder, editor.tokenizer, editor.seq_len, world, editing.training_text(TOKENS))
    fact = next(question for question in ask(world, 1) if question.kind == "paraphrase")
    edit = ["--set", f"{fact.subject} | {fact.relation} | Rome"]
    shown = CliRunner().invoke(app, ["edit", str(run), *edit, "--abstention"], env={"COLUMNS": "200"})
    assert shown.exit_code == int("not learned" in shown.stdout), shown.output
    assert read_parts(run / "edit-abstention", base) == expected
    assert open_editing(run).editor.edits, "the edit is still there"
