"""Records may come from other people: what they name stays inside their folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memlm.errors import RunError
from memlm.experiment.difference import difference
from memlm.experiment.jobs import find_job, list_jobs, read_job, read_log, start_detached
from memlm.experiment.locks import locked
from memlm.experiment.reading import read_experiment, read_run
from memlm.report.page import write_report
from tests.told import one_error, one_line

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from fabricate import edit_record, fabricate

OUTSIDE = ["../../dense", "/etc/dense", "..", ".", "", "a/b", "a\\b", "C:a", "a\0b"]
JOB = {
    "format": 1,
    "pid": 1,
    "created": 0.0,
    "host": "x",
    "command": [],
    "log": "/etc/passwd",
    "started": "2026-11-24T00:00:00+00:00",
}


@pytest.fixture
def folder(tmp_path):
    return fabricate(tmp_path)


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.json"
    path.write_text('{"step": 1, "tokens": 1, "train/loss": 1.0}\n')
    return path


def edit_plan(folder, **changes):
    path = folder / "experiment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def link(path, target):
    path.unlink(missing_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_variant_is_a_plain_name(folder, name):
    edit_plan(folder, variants=["dense", name])
    with pytest.raises(RunError) as error:
        read_experiment(folder)
    assert f"experiment.json: variants.1: {name!r} is no plain name of a folder".lower() in str(error.value).lower()
    one_line(error.value)


@pytest.mark.parametrize("field", ["experiment", "variant"])
def test_so_is_what_a_run_says_of_itself(folder, field):
    edit_record(folder / "dense-s0", **{field: "../../x"})
    with pytest.raises(RunError, match=rf"record\.json: {field}: '\.\./\.\./x' is no plain name of a folder"):
        read_run(folder / "dense-s0")


def test_the_plans_own_name_too(folder):
    edit_plan(folder, name="../x")
    with pytest.raises(RunError, match=r"experiment\.json: name: '\.\./x' is no plain name"):
        read_experiment(folder)


@pytest.mark.parametrize("name", ["record.json", "config.yaml", "metrics.jsonl", "samples.json"])
def test_a_link_out_of_a_run_is_refused(folder, secret, name):
    link(folder / "dense-s0" / name, secret)
    with pytest.raises(RunError, match=rf"{name}: leads out of its folder, to .*secret\.json; put a copy in its place"):
        run = read_run(folder / "dense-s0")
        run.metrics(), run.samples()


@pytest.mark.parametrize("name", ["experiment.json", "findings.md"])
def test_a_link_out_of_an_experiment_is_refused(folder, secret, name):
    link(folder / name, secret)
    with pytest.raises(RunError, match=f"{name}: leads out of its folder"):
        write_report(folder)


def test_a_lock_that_is_a_link_out_of_the_experiment_is_refused(folder, secret):
    before = secret.read_bytes()
    link(folder / ".lock", secret)
    with pytest.raises(RunError, match=r"\.lock: leads out of its folder"), locked(folder):
        pytest.fail("it was locked")
    assert secret.read_bytes() == before


def test_a_run_that_is_a_link_elsewhere_is_absent_with_its_reason(folder, tmp_path):
    (folder / "dense-s0").rename(tmp_path / "elsewhere")
    (folder / "dense-s0").symlink_to(tmp_path / "elsewhere")
    assert "dense-s0: leads out of its folder, to" in read_experiment(folder).absent["dense", 0]


def test_a_link_that_stays_inside_is_followed(folder):
    (folder / "dense-s0" / "record.json").rename(folder / "dense-s0" / "kept.json")
    (folder / "dense-s0" / "record.json").symlink_to("kept.json")
    assert read_run(folder / "dense-s0").is_finished


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(read_experiment(tmp_path / "link").runs) == len(read_experiment(folder).runs)
    assert difference(tmp_path / "link" / "dense-s0", folder / "dense-s0") == []


def test_a_link_to_itself_is_one_line(folder):
    link(folder / "dense-s0" / "record.json", "record.json")
    with pytest.raises(RunError, match=r"record\.json: (cannot be read|there is no such file)"):
        read_run(folder / "dense-s0")


def test_a_job_is_read_in_its_folder_whatever_it_says(folder, secret):
    (folder / "job.json").write_text(json.dumps(JOB | {"folder": "/etc"}))
    job = read_job(folder)
    assert (job.folder, job.log) == (folder, folder / "run.log")
    link(folder / "run.log", secret)
    with pytest.raises(RunError, match=r"run\.log: leads out of its folder"):
        next(read_log(job, 10))
    with pytest.raises(RunError, match=r"run\.log: leads out of its folder"):
        start_detached([], folder, (sys.executable, "-c", "print('overwritten')"))
    assert "overwritten" not in secret.read_text()


def test_a_job_record_that_is_a_link_out_is_left_out(folder, tmp_path, caplog):
    (tmp_path / "theirs.json").write_text(json.dumps(JOB))
    link(folder / "job.json", tmp_path / "theirs.json")
    assert list_jobs(folder.parent) == []
    assert "job.json: leads out of its folder" in caplog.text


@pytest.mark.parametrize("name", ["..", "../演示 demo", "/etc", ""])
def test_a_job_is_found_by_a_plain_name_alone(folder, name):
    (folder / "job.json").write_text(json.dumps(JOB))
    (folder / "inner").mkdir()
    for root in (folder.parent, folder / "inner"):
        with pytest.raises(RunError, match=r"unknown job|no background jobs"):
            find_job(root, name)


def test_the_command_line_says_it_in_one_line(folder):
    edit_plan(folder, variants=["../../x"])
    command = [sys.executable, "-m", "memlm.cli.main", "compare", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    one_error(done.stderr, "is no plain name of a folder")
