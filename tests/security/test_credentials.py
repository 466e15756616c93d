"""Keys and tokens in the environment reach no record, no patch, no report and no log line."""

import json
import logging
import os
import subprocess
import sys

import pytest
import yaml
from accelerate import tracking

from memlm.cli import main
from memlm.errors import RunError
from memlm.experiment import attempt
from memlm.experiment.config import load_experiment
from memlm.experiment.record import CodeState
from memlm.experiment.run import run_experiment
from memlm.report.page import write_report
from memlm.storage import redacted, write_json, write_text, write_yaml
from memlm.train import trackers

KEY = 'k3y-"of"-\\a: träcker, 9f2c'


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("SWANLAB_API_KEY", KEY)
    return KEY


@pytest.fixture
def handler():
    """The handler that the command line logs to, on a root logger of its own."""
    root = logging.getLogger()
    kept, root.handlers = root.handlers, []
    main._log_to_stderr(is_first=True)
    yield root.handlers[0]
    root.handlers = kept


def written(folder):
    """Every text under a folder, with the escapes of JSON and YAML undone."""
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix in {".json", ".jsonl", ".yaml", ".patch", ".html", ".md", ".log"}:
            text = path.read_text(encoding="utf-8")
            yield path, text
            if path.suffix == ".json":
                yield path, repr_of(json.loads(text))
            elif path.suffix == ".yaml":
                yield path, repr_of(yaml.safe_load(text))


def repr_of(tree):
    if isinstance(tree, dict):
        return "\n".join(f"{key}\n{repr_of(value)}" for key, value in tree.items())
    return "\n".join(map(repr_of, tree)) if isinstance(tree, list) else str(tree)


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "SWANLAB_API_KEY",
        "OPENAI_APIKEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "DJANGO_SECRET_KEY",
        "CLIENT_SECRET",
        "PGPASSWORD",
        "db_password_file",
        "TOKEN",
    ],
)
def test_credentials_are_known_by_their_names(name, monkeypatch):
    monkeypatch.setenv(name, "s3cret-value")
    assert redacted("a s3cret-value b") == "a *** b"


@pytest.mark.parametrize("name", ["TOKENIZERS_PARALLELISM", "KEYBOARD", "HF_TOKEN_PATH", "SECRETARY", "MONKEY"])
def test_other_variables_are_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "plain-value")
    assert redacted("a plain-value b") == "a plain-value b"


def test_a_value_that_is_part_of_common_words_is_left_alone(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "data")
    assert redacted({"data": ["data"]}) == {"data": ["data"]}


def test_the_longer_of_two_credentials_goes_first(monkeypatch):
    monkeypatch.setenv("A_TOKEN", "abcdefgh")
    monkeypatch.setenv("B_TOKEN", "abcdefghijkl")
    assert redacted("abcdefghijkl abcdefgh") == "*** ***"


@pytest.mark.parametrize("write", [write_text, write_json, write_yaml])
def test_every_writer_redacts(write, key, tmp_path):
    long = f"{'word ' * 20}{key}{' word' * 20}"
    write(tmp_path / "x.json", long if write is write_text else {"a": [long], key: {"b": (key, 1, 2.5, None, True)}})
    text = (tmp_path / "x.json").read_text()
    tree = text if write is write_text else repr_of(yaml.safe_load(text))
    assert "***" in tree and key not in tree and "9f2c" not in text
    if write is write_json:
        assert json.loads(text)["***"] == {"b": ["***", 1, 2.5, None, True]}


def test_a_key_in_the_error_of_a_tracker_is_not_logged(key, handler, capsys, tmp_path, monkeypatch):
    class Talkative:
        requires_logging_directory = False

        def __init__(self, project, **where):
            raise RuntimeError(f"401: api key {key} was refused")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Talkative)
    monkeypatch.setattr(trackers, "require", lambda name: None)
    trackers.BackgroundTracker("wandb", "project", "run", tmp_path, {}).close()
    told = " ".join(capsys.readouterr().err.split())
    assert "wandb failed and is switched off for this run: 401: api key *** was refused" in told


def test_nor_is_one_in_a_traceback(key, handler):
    try:
        raise RuntimeError(key)
    except RuntimeError:
        record = logging.LogRecord("any.library", logging.ERROR, __file__, 1, "%s", (key,), sys.exc_info())
    line = handler.format(record)
    assert "Traceback" in line and key not in line and "RuntimeError: ***" in line


def test_a_run_records_no_key(key, experiment_yaml, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "code_state", lambda: CodeState(None, f"+secret = '{key}'\n"))
    config = load_experiment(experiment_yaml, ["seeds=[0]", "variants={dense: {}}", "hypotheses=[]", "train.steps=2"])
    folder = run_experiment(config, tmp_path / "runs", progress=False, command=f"memlm run x -o data.corpus={key}")
    write_report(folder)
    assert (folder / "dense-s0" / "diff.patch").read_text() == "+secret = '***'\n"
    assert json.loads((folder / "experiment.json").read_text())["command"] == "memlm run x -o data.corpus=***"
    assert [path for path, text in written(folder) if key in text or "9f2c" in text] == []


def test_nor_does_one_that_fails_with_it(key, experiment_yaml, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RunError(f"cannot log in with {key}")

    monkeypatch.setattr(attempt, "train", fail)
    with pytest.raises(RunError):
        run_experiment(load_experiment(experiment_yaml), tmp_path, progress=False)
    record = json.loads((tmp_path / "tiny" / "dense-s0" / "record.json").read_text())
    assert record["error"] == "RunError: cannot log in with ***"


@pytest.mark.parametrize("detach", [False, True])
def test_a_key_on_the_command_line_is_shown_and_kept_nowhere(detach, experiment_yaml, tmp_path):
    key = "hf_0123456789abcdef"
    options = ["-o", f"data.corpus={tmp_path}/{key}.jsonl", *(["--detach"] if detach else [])]
    done = subprocess.run(
        [sys.executable, "-m", "memlm.cli.main", "run", str(experiment_yaml), *options],
        cwd=tmp_path,
        env=os.environ | {"HF_TOKEN": key},
        capture_output=True,
        text=True,
        check=False,
    )
    if detach:
        from memlm.experiment.jobs import read_job, read_log

        job = read_job(tmp_path / "runs" / "tiny")
        assert f"data.corpus={tmp_path}/***.jsonl" in job.command
        log = b"".join(read_log(job, 1000, follow=True)).decode()
    else:
        log = done.stdout + done.stderr
    assert "***.jsonl" in log and "error: " in log
    assert key not in log + done.stdout + done.stderr
    assert [path for path, text in written(tmp_path / "runs") if key in text] == []
