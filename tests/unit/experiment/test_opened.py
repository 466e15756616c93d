"""A test split that was opened before is told; the same settings again, later looks and other text are not."""

import json
import shutil

import pytest
import yaml
from fabricate import edit_record, fabricate, write_json

from memlm.experiment.compare import compare
from memlm.experiment.reading import read_experiment


def opened(folder, day, fingerprint="aaaa", lr="0.001"):
    for run in folder.glob("*-s*"):
        evaluated = {"split": "test", "fingerprint": fingerprint, "time": f"2026-11-{day:02}T10:00:00+00:00"}
        edit_record(run, evaluated=evaluated)
        config = run / "config.yaml"
        config.write_text(config.read_text(encoding="utf-8").replace("lr: 0.001", f"lr: {lr}"), encoding="utf-8")


@pytest.fixture
def two(tmp_path):
    folder = fabricate(tmp_path)
    earlier = tmp_path / "earlier"
    shutil.copytree(folder, earlier)
    opened(folder, day=20)
    return folder, earlier


def told(folder):
    return [warning for warning in compare(read_experiment(folder)).warnings if "opened" in warning]


def test_an_earlier_look_with_other_settings_is_told(two):
    folder, earlier = two
    opened(earlier, day=10, lr="0.01")
    assert told(folder) == [
        "This test split was opened 12 times before, with other settings or variants: earlier (12 runs). What was "
        "chosen by those results is not tested by these."
    ]
    assert told(earlier) == [], "it was the first"


def test_an_earlier_look_without_one_of_the_variants_is_told(two):
    folder, earlier = two
    opened(earlier, day=10)
    for run in earlier.glob("gated_mlp-s*"):
        shutil.rmtree(run)
    assert "opened 9 times before, with other settings or variants: earlier (9 runs)" in told(folder)[0]


def test_looks_that_do_not_count(two):
    folder, earlier = two
    assert told(folder) == [], "the other experiment opened no test split"
    opened(earlier, day=10)
    assert told(folder) == [], "the same settings"
    for run in earlier.glob("*-s*"):
        config = run / "config.yaml"
        config.write_text(config.read_text(encoding="utf-8").replace("samples: 2", "samples: 2\n  questions: 2000"))
    assert told(folder) == [], "what another version records besides is the default of this one"
    opened(earlier, day=10, fingerprint="bbbb", lr="0.01")
    assert told(folder) == [], "another text"


def test_a_setting_of_the_model_that_was_added_since_is_its_default(two):
    folder, earlier = two
    opened(earlier, day=10)
    for run in (*folder.glob("*-s*"), *earlier.glob("*-s*")):
        config = run / "config.yaml"
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        added = {"experts": None} if run.parent == folder else {}
        config.write_text(yaml.safe_dump(settings | {"model": {"d_model": 128, **added}}), encoding="utf-8")
    assert told(folder) == []
    (earlier / "dense-s0" / "config.yaml").write_text(yaml.safe_dump(settings | {"model": {"d_model": 64}}))
    assert "opened 12 times before" in told(folder)[0]


def test_a_record_that_cannot_be_read_is_passed_over(two):
    folder, earlier = two
    opened(earlier, day=10, lr="0.01")
    (earlier / "dense-s0" / "record.json").write_text("{", encoding="utf-8")
    assert "opened 11 times before" in told(folder)[0]


def test_runs_that_were_added_are_told_beside_the_verdicts_that_rest_on_them(two):
    folder, _ = two
    path = folder / "experiment.json"
    write_json(path, json.loads(path.read_text()) | {"added_after_test": ["gated_mlp-s2", "gone-s0"]})
    comparison = compare(read_experiment(folder))
    assert [line for line in comparison.warnings if "opened" in line] == [
        "Added after the test split had been opened (added_after_test): gated_mlp-s2. What its results suggested is "
        "not tested by it."
    ]
    assert comparison.judgements[0].notes == ["added after the test split had been opened: gated_mlp-s2"]
