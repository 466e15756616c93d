import pytest
from fabricate import edit_record, loss_of

from memlm.errors import RunError
from memlm.experiment.difference import ABSENT, Row, difference, flatten


def test_a_run_does_not_differ_from_itself(folder):
    assert difference(folder / "dense-s0", folder / "dense-s0") == []


def test_only_what_differs_is_listed(folder):
    edit_record(folder / "dense-s1", commit="fedcba", versions={"torch": "2.12.0"}, device={"name": "A100"})
    rows = difference(folder / "dense-s0", folder / "dense-s1")
    assert Row("config", "seed", 0, 1) in rows
    assert Row("code", "commit", "0123456789abcdef", "fedcba") in rows
    assert Row("code", "versions.torch", "2.11.0", "2.12.0") in rows
    assert Row("device", "name", "NVIDIA GeForce RTX 4090", "A100") in rows
    assert Row("results", "validation_loss", loss_of("dense", 0), loss_of("dense", 1)) in rows
    assert not [
        row for row in rows if row.section in ("data", "cost") or row.path == "quality.metrics.model.distinct_1"
    ]


def test_a_value_on_one_side_only_is_shown_as_absent(folder):
    rows = difference(folder / "dense-s0", folder / "gated_mlp-s0")
    assert Row("results", "memory_off_loss", ABSENT, loss_of("gated_mlp", 0) + 0.3) in rows
    assert Row("config", "model.wiring", "dense", "gated_mlp") in rows


def test_a_folder_without_a_record_is_refused(folder):
    with pytest.raises(RunError, match=r"is an experiment; give the folder of one of its runs: .*dense-s0"):
        difference(folder / "dense-s0", folder)
    with pytest.raises(RunError, match=r"is no run's folder \(.*\); give one, e\.g\. runs/demo/gated_mlp-s0$"):
        difference(folder.parent, folder / "dense-s0")
    with pytest.raises(RunError, match="nowhere: there is no such folder; give one"):
        difference(folder.parent / "nowhere", folder / "dense-s0")
    inner = folder / "dense-s0" / "checkpoint"
    inner.mkdir(exist_ok=True)
    with pytest.raises(RunError, match=f"checkpoint: is no run's folder .*; give {folder / 'dense-s0'}$"):
        difference(inner, folder / "dense-s0")


def test_lists_and_empty_mappings_are_leaves():
    assert dict(flatten({"a": {"b": [1, 2], "c": {}}, "d": 1})) == {"a.b": [1, 2], "a.c": {}, "d": 1}
