"""lm-eval's tasks on a tiny run: local tasks, whose numbers are counted again by hand."""

import json
import math
import sys

import pytest
import torch
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import MissingDependencyError, RunError
from memlm.evaluate.lm_eval import evaluate_tasks
from memlm.experiment.trained import open_model
from tests.unit.export.conftest import runs as runs  # a fixture is found by its name

QUESTIONS = [
    {"text": "ka lo", "choices": [" mi", " ten"], "label": 0},
    {"text": "ur", "choices": [" sha", " bel"], "label": 1},
    {"text": "dor ix", "choices": [" pa", " ru"], "label": 0},
]
DATA = "dataset_path: json\ndataset_kwargs: {data_files: {test: FILE}}\ntest_split: test\n"
TASKS = {
    "tiny_choice": "output_type: multiple_choice\ndoc_to_text: '{{text}}'\ndoc_to_choice: '{{choices}}'\n"
    "doc_to_target: '{{label}}'\ntarget_delimiter: ''\nmetric_list: [{metric: acc}]\n",
    "tiny_text": "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: '{{text}}'\n"
    "metric_list: [{metric: bits_per_byte}]\n",
}


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS), encoding="utf-8")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, text in TASKS.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{DATA.replace('FILE', str(data))}{text}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def opened(runs):
    return open_model(runs / "gated_mlp-s0", "cpu")


@torch.no_grad()
def nats(model, context, continuation):
    """What a continuation costs after a context, both token ids."""
    logits = model(torch.tensor([context + continuation])).logits[0].log_softmax(-1)
    places = range(len(context) - 1, len(context) + len(continuation) - 1)
    return -sum(logits[place, token].item() for place, token in zip(places, continuation, strict=True))


def test_local_tasks_give_the_numbers_that_the_model_gives(runs, opened, tasks):
    pytest.importorskip("lm_eval")
    line = ["lm-eval", str(runs / "gated_mlp-s0"), *TASKS, "--include", str(tasks), "--json"]
    done = CliRunner().invoke(app, line, catch_exceptions=False)
    found = json.loads(done.stdout.splitlines()[-1])
    model, tokenizer = opened
    ids = {text: tokenizer(text).input_ids for each in QUESTIONS for text in (each["text"], *each["choices"])}
    right = 0
    for each in QUESTIONS:
        costs = [nats(model, ids[each["text"]], ids[choice]) for choice in each["choices"]]
        right += costs.index(min(costs)) == each["label"]
    assert found["tiny_choice"]["acc,none"] == pytest.approx(right / len(QUESTIONS))
    total = sum(nats(model, [tokenizer.eos_token_id], ids[each["text"]]) for each in QUESTIONS)
    n_bytes = sum(len(each["text"].encode()) for each in QUESTIONS)
    assert found["tiny_text"]["bits_per_byte,none"] == pytest.approx(total / n_bytes / math.log(2), rel=1e-4)


def test_a_task_that_nobody_knows_is_told(opened, tasks):
    pytest.importorskip("lm_eval")
    with pytest.raises(RunError, match="lm-eval knows no task tiny_chioce; lm-eval ls tasks lists"):
        evaluate_tasks(*opened, ["tiny_chioce"], tasks)


def test_a_hub_that_cannot_be_reached_is_told_in_one_line(runs, monkeypatch, caplog):
    pytest.importorskip("lm_eval")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    done = CliRunner().invoke(app, ["lm-eval", str(runs / "gated_mlp-s0"), "hellaswag"])
    assert isinstance(done.exception, RunError)
    told = str(done.exception)
    assert told.startswith("hellaswag: the data cannot be fetched (Couldn't reach 'Rowan/hellaswag' on the Hub")
    assert told.endswith("lm-eval takes it from the hub, unless a task of your own (--include) names files")
    assert "\n" not in told and (done.output, caplog.records) == ("", [])


def test_without_lm_eval_its_install_line_is_told(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(MissingDependencyError, match=r"lm.eval is needed for .*pip install 'memlm\[lm-eval\]'"):
        evaluate_tasks(*opened, ["arc_easy"])
