"""Replacing a readable entry is an edit like any other: recorded, told, taken back bit for bit, handed on."""

import json
import shutil

import pytest
import torch
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.edit.log import write_pack
from memlm.edit.request import Replacement, Request, parse_replacement, read_requests
from memlm.edit.rows import EntryRows, VectorRows, fingerprint
from memlm.errors import EditError, MemlmError, RunError
from memlm.experiment.config import load_experiment
from memlm.experiment.editing import only_editor, open_editing
from memlm.experiment.run import run_experiment
from memlm.hf import MemlmForCausalLM
from tests.contract.test_wirings import BANKED, WIRINGS, build

EXPERIMENT = """\
data:
  corpus: facts
  facts: {wording: tuples, entities: 16, attributes: 2, values: 16, hops: 1, exposures: 20}
  vocab_size: 400
  seq_len: 32
model: {d_model: 16, n_layers: 2, n_heads: 2}
train: {epochs: 1, batch_size: 8}
evaluate: {tokens: 500, train_tokens: 500, samples: 0, questions: 4}
variants:
  memory:
    memory: {type: product_key, n_keys: 8, d_key: 8, d_value: 16, top_k: 8, bank: {type: tokens, entry_length: 8}}
    fusion: {type: weighted_sum}
    placement: replace
"""
TEXTS = ["Ada went to school in Rome", "the moon is far", "Ada's club is small"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("replace")
    (folder / "tiny.yaml").write_text(EXPERIMENT, encoding="utf-8")
    return run_experiment(load_experiment(folder / "tiny.yaml", []), folder, progress=False) / "memory-s0"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "memory-s0")


@pytest.fixture
def editing(run):
    return open_editing(run)


@torch.inference_mode()
def logits(editing):
    return editing.editor.model(torch.arange(5, 25)[None]).logits


@pytest.fixture
def slots(editing):
    """Entries that the text of `logits` reads."""
    with torch.inference_mode():
        read = editing.editor.model.decoder(torch.arange(5, 25)[None]).reads[1].slots.unique().tolist()
    return [slot for slot in read if slot < 48][:3]


def state(editing):
    return editing.editor.model.decoder.banks[0].tokens.clone()


def test_an_entry_is_replaced_and_nothing_else(editing, slots):
    editor, before = editing.editor, state(editing)
    weights = {name: tensor.clone() for name, tensor in editor.model.state_dict().items() if "tokens" not in name}
    made = editor.make(Replacement(slots[0], "moon"))
    changed = (state(editing) != before).any(1).nonzero().flatten().tolist()
    assert changed == [slots[0]] == list(made.edit.rows)
    assert editor.rows.entry(slots[0]) == editor.tokenizer.encode("moon").ids
    assert (made.edit.kind, made.edit.answer, made.edit.subject) == ("replace", "moon", f"slot {slots[0]}")
    assert made.edit.old == editor.tokenizer.decode(before[slots[0]][before[slots[0]] >= 0].tolist()).strip()
    now = editor.model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in weights.items())


def test_any_undo_restores_logits_bit_for_bit(editing, slots):
    editor, base = editing.editor, logits(editing)
    editor.make(Replacement(slots[0], "moon"))
    one, text = logits(editing), state(editing)
    editor.make(Replacement(slots[1], ""))
    assert not torch.equal(one, base) and not torch.equal(logits(editing), one)
    again = editor.make(Replacement(slots[0], "far"))
    assert again.conflicts == ["shares 1 of its 1 row with edit 1"]
    editor.undo(3)
    editor.undo(2)
    assert torch.equal(logits(editing), one) and torch.equal(state(editing), text)
    editor.make(Replacement(slots[0], "far"))
    assert "edit 2 has since changed 1 of its 1 row;" in editor.undo(1)[0]
    assert editor.rows.entry(slots[0]) == editor.tokenizer.encode("far").ids, "a later text does not hang on it"
    editor.undo_all()
    assert torch.equal(logits(editing), base)


def test_the_log_and_a_pack_lead_to_the_same_bits(run, editing, slots, tmp_path):
    other = open_editing(run)
    for slot, text in zip(slots, TEXTS, strict=True):
        editing.editor.make(Replacement(slot, text[:8]))
    editing.editor.undo(1)
    editing.save()
    write_pack(tmp_path / "two.pack", editing.editor.log)
    other.editor.load(other.editor.read_pack(tmp_path / "two.pack"))
    editing.export(tmp_path / "edited")
    exported = MemlmForCausalLM.from_pretrained(tmp_path / "edited").eval()
    for again in (other, open_editing(run)):
        assert again.editor.edits == editing.editor.edits and torch.equal(logits(again), logits(editing))
    with torch.inference_mode():
        assert torch.equal(exported(torch.arange(5, 25)[None]).logits, logits(editing))


def test_what_cannot_be_replaced_is_one_clear_line(editing):
    editor, before = editing.editor, state(editing)
    for slot, text, message in (
        (48, "moon", "slot 48 holds no entry; the slots 0 to 47 do"),
        (64, "moon", "slot 64: there is none; the last is 63"),
        (3, "a text of far more tokens than eight, surely", "tokens does not fit; give at most 8"),
    ):
        with pytest.raises((EditError, RunError), match=message):
            editor.make(Replacement(slot, text))
    assert torch.equal(state(editing), before) and editor.edits == []


def test_a_fact_is_refused_with_the_entries_that_name_it(editing):
    editor = editing.editor
    ids = [editor.tokenizer.encode(text).ids for text in ("Ada club", "moon")]
    editor.model.decoder.banks[0].replace([5, 6], ids)
    with pytest.raises(EditError, match=r"ada \| CLUB: .*--replace 'SLOT \| new text' \(1 name both: 5: 'Ada club'\)"):
        editor.make(Request("ada", "CLUB", "Rome"))
    with pytest.raises(EditError, match="no entry names both"):
        editor.make(Request("Eve", "club", kind="delete"))


def test_either_way_needs_its_own_kind_of_bank():
    texts, vectors = build(BANKED[1]).decoder, build(WIRINGS[0]).decoder
    with pytest.raises(EditError, match="no bank of vectors to edit"):
        VectorRows(texts)
    with pytest.raises(EditError, match="no bank of texts to edit"):
        EntryRows(vectors)


@pytest.mark.parametrize(
    "damage", [lambda t: t - 2, lambda t: t + 400, lambda t: t.float(), lambda t: t.roll(1, 1), lambda t: t[:, 1:]]
)
def test_entries_that_no_model_has_are_refused(run, editing, damage):
    editing.editor.make(Replacement(3, "moon"))
    (change,) = editing.editor.log.changes
    object.__setattr__(change, "after", damage(change.after))
    object.__setattr__(editing.editor.edits[0], "change", fingerprint(change))
    editing.save()
    with pytest.raises(EditError, match="the rows of edit 1 do not fit the model"):
        open_editing(run)


def test_how_a_replacement_is_written(tmp_path):
    assert parse_replacement(" 17 | a | b ") == Replacement(17, "a | b")
    assert parse_replacement("17 |") == Replacement(17, "")
    for wrong in ("17", "x | y", "-1 | y", "| y"):
        with pytest.raises(EditError, match=r"has another form than 'SLOT \| new text'"):
            parse_replacement(wrong)
    path = tmp_path / "edits.jsonl"
    path.write_text(json.dumps({"kind": "replace", "slot": 4, "text": "moon"}) + "\n")
    assert read_requests(path) == [Replacement(4, "moon")]
    path.write_text(json.dumps({"kind": "replace", "slot": -4, "text": "moon"}))
    with pytest.raises(EditError, match=":1: slot: "):
        read_requests(path)


def test_the_command_replaces_and_lets_nobody_else_edit_meanwhile(run):
    def edit(*arguments):
        result = CliRunner().invoke(app, ["edit", str(run), *map(str, arguments)], env={"COLUMNS": "200"})
        if isinstance(result.exception, MemlmError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    shown = edit("--replace", "3 | moon", "--replace", "4 |", "--ask", "Ada")
    assert "edit 1: slot 3 | entry: " in shown and "-> moon\n  1 row (1.56%)\n" in shown and "-> (deleted)" in shown
    with only_editor(run):
        with pytest.raises(RunError, match="is being edited by another process; give the command again when"):
            edit("--undo", 1)
        assert "slot 3" in edit(), "who only looks need not wait"
    assert "edit 1: undone; 1 edit left" in edit("--undo", 1)
