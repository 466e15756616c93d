"""An experiment from its YAML to its records."""

import dataclasses
import json
import math
import shutil
import subprocess

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from memlm.data.prepare import prepare
from memlm.data.sampler import Sampler
from memlm.errors import DataError, RunError
from memlm.evaluate.suite import Suite
from memlm.experiment import attempt as attempt_module
from memlm.experiment import record
from memlm.experiment.compare import compare
from memlm.experiment.config import load_experiment
from memlm.experiment.locks import locked
from memlm.experiment.reading import read_experiment
from memlm.experiment.run import Watcher, run_experiment
from memlm.report.page import write_report


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """The tiny experiment, run once for all tests that only look."""
    from tests.conftest import experiment_yaml

    folder = tmp_path_factory.mktemp("experiment")
    config = load_experiment(experiment_yaml.__wrapped__(corpus, folder))
    seen = []
    watcher = Watcher(
        started=lambda name, steps: seen.append(("started", name, steps)),
        finished=lambda name, results: seen.append(("finished", name, bool(results))),
    )
    return run_experiment(config, folder / "runs", watcher, progress=False), config, seen


def records(folder):
    return {path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/record.json")}


def test_every_variant_runs_with_every_seed_seeds_outside(finished):
    folder, _, seen = finished
    order = [name for what, name, *_ in seen if what == "finished"]
    variants = ("dense", "cross_attention", "gated_mlp")
    assert order == [f"{variant}-s{seed}" for seed in (0, 1) for variant in variants]
    assert all(record["status"] == "finished" for record in records(folder).values())
    assert seen[0] == ("started", "dense-s0", 6)


def test_a_record_tells_what_the_run_was(finished):
    folder, config, _ = finished
    record = records(folder)["gated_mlp-s1"]
    assert (record["experiment"], record["variant"], record["seed"]) == ("tiny", "gated_mlp", 1)
    assert (record["steps"], record["tokens"]) == (6, 6 * 4 * 16)
    assert record["device"]["kind"] in ("cpu", "cuda", "mps")
    assert {"memlm", "python", "torch", "transformers"} <= record["versions"].keys()
    assert len(record["commit"] or "0" * 40) == 40
    assert 0 < record["data"]["unigram_entropy"] < math.log(320)
    results = record["results"]
    for loss in ("validation_loss", "train_loss", "train_subset_loss", "memory_off_loss", "memory_shuffled_loss"):
        assert 0 < results[loss] < 10
    assert results["validation_perplexity"] == pytest.approx(math.exp(results["validation_loss"]))
    bits = results["validation_loss"] / math.log(2) / record["data"]["bytes_per_token"]
    assert results["bits_per_byte"] == pytest.approx(bits)
    assert results["usage"].keys() == {"0", "1"} and 0 <= results["quality"]["score"] <= 10
    assert results["peak_memory_gib"] > 0 and results["tokens_per_s"] > 0
    assert "memory_off_loss" not in records(folder)["dense-s0"]["results"]
    written = yaml.safe_load((folder / "gated_mlp-s1" / "config.yaml").read_text())
    assert written == config.run_config("gated_mlp", 1)


def test_losses_by_document_add_up_to_the_results(finished):
    folder, config, _ = finished
    runs = read_experiment(folder).finished()
    for run in runs:
        found = run.documents()
        expected = ["validation_loss"] if run.record.variant == "dense" else list(found.nats)
        assert list(found.nats) == expected and len(expected) in (1, 3)
        for metric, sums in found.nats.items():
            assert sum(sums) / sum(found.tokens) == pytest.approx(run.result(metric), abs=1e-4)
        assert (found.documents, found.tokens) == (runs[0].documents().documents, runs[0].documents().tokens)
    data = prepare(config.data, progress=False)
    assert len(found.documents) == data.validation.n_documents
    evaluated = runs[0].record.evaluated
    assert (evaluated.split, evaluated.fingerprint) == ("validation", data.validation.fingerprint)
    assert compare(read_experiment(folder)).judgements[0].n_documents == data.validation.n_documents


def test_the_test_split_is_opened_at_the_end_alone(experiment_yaml, tmp_path):
    overrides = ["data.test_share=0.1", "evaluate.split=test", "seeds=[0]", "name=opened", "train.evaluate_every=3"]
    config = load_experiment(experiment_yaml, overrides)
    folder = run_experiment(config, tmp_path / "runs", progress=False)
    data = prepare(config.data, progress=False)
    (run,) = read_experiment(folder).finished("dense")
    assert (run.record.evaluated.split, run.record.evaluated.fingerprint) == ("test", data.test.fingerprint)
    assert run.record.evaluated.tokens == len(data.test.ids) == run.record.data.test_tokens > 0
    assert len(run.documents().documents) == data.test.n_documents
    comparison = compare(read_experiment(folder))
    assert comparison.split == "test"
    assert not [warning for warning in comparison.warnings if "opened" in warning]
    assert "evaluated on the test split" in write_report(folder)[1].read_text()
    suite = Suite.of(config.evaluate, data, config.data.seq_len)
    assert (suite.quick[0, :-1] == data.validation.ids[:16]).all(), "while training it is validation text"
    assert (suite.sequences[0, :-1] == data.test.ids[:16]).all()


def test_curves_and_samples_are_written(finished):
    folder, _, _ = finished
    lines = [json.loads(line) for line in (folder / "gated_mlp-s0" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 3, 4, 6]
    assert "evaluate/validation_loss" in lines[1] and "memory/1/share_read" in lines[1]
    samples = json.loads((folder / "gated_mlp-s0" / "samples.json").read_text())
    assert len(samples) == 4 and samples[0].keys() == {"prompt", "model", "real"}


def test_the_checkpoint_is_a_hugging_face_model(finished):
    folder, _, _ = finished
    checkpoint = folder / "cross_attention-s0" / "checkpoint"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    ids = tokenizer("kalo", return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False).shape[1] == ids.shape[1] + 4


def test_finished_runs_are_not_run_again(finished):
    folder, config, _ = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/record.json")}
    seen = []
    run_experiment(config, folder.parent, Watcher(finished=lambda name, results: seen.append(results)), progress=False)
    assert seen == [{}] * 6
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/record.json")} == before


def test_the_report_is_written_from_the_records(finished):
    folder, _, _ = finished
    html, markdown = write_report(folder)
    loss = records(folder)["dense-s0"]["results"]["validation_loss"]
    assert "connection" in html.read_text() and "connection" in markdown.read_text()
    assert read_experiment(folder).finished("dense")[0].result("validation_loss") == loss


def test_another_recipe_in_the_same_folder_is_refused_before_anything_runs(finished):
    folder, config, _ = finished
    other = config.model_copy(update={"train": config.train.model_copy(update={"lr": 0.5})})
    with pytest.raises(
        RunError, match=r"dense-s0 is a finished run with other settings \(train\.lr\); give this experiment"
    ):
        run_experiment(other, folder.parent, progress=False)


def test_other_seeds_with_other_settings_are_refused_beside_it(finished, tmp_path):
    folder, config, _ = finished
    shutil.copytree(folder, tmp_path / "tiny")
    train = config.train.model_copy(update={"steps": 2})
    with pytest.raises(
        RunError, match=r"cross_attention-s0 was run with other settings \(train\.steps\), and an experiment has"
    ):
        run_experiment(config.model_copy(update={"seeds": [7], "train": train}), tmp_path, progress=False)
    run_experiment(config.model_copy(update={"seeds": [1]}), tmp_path, progress=False)
    left_out = "dense-s0 is in the folder but not in the experiment, and is left out"
    assert left_out in compare(read_experiment(tmp_path / "tiny")).missing


def test_a_damaged_model_of_a_finished_run_is_told(finished, tmp_path, caplog):
    folder, config, _ = finished
    shutil.copytree(folder, tmp_path / "tiny")
    (tmp_path / "tiny" / "dense-s0" / "checkpoint" / "model.safetensors").write_bytes(b"cut")
    run_experiment(config, tmp_path, progress=False)
    assert "checkpoint: is damaged (model.safetensors is not what was written)" in caplog.text


def test_other_text_in_the_same_folder_is_refused(finished, tmp_path):
    folder, config, _ = finished
    shutil.copytree(folder, tmp_path / "tiny")
    path = tmp_path / "tiny" / "dense-s0" / "record.json"
    record = json.loads(path.read_text())
    record["data"]["fingerprint"] = "of other text"
    path.write_text(json.dumps(record))
    with pytest.raises(RunError, match="was run on other text"):
        run_experiment(config, tmp_path, progress=False)


def test_a_question_file_that_changed_between_two_runs_is_refused(experiment_yaml, tmp_path):
    asked = tmp_path / "asked.jsonl"
    settings = ["variants={dense: {}}", "hypotheses=[]", "train.steps=2", "evaluate.samples=0"]
    settings.append(f"evaluate.question_file={asked}")
    asked.write_text('{"text": "kalo mi", "answer": "mi"}\n')
    run_experiment(load_experiment(experiment_yaml, [*settings, "seeds=[0]"]), tmp_path, progress=False)
    assert len(records(tmp_path / "tiny")["dense-s0"]["data"]["questions"]) == 64
    asked.write_text('{"text": "kalo ten", "answer": "ten"}\n')
    with pytest.raises(
        RunError, match=r"dense-s0 was asked other questions \(evaluate\.question_file has changed since"
    ):
        run_experiment(load_experiment(experiment_yaml, [*settings, "seeds=[0, 1]"]), tmp_path, progress=False)


def test_a_database_that_changed_between_two_runs_is_refused(experiment_yaml, tmp_path, monkeypatch):
    monkeypatch.setattr("memlm.fill.keys.STEPS", 2)
    facts = tmp_path / "facts.jsonl"
    bank = f"{{type: tokens, entry_length: 4, database: {facts}}}"
    memory = f"{{type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3, n_heads: 2, bank: {bank}}}"
    settings = [f"variants={{filled: {{memory: {memory}, fusion: {{type: gated_mlp}}}}}}", "hypotheses=[]", "seeds=[0]"]
    config = load_experiment(experiment_yaml, [*settings, "train.steps=2", "evaluate.samples=0"])
    facts.write_text('"ka lo"\n"mi ten"\n')
    run_experiment(config, tmp_path, progress=False)
    assert len(records(tmp_path / "tiny")["filled-s0"]["data"]["database"]) == 64
    run_experiment(config, tmp_path, progress=False)
    facts.write_text('"ka lo"\n"mi ur"\n')
    with pytest.raises(RunError, match=r"filled-s0 was filled from another database \(the file has changed since"):
        run_experiment(config, tmp_path, progress=False)


def test_variants_of_a_seed_see_the_same_batches(finished, monkeypatch, tmp_path):
    _, config, _ = finished
    seen = {}

    class Spy(Sampler):
        def batch(self, index):
            batch = super().batch(index)
            seen.setdefault(self.seed, []).append(batch.tobytes())
            return batch

    def spied(config, data, seed):
        return Spy(data.train.ids, config.data.seq_len, config.train.batch_size, seed)

    monkeypatch.setattr(attempt_module, "sampler_of", spied)
    run_experiment(config, tmp_path, progress=False)
    for batches in seen.values():
        assert batches[:6] == batches[6:12] == batches[12:]
    assert seen[0][:6] != seen[1][:6]


def test_what_joins_after_the_test_split_was_opened_is_marked(experiment_yaml, tmp_path):
    base = ["data.test_share=0.1", "evaluate.split=test", "train.steps=2", "evaluate.samples=0", "hypotheses=[]"]
    dense, two = "variants={dense: {}}", "variants={dense: {}, wide: {d_ff: 96}}"

    def added(*overrides):
        folder = run_experiment(load_experiment(experiment_yaml, [*base, *overrides]), tmp_path, progress=False)
        return read_experiment(folder).plan.added_after_test

    assert added(dense, "seeds=[0]") == []
    assert added(dense, "seeds=[0]") == [], "the same call again adds nothing"
    assert added(two, "seeds=[0]") == ["wide-s0"]
    assert added(dense, "seeds=[0, 1]") == ["wide-s0", "dense-s1"]
    assert added(two, "seeds=[0, 1]") == ["wide-s0", "dense-s1", "wide-s1"], "what was marked once stays so"
    (tmp_path / "tiny" / "experiment.json").unlink()
    assert added(two, "seeds=[0, 1, 2]") == ["dense-s2", "wide-s2"], (
        "without the earlier plan only what was opened counts"
    )


def test_evaluating_again_is_no_later_opening(experiment_yaml, tmp_path, monkeypatch):
    overrides = ["data.test_share=0.1", "evaluate.split=test", "variants={dense: {}}", "hypotheses=[]", "seeds=[0]"]
    config = load_experiment(experiment_yaml, overrides)
    with monkeypatch.context() as patch:
        patch.setattr(Suite, "evaluate", lambda *_: (_ for _ in ()).throw(RunError("the judge is gone")))
        with pytest.raises(RunError, match="the judge is gone"):
            run_experiment(config, tmp_path, progress=False)
    opened = records(tmp_path / "tiny")["dense-s0"]["evaluated"]
    monkeypatch.setattr(attempt_module, "now", lambda: "2099-01-01T00:00:00+00:00")
    run_experiment(config, tmp_path, progress=False)
    assert records(tmp_path / "tiny")["dense-s0"]["evaluated"] == opened


def test_a_second_process_is_refused(finished):
    folder, config, _ = finished
    with locked(folder), pytest.raises(RunError, match="is being run by another process"):
        run_experiment(config, folder.parent, progress=False)


def test_leftovers_of_an_unfinished_run_are_removed(experiment_yaml, tmp_path):
    config = load_experiment(experiment_yaml, ["seeds=[0]", "variants={dense: {}}", "hypotheses=[]"])
    stale = tmp_path / "tiny" / "dense-s0" / "checkpoint-2"
    stale.mkdir(parents=True)
    run_experiment(config, tmp_path, progress=False)
    assert not stale.exists()


def test_changed_hypotheses_are_told(finished, tmp_path):
    folder, config, _ = finished
    shutil.copytree(folder, tmp_path / "tiny")
    milder = [hypothesis.model_copy(update={"margin": 0.0}) for hypothesis in config.hypotheses]
    run_experiment(config.model_copy(update={"hypotheses": milder}), tmp_path, progress=False)
    warnings = compare(read_experiment(tmp_path / "tiny")).warnings
    (told,) = [warning for warning in warnings if "hypotheses" in warning]
    assert told.startswith("The hypotheses were changed after dense-s0") and told.endswith(
        f" had been run: changed: {', '.join(repr(hypothesis.name) for hypothesis in milder)}."
    )
    assert not any("hypotheses" in warning for warning in compare(read_experiment(folder)).warnings)


def test_a_new_file_is_part_of_the_recorded_difference(tmp_path, monkeypatch):
    for command in (["init", "-q"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c", "--allow-empty"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    module = tmp_path / "src" / "memlm" / "experiment" / "record.py"
    module.parent.mkdir(parents=True)
    module.write_text("a new memory\n")
    monkeypatch.setattr(record, "__file__", str(module))
    commit, difference = record.code_state()
    assert len(commit) == 40 and "+a new memory" in difference


def test_a_check_is_left_out_by_name_only_and_the_record_says_so(experiment_yaml, tmp_path):
    config = load_experiment(experiment_yaml, ["seeds=[0]", "train.skip_checks=[overfit]", "hypotheses=[]"])
    folder = run_experiment(config, tmp_path, progress=False)
    for record_ in records(folder).values():
        outcomes = {outcome["check"]: outcome["status"] for outcome in record_["preflight"]["checks"]}
        assert outcomes["overfit"] == "skipped" and outcomes["causality"] == "passed"
    assert any("overfit was left out by name" in warning for warning in compare(read_experiment(folder)).warnings)


def test_held_out_text_that_was_trained_on_is_refused(finished):
    _, config, _ = finished
    data = prepare(config.data, progress=False)
    Suite.of(config.evaluate, data, config.data.seq_len)
    leaked = dataclasses.replace(data, validation=dataclasses.replace(data.validation, ids=data.train.ids[:2000]))
    with pytest.raises(DataError, match=r"16 of 16 held-out sequences stand word for word in the training text"):
        Suite.of(config.evaluate, leaked, config.data.seq_len)
