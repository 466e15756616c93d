"""A release: runs made again, exported with a manifest and hashes."""

import json
import shutil

import pytest
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import RunError
from memlm.export.release import plan_release
from memlm.storage import sha256
from tests.unit.fabricate import edit_record

PAIR = ("gated_mlp-s0", "dense-s0")


def release(runs, folder, reruns):
    names = [str(runs / name) for name in PAIR]
    return CliRunner().invoke(app, ["release", *names, "--to", str(folder), "--runs", str(reruns)])


@pytest.fixture(scope="module")
def released(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    done = release(runs, folder / "pair", folder / "reruns")
    assert done.exit_code == 0, done.output
    assert "gated_mlp-s0: agrees with its record, bit for bit" in done.output
    assert "is not in" not in done.output
    return folder


def test_the_models_are_those_of_the_recorded_runs(released, runs):
    for name in PAIR:
        weights = released / "pair" / name / "model.safetensors"
        assert sha256(weights) == sha256(runs / name / "checkpoint" / "model.safetensors")
        assert "## Its experiment" in (released / "pair" / name / "README.md").read_text(encoding="utf-8")


def test_every_file_has_its_hash(released):
    pair = released / "pair"
    lines = [line.split("  ") for line in (pair / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    assert {name for _, name in lines} == {
        str(path.relative_to(pair)) for path in pair.rglob("*") if path.is_file() and path.name != "SHA256SUMS"
    }
    assert all(sha256(pair / name) == found for found, name in lines)


def test_the_manifest_says_where_they_come_from(released, runs):
    manifest = json.loads((released / "pair" / "manifest.json").read_text(encoding="utf-8"))
    record = json.loads((runs / PAIR[0] / "record.json").read_text(encoding="utf-8"))
    model = manifest["models"][PAIR[0]]
    assert list(manifest["models"]) == list(PAIR)
    assert (model["text"], model["config_hash"]) == (record["data"]["fingerprint"], record["config_hash"])
    assert (model["expected"], model["agrees"], model["because"]) == ("bit for bit", True, [])
    assert [verdict["claim"] for verdict in manifest["verdicts"]]


def test_a_second_time_takes_the_reruns_and_tells_when_numbers_differ(released, runs, tmp_path):
    spoilt = tmp_path / "runs" / runs.name
    shutil.copytree(runs, spoilt)
    results = json.loads((spoilt / PAIR[1] / "record.json").read_text(encoding="utf-8"))["results"]
    edit_record(spoilt / PAIR[1], results=results | {"validation_loss": 1.0})
    done = release(spoilt, tmp_path / "pair", released / "reruns")
    assert done.exit_code == 1
    assert "dense-s0: does NOT agree with its record" in done.output
    sums = (released / "pair" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    again = (tmp_path / "pair" / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    weights = [line for line in sums if line.endswith(".safetensors")]
    assert len(weights) == 2 and set(weights) <= set(again)


def test_what_is_no_release_is_told_in_one_line(runs, tmp_path):
    with pytest.raises(RunError, match="dense-s0 is named twice"):
        plan_release([runs / "dense-s0", runs / "dense-s0"], tmp_path / "new")
    other = tmp_path / "other" / "dense-s0"
    shutil.copytree(runs / "dense-s0", other)
    with pytest.raises(RunError, match="are of different experiments; a release is of one"):
        plan_release([runs / "dense-s0", other], tmp_path / "new")
    with pytest.raises(RunError, match="is there already"):
        plan_release([runs / "dense-s0"], tmp_path / "other")
