"""Edits of a trained run: the answer changes, others stay, and every undo is exact."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from memlm.data.asking import edits
from memlm.data.world import World
from memlm.edit import log
from memlm.edit.background import BATCH, READING, Background
from memlm.edit.finetune import calm_basis, pick_rows
from memlm.edit.lines import sealed_lines
from memlm.edit.log import Log, write_pack
from memlm.edit.request import Replacement, Request
from memlm.edit.rows import Change
from memlm.errors import EditError, MemlmError
from memlm.evaluate.recall import answer, encode
from memlm.experiment.editing import open_editing
from memlm.hf import MemlmForCausalLM
from tests.unit.edit.conftest import QUICK

N_ROWS = 48**2


@pytest.fixture
def facts(editing):
    return list(edits(World(editing.finished.config.data.facts), 4))


def request(fact):
    return Request(fact.question.subject, fact.question.relation, fact.new_answer.strip())


def logits(editing, fact):
    ids = editing.editor.tokenizer.encode(fact.question.prompt).ids
    with torch.inference_mode():
        return editing.editor.model(torch.tensor([ids])).logits


def test_an_edit_sets_the_answer_within_its_rows(editing, facts):
    editor = editing.editor
    before = {name: tensor.clone() for name, tensor in editor.model.state_dict().items()}
    made = editor.make(request(facts[0]))
    assert editor.ask(facts[0].question.prompt) == facts[0].new_answer.strip() != made.edit.old
    assert made.edit.learned == len(made.edit.prompts) == 2 and made.conflicts == []
    assert 0 < len(made.edit.rows) <= 0.01 * N_ROWS
    for name, tensor in editor.model.state_dict().items():
        changed = (tensor != before[name]).flatten(1).any(1) if tensor.ndim > 1 else tensor != before[name]
        assert set(changed.nonzero().flatten().tolist()) <= (set(made.edit.rows) if "values" in name else set()), name
    assert editor.ask_base(facts[0].question.prompt) == made.edit.old
    assert editor.ask(facts[0].question.prompt) == facts[0].new_answer.strip()


def test_a_deletion_makes_the_old_answer_unlikely(editing, facts):
    fact, editor = facts[1], editing.editor
    asked = encode([replace(fact.question, answer=f" {editor.ask(fact.question.prompt)}")], editor.tokenizer, 32)
    before = answer(editor.model.decoder, asked, 1).nll[0]
    made = editor.make(Request(fact.question.subject, fact.question.relation, kind="delete"))
    assert made.edit.answer == "" and made.edit.learned >= 1
    assert answer(editor.model.decoder, asked, 1).nll[0] > before + 0.5


def test_vectors_are_no_texts_to_replace(editing):
    with pytest.raises(EditError, match="the memory holds vectors and no texts; give --set"):
        editing.editor.make(Replacement(3, "Rome"))


def test_any_undo_restores_logits_bit_for_bit(editing, facts):
    editor = editing.editor
    base = logits(editing, facts[0])
    editor.make(request(facts[0]))
    one = logits(editing, facts[0])
    editor.make(request(facts[1]))
    editor.undo(2)
    assert torch.equal(logits(editing, facts[0]), one) and not torch.equal(one, base)
    editor.make(request(facts[1]))
    editor.undo(1)
    assert [edit.id for edit in editor.edits] == [2]
    editor.undo_all()
    assert torch.equal(logits(editing, facts[0]), base)
    with pytest.raises(EditError, match="edit 2: there is none; known: none"):
        editor.undo(2)


def test_an_edit_does_not_depend_on_where_a_session_ended(run, editing, facts):
    for fact in facts[:3]:
        editing.editor.make(request(fact))
    for fact in facts[:3]:
        again = open_editing(run, QUICK)
        again.editor.make(request(fact))
        again.save()
    assert [edit.result for edit in again.editor.edits] == [edit.result for edit in editing.editor.edits]


def test_the_base_is_lent_and_taken_back(editing, facts):
    editor = editing.editor
    base = logits(editing, facts[0])
    editor.make(request(facts[0]))
    edits, edited = list(editor.edits), logits(editing, facts[0])
    with pytest.raises(ZeroDivisionError), editor.without_edits():
        assert editor.edits == [] and torch.equal(logits(editing, facts[0]), base)
        editor.make(request(facts[1]))
        1 / 0  # noqa: B018
    assert editor.edits == edits and torch.equal(logits(editing, facts[0]), edited)


def test_the_same_fact_twice_is_a_conflict(editing, facts):
    editor = editing.editor
    first = editor.make(request(facts[0])).edit
    again = editor.make(Request(first.subject, first.relation, facts[1].new_answer.strip()))
    assert any("edit 1 is about the same fact" in conflict for conflict in again.conflicts)
    shared = len(set(first.rows) & set(again.edit.rows))
    assert f"shares {shared} of its" in again.conflicts[0]
    assert f"edit 2 has since changed {shared} of its" in editor.undo(1)[0]


def test_a_log_is_kept_and_read_back(run, editing, facts):
    for fact in facts[:2]:
        editing.editor.make(request(fact))
    editing.editor.undo(1)
    separated = f"{facts[2].question.prompt}\u2028\u0085"  # where str.splitlines would cut
    editing.editor.make(replace(request(facts[2]), prompts=(separated,)))
    editing.save()
    again = open_editing(run)
    assert again.editor.edits == editing.editor.edits and [edit.id for edit in again.editor.edits] == [2, 3]
    assert torch.equal(logits(again, facts[2]), logits(editing, facts[2]))


def test_a_pack_leads_to_the_same_bits_elsewhere(run, editing, facts, tmp_path):
    for fact in facts[:2]:
        editing.editor.make(request(fact))
    write_pack(tmp_path / "two.pack", editing.editor.log)
    other = open_editing(run)
    other.editor.load(other.editor.read_pack(tmp_path / "two.pack"))
    assert torch.equal(logits(other, facts[0]), logits(editing, facts[0]))
    assert sealed_lines(other.editor.edits) == sealed_lines(editing.editor.edits)
    with pytest.raises(EditError, match=r"the run has edits already \(2\)"):
        other.editor.load(editing.editor.log)
    with pytest.raises(EditError, match="is there already; give another name"):
        write_pack(tmp_path / "two.pack", editing.editor.log)


def test_the_exported_folder_is_the_edited_model(run, editing, facts, tmp_path):
    weights = (run / "checkpoint" / "model.safetensors").read_bytes()
    editing.editor.make(request(facts[0]))
    editing.export(tmp_path / "edited")
    model = MemlmForCausalLM.from_pretrained(tmp_path / "edited").eval()
    with torch.inference_mode():
        ids = torch.tensor([editing.editor.tokenizer.encode(facts[0].question.prompt).ids])
        assert torch.equal(model(ids).logits, logits(editing, facts[0]))
    assert (run / "checkpoint" / "model.safetensors").read_bytes() == weights
    with pytest.raises(EditError, match="is there already"):
        editing.export(tmp_path / "edited")


def test_a_save_writes_the_rows_of_new_edits_alone(run, editing, facts):
    rows = run / "edits" / "rows"
    for fact in facts[:2]:
        editing.editor.make(request(fact))
        editing.save()
        written = {path.name: path.stat().st_mtime_ns for path in rows.iterdir()}
    editing.editor.make(request(facts[2]))
    (rows / ".3-cut_off.safetensors").write_bytes(b"x")
    editing.save()
    now = {path.name: path.stat().st_mtime_ns for path in rows.iterdir()}
    assert len(now) == 3 and now.items() >= written.items(), "earlier ones are as they were, and nothing else is left"
    editing.editor.undo(3)
    editing.editor.make(request(facts[3]))
    editing.save()
    assert len({path.name for path in rows.iterdir()} & now.keys()) == 2, "number 3 came again, with other rows"
    assert open_editing(run).editor.edits == editing.editor.edits


@pytest.mark.parametrize("cut_off", ["save_file", "write_text"])
def test_a_save_that_is_cut_off_leaves_the_log_before_it(run, editing, facts, monkeypatch, cut_off):
    def full(*arguments, **named):
        raise OSError("No space left on device")

    def fails():
        with monkeypatch.context() as patched:
            patched.setattr(log, cut_off, full)
            with pytest.raises(EditError, match="cannot be written"):
                editing.save()

    editor = editing.editor
    editor.make(request(facts[0]))
    fails()
    assert open_editing(run).editor.edits == []
    editing.save()
    one = list(editor.edits)
    editor.undo(1)
    editor.make(request(facts[1]))
    fails()
    assert open_editing(run).editor.edits == one


def damage_line(folder, **fields):
    """Damages a line as an earlier version of memlm wrote it: without its seal."""
    path = folder / "edits.jsonl"
    line = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: line[name] for name in line if name not in ("seal", "learned")}) + "\n")


def damage_words(folder, name):
    path = folder / "edits.jsonl"
    line = json.loads(path.read_text())
    path.write_text(path.read_text().replace(line[name], "Bob"))


def rows_file(folder):
    (path,) = (folder / "rows").iterdir()
    return path


def damage_rows(folder):
    rows = load_file(rows_file(folder))
    rows["before"][0, 0] += 1  # what undo would have restored
    save_file(rows, rows_file(folder))


DAMAGE = {
    "belongs to other weights": lambda folder: damage_line(folder, base="0" * 64),
    "edits: edit 1 leads to other rows than it says; restore it": lambda folder: damage_line(folder, result="0" * 64),
    "edits.jsonl:1: edit 1 does not fit its seal": lambda folder: damage_words(folder, "subject"),
    ", or move ": lambda folder: damage_words(folder, "answer"),
    "edits.jsonl:1: kind: ": lambda folder: damage_line(folder, kind="add"),
    "the rows of edit 1 do not fit the model": lambda folder: damage_line(folder, rows=[5000]),
    "edits.jsonl:1: ": lambda folder: (folder / "edits.jsonl").write_text("{\n"),
    "edits.jsonl:1: change: ": lambda folder: damage_line(folder, change="../" * 21 + "x"),
    "cannot be read (Error while deserializing": lambda folder: rows_file(folder).write_bytes(b"x"),
    "restore it, or move": lambda folder: rows_file(folder).unlink(),
    "the rows of edit 1 are not those of its line": lambda folder: damage_rows(folder),
    "edits.jsonl: cannot be read": lambda folder: (folder / "edits.jsonl").unlink(),
}


@pytest.fixture(scope="module")
def edited(trained, tmp_path_factory):
    folder = shutil.copytree(trained / "memory-s0", tmp_path_factory.mktemp("edited") / "memory-s0")
    editing = open_editing(folder, QUICK)
    editing.editor.make(request(next(edits(World(editing.finished.config.data.facts), 1))))
    editing.save()
    return folder


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_log_is_one_clear_line(edited, tmp_path, message):
    run = shutil.copytree(edited, tmp_path / "run")
    DAMAGE[message](run / "edits")
    with pytest.raises(MemlmError) as error:
        open_editing(run)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_log_of_an_earlier_version_is_read_and_sealed_when_it_is_next_written(edited, tmp_path):
    run = shutil.copytree(edited, tmp_path / "run")
    (written,) = open_editing(run).editor.edits
    damage_line(run / "edits")
    editing = open_editing(run)
    assert editing.editor.edits == [replace(written, learned=None)]
    editing.save()
    assert '"seal": ' in (run / "edits" / "edits.jsonl").read_text() and len(open_editing(run).editor.edits) == 1


def test_a_pack_whose_words_were_changed_is_refused(edited, tmp_path):
    editing = open_editing(edited)
    write_pack(tmp_path / "one.pack", editing.editor.log)
    subject = editing.editor.edits[0].subject.encode()
    content = (tmp_path / "one.pack").read_bytes()
    (tmp_path / "one.pack").write_bytes(content.replace(subject, subject[::-1]))
    with pytest.raises(EditError, match=r"edit 1 does not fit its seal: .*; get a whole copy of it"):
        editing.editor.read_pack(tmp_path / "one.pack")


def test_a_pack_is_tried_before_it_is_applied_and_the_edits_stay(edited, tmp_path):
    editing = open_editing(edited)
    edits, log = list(editing.editor.edits), editing.editor.log
    write_pack(tmp_path / "other.pack", Log([replace(edits[0], result="0" * 64)], log.changes))
    with pytest.raises(EditError, match=r"other.pack: edit 1 leads to other rows than it says; get a whole copy of it"):
        editing.editor.read_pack(tmp_path / "other.pack")
    assert editing.editor.edits == edits


def test_a_pack_can_be_read_by_whoever_can_read_other_new_files(edited, tmp_path):
    write_pack(tmp_path / "one.pack", open_editing(edited).editor.log)
    (tmp_path / "other").touch()
    assert (tmp_path / "one.pack").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_answer_that_is_given_already_is_not_taught_again(editing, facts):
    editor = editing.editor
    editor.make(request(facts[0]))
    rows = editor.rows.read(torch.arange(N_ROWS))
    assert editor.make(request(facts[0])) is None
    assert len(editor.edits) == 1 and torch.equal(editor.rows.read(torch.arange(N_ROWS)), rows)


@pytest.fixture
def told(editing, facts):
    """A question and what the base says to it, of several tokens, with the beginning of that."""
    for fact in facts:
        said = editing.editor.ask(fact.question.prompt)
        ids = editing.editor.tokenizer.encode(f" {said}").ids
        beginning = editing.editor.tokenizer.decode(ids[:-1]).strip()
        if beginning and editing.editor.tokenizer.encode(f" {beginning}").ids == ids[:-1]:
            return fact.question, said, beginning
    raise AssertionError("every answer is one token")


def test_the_beginning_of_what_is_said_is_not_given(editing, told, monkeypatch):
    question, said, beginning = told
    editor = editing.editor
    assert editor.is_given(question.prompt, said) and editor.is_given(question.prompt, f"{said}.")
    assert not editor.is_given(question.prompt, beginning)
    rows = torch.tensor([0])
    now = editor.rows.read(rows)
    monkeypatch.setattr("memlm.edit.editor.learn_rows", lambda *_: Change(rows, now, now))
    made = editor.make(Request(question.subject, question.relation, beginning, prompts=(question.prompt,)))
    assert made is not None and made.edit.learned == 0 and editor.ask(question.prompt) == said
    assert editor.make(Request(question.subject, question.relation, said, prompts=(question.prompt,))) is None


def test_an_answer_may_hold_ends_and_many_tokens(editing, told, monkeypatch):
    editor, prompt = editing.editor, told[0].prompt
    saying = []

    def says(text):
        saying[:] = editor.tokenizer.encode(f" {text}").ids

    def logits(hidden):
        return torch.eye(editor.tokenizer.get_vocab_size())[saying.pop(0)]

    monkeypatch.setattr(editor.model.decoder, "logits", logits)
    for text, wanted, is_given in (
        ("St. Louis. He is", "St. Louis", True),
        ("St. Louis. He is", "St. Louis.", True),
        ("St. Paul. He is", "St. Louis", False),
        ("St. Louis. He is", "St", True),
        ("abcdefghijklmnopqrs. And", "abcdefghijklmnopqrs", True),
        ("abcdefghijklmnopqrst. And", "abcdefghijklmnopqrs", False),
    ):
        says(text)
        assert editor.is_given(prompt, wanted) == is_given, (text, wanted)


def test_a_log_outside_its_run_is_refused(edited, tmp_path):
    run = shutil.copytree(edited, tmp_path / "run")
    (run / "edits" / "edits.jsonl").unlink()
    (run / "edits" / "edits.jsonl").symlink_to(edited / "edits" / "edits.jsonl")
    with pytest.raises(MemlmError, match="leads out of its folder"):
        open_editing(run)


def test_rows_are_those_of_the_text_and_not_of_the_background(editing):
    decoder = editing.editor.model.decoder
    background = Background(decoder, [[5, 6, 7], [5, 6, 8]])
    counts = torch.zeros(N_ROWS, dtype=torch.int64)
    often = background.frequency.argmax()
    unread = (background.frequency == 0).nonzero()[:2, 0]
    counts[often], counts[unread[0]], counts[unread[1]] = 3, 2, 1
    assert background.frequency[often] == 2
    assert pick_rows(counts, background, 1).tolist() == [unread[0]]
    assert pick_rows(counts, background, 9).tolist() == unread.tolist(), "a row that all text reads is never picked"


def test_the_text_is_read_once_for_all_edits_and_its_course_is_told(editing, facts):
    told = []
    for fact in facts[:2]:
        editing.editor.make(request(fact), lambda *what: told.append(what))
    n = len(editing.background)
    assert n > BATCH and told == [(READING, min(done, n), n) for done in range(BATCH, n + BATCH, BATCH)]


def test_the_nearest_text_reads_the_same_rows(editing):
    decoder, sequences = editing.editor.model.decoder, [[5, 6, 7, 8], [90, 91, 92], [200, 201], [90, 6]]
    background = Background(decoder, sequences)
    with torch.inference_mode():
        reads = [set(decoder(torch.tensor([ids])).reads[1].slots.flatten().tolist()) for ids in sequences]
    assert background.frequency.tolist() == [sum(row in read for read in reads) for row in range(N_ROWS)]
    for wanted in reads:
        order = [reads[sequences.index(each)] for each in background.nearest(torch.tensor(sorted(wanted)), 4)]
        shared = [len(wanted & read) for read in order]
        assert shared == sorted(shared, reverse=True) and len(order) == 4


def test_overlap_is_what_a_change_does_to_what_is_read(editing):
    decoder, sequences = editing.editor.model.decoder, [[5, 6, 7, 8], [90, 91, 92]]
    background = Background(decoder, sequences[:1])
    background.add(sequences[1:])
    rows = torch.arange(0, N_ROWS, 3)
    change = torch.zeros(N_ROWS, 2)
    change[rows] = torch.randn(len(rows), 2, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        reads = [decoder(torch.tensor([ids])).reads[1] for ids in sequences]
    moved = [(r.weights[..., None] * change[r.slots]).flatten(2, 3).sum(2).pow(2).sum() for r in reads]
    overlap = background.overlap(rows)
    assert torch.trace(change[rows].T @ overlap @ change[rows]) == pytest.approx(float(sum(moved)), rel=1e-4)


def test_the_calm_basis_shrinks_what_is_read():
    overlap = torch.tensor([[3.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(calm_basis(overlap, 1.0), torch.tensor([[0.5, 0.0], [0.0, 1.0]]))
    assert torch.allclose(calm_basis(overlap, 0.0), torch.eye(2))
