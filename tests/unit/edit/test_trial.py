"""Ways to edit, side by side: what each trains, what each is asked, and what is measured."""

import shutil
import sys
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.edit.demo import NEIGHBOURS, Demonstration, Shown, demonstrate, page
from memlm.edit.finetune import Tuning
from memlm.edit.methods import METHODS, Full, InContext, Lora, Retrieval, Sparse
from memlm.edit.results import read_parts, write_part
from memlm.edit.trial import held_out_statements, run_trial
from memlm.errors import EditError, MissingDependencyError
from memlm.experiment.editing import open_editing
from tests.unit.edit.conftest import QUICK

SHORT = replace(QUICK, steps=12)


@pytest.fixture(scope="module")
def opened(trained):
    return open_editing(trained / "memory-s0", QUICK)


@pytest.fixture(scope="module")
def subject(opened):
    subject = opened.subject(3)
    return replace(subject, background=subject.background[:64])


def changed(method, subject):
    old = dict(subject.decoder.named_parameters())
    return {
        name
        for name, parameter in method.decoder.named_parameters()
        if "lora_" in name or not torch.equal(parameter, old[name.replace(".base_layer", "")])
    }


def taught(kind, subject, n=1):
    method = kind(subject.decoder, subject.background, SHORT)
    for fact in subject.facts[:n]:
        method.learn(subject.lesson(fact))
    return method


def test_each_way_trains_what_it_says(subject):
    before = {name: parameter.clone() for name, parameter in subject.decoder.named_parameters()}
    assert changed(taught(Sparse, subject), subject) == {"banks.0.values"}
    assert len(changed(taught(Full, subject), subject)) > 10
    adapted = changed(taught(Lora, subject), subject)
    assert adapted and all("lora_" in name for name in adapted)
    assert {"attention", "feed_forward"} == {name.split(".")[2] for name in adapted}
    for kind in (Retrieval, InContext):
        assert taught(kind, subject).decoder is subject.decoder
    for name, parameter in subject.decoder.named_parameters():
        assert torch.equal(parameter, before[name]) and parameter.requires_grad


def test_retrieval_finds_the_fact_and_context_holds_the_last(subject):
    found, all_of_them = taught(Retrieval, subject, 3), taught(InContext, subject, 3)
    for fact in subject.facts:
        (own,) = [s for s in found.statements if fact.question.subject in s]
        assert own == f"{fact.question.prompt}{fact.new_answer};"
        assert found.asked(fact.paraphrase).prompt == f"{own} {fact.paraphrase.prompt}"
        assert all_of_them.asked(fact.paraphrase).prompt.endswith(f"{found.statements[-1]} {fact.paraphrase.prompt}")
        assert all_of_them.asked(fact.paraphrase).answer == fact.paraphrase.answer


def test_held_out_statements_are_of_other_facts(subject):
    said = list(held_out_statements(subject.world, subject.facts))
    assert len(said) == subject.world.n_told - len(subject.facts)
    for fact in subject.facts:
        assert not any(fact.question.subject in text and fact.question.relation in text for text in said)


def test_a_trial_measures_every_way(subject, tmp_path):
    told, kept = [], {}
    results = run_trial(subject, SHORT, lambda *progress: told.append(progress), METHODS, kept.__setitem__)
    assert list(results) == [kind.name for kind in METHODS] and told[-1] == ("in context", 3, 3)
    for name, measures in results.items():
        assert [row["edits"] for row in measures] == [1, 3]
        for row in measures:
            assert all(0 <= row[field] <= 1 for field in ("efficacy", "paraphrase"))
            assert (row["loss"] is None) == (name in ("retrieval", "in context"))
    trained = [results[name][0] for name in ("sparse memory", "full finetuning", "LoRA")]
    bases = [row["loss"] / (1 + row["loss_change"]) for row in trained]
    assert bases == pytest.approx([bases[0]] * 3), "all begin with the same model and text"
    assert kept == results


def test_what_is_measured_is_kept_as_it_comes(subject, tmp_path):
    counted = []

    def stop(name, rows):
        write_part(tmp_path / "trial", name, "base", rows)
        counted.append(len(rows))
        if counted == [1, 2, 1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(subject, replace(QUICK, steps=0), lambda *_: None, [Sparse, Retrieval], stop)
    found = read_parts(tmp_path / "trial", "base")
    assert {name: [row["edits"] for row in rows] for name, rows in found.items()} == {
        "sparse memory": [1, 3],
        "retrieval": [1],
    }
    assert read_parts(tmp_path / "trial", "other") == read_parts(tmp_path / "nowhere", "base") == {}
    (tmp_path / "trial" / "retrieval.json").write_text("{}")
    with pytest.raises(EditError, match=r"retrieval.json: cannot be read .*; remove it, and measure again"):
        read_parts(tmp_path / "trial", "base")


def test_the_command_tries_the_ways_that_are_named(trained, tmp_path, monkeypatch):
    run = shutil.copytree(trained / "memory-s0", tmp_path / "memory-s0")
    monkeypatch.setitem(sys.modules, "peft", None)

    def edit(*arguments):
        return CliRunner().invoke(app, ["edit", str(run), *arguments], env={"COLUMNS": "200"})

    shown = edit("--trial", "1", "--way", "in context", "--stream", "1")
    assert "--way 'in context': there is none; known: 'sparse memory', " in str(shown.exception)
    assert isinstance(edit("--trial", "1").exception, MissingDependencyError)
    shown = edit("--trial", "1", "--way", "in context", "--way", "retrieval")
    assert shown.exit_code == 0 and "edit-trial/figure.svg" in shown.stdout.replace("\n", "")
    assert {path.name for path in (run / "edit-trial").iterdir()} == {"in_context.json", "retrieval.json", "figure.svg"}


def test_one_edit_is_seen_in_what_is_measured(subject):
    one = replace(subject, facts=subject.facts[:1])
    results = run_trial(one, QUICK, lambda *_: None, [Sparse])
    assert results["sparse memory"][0]["efficacy"] == 1 and results["sparse memory"][0]["loss_change"] != 0


def test_untrained_ways_change_nothing(subject):
    """No step: what is measured is the model before any edit."""
    results = run_trial(subject, Tuning(steps=0, near=8), lambda *_: None, [Sparse, Full])
    for measures in results.values():
        assert measures[-1]["loss_change"] == 0 and measures[-1]["neighbourhood"] in (1, None)


def test_the_course_of_each_way_is_told(subject):
    told = []
    run_trial(subject, Tuning(steps=0, near=8), lambda *what: told.append(what), [Sparse, InContext])
    assert told == [
        ("sparse memory: reading text to spare", 64, 64),
        *(("sparse memory", number, 3) for number in (1, 2, 3)),
        *(("in context", number, 3) for number in (1, 2, 3)),
    ]


def test_a_demonstration_tells_what_it_does_with_earlier_ones(trained, tmp_path):
    run = shutil.copytree(trained / "memory-s0", tmp_path / "memory-s0")
    demo = ["edit", str(run), "--demo", "1"]
    first = CliRunner().invoke(app, demo, env={"COLUMNS": "400"})
    assert first.stdout.endswith("/edits.html\n") and "in force" not in first.stdout
    subject, relation = first.stdout.split(" │ ")[0].split()[-1], "birthplace"
    again = CliRunner().invoke(app, [*demo, "--set", f"{subject} | {relation} | Rome"], env={"COLUMNS": "400"})
    assert "1 edit in force: left aside for now, and in force again afterwards\n" in again.stdout
    assert again.stdout.endswith("/edits.html, in the place of an earlier demo's\n")
    assert len(open_editing(run).editor.edits) == 1


def test_too_many_edits_are_refused(opened):
    with pytest.raises(EditError, match="needs more facts than the"):
        opened.subject(1000)


@pytest.mark.parametrize(("kind", "package"), [(Lora, "peft"), (Retrieval, "rank_bm25")])
def test_a_missing_package_is_told(subject, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'memlm\[edit\]'"):
        kind(subject.decoder, subject.background, SHORT)


def test_a_demonstration_undoes_what_it_shows(opened, subject):
    shown = demonstrate(opened.editor, subject.world, 2, "edit/<memory>", lambda *_: None)
    assert shown.is_restored and len(shown.edits) == 2 and opened.editor.edits == []
    for edit, fact in zip(shown.edits, subject.facts, strict=False):
        assert edit.undone == edit.before and edit.wanted == fact.new_answer.strip()
        assert 0 <= edit.kept <= edit.neighbours <= 5
    text = page(shown)
    assert f"<strong>{shown.summary}.</strong>" in text and NEIGHBOURS in text
    assert "bit for bit" in text and "edit/&lt;memory&gt;" in text and shown.edits[1].question in text
    assert "differ from those of before" in page(replace(shown, is_restored=False))


def test_a_demonstration_is_summed_up():
    good = Shown("q", "p", "new", "old", "new", "new", "old", 3, [], 5, 5)
    bad = replace(good, after="old", paraphrased="old", kept=3, neighbours=4)
    assert good.is_as_wanted and not bad.is_as_wanted and not replace(good, undone="new").is_as_wanted
    shown = Demonstration("run", [good, bad], 100, is_restored=True)
    assert shown.summary == "1 of 2 edits took, 1 of 2 in held-out words, 8 of 9 neighbours kept, undone bit for bit"
    assert replace(shown, is_restored=False).summary.endswith("NOT undone bit for bit")


def test_text_without_a_world_offers_no_facts(opened):
    run = replace(opened.finished.run, config={"data": {"corpus": "python-docs"}})
    other = replace(opened, finished=replace(opened.finished, run=run), known_world=None)
    with pytest.raises(EditError, match=r"needs a run on a generated world \(data.corpus: facts\)"):
        other.subject(1)
