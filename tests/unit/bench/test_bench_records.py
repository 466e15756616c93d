"""What is kept of a bench, and when."""

from dataclasses import replace
from importlib.metadata import version

import pytest
import torch

from memlm.bench import run as running
from memlm.bench.layers import MemoryLayer
from memlm.bench.run import Job, begin, default_shapes, plan, run
from memlm.bench.setting import Setting
from memlm.bench.shapes import PARTS, SHAPES
from memlm.bench.store import Results, newest, read, resumed, write
from memlm.errors import Interrupted, RunError
from memlm.experiment.record import CodeState
from memlm.model.config import ModelConfig
from tests.unit.bench.conftest import fabricated

RATES = {"bytes_per_s": 1e10, "flops_per_s": 1e11}


@pytest.fixture(autouse=True)
def _rates(monkeypatch):
    monkeypatch.setattr(running.ceilings, "measure", lambda _setting: RATES)
    monkeypatch.setattr(running.gc, "collect", lambda: 0)  # a third of a second each time


def results():
    return Results({"name": "A (card) 80GB", "kind": "cuda"}, "abc", {"torch": "2.11"})


def job(shape, name, measure=lambda _: {"status": "ok", "value": 1}, part="stages"):
    return Job(part, shape, name, measure)


def test_a_row_is_kept_as_soon_as_it_exists(shape, setting, tmp_path):
    seen = []
    path = results().path(tmp_path)

    def second(_setting):
        seen.append(list(read(path).groups["stages/small"].rows))
        raise Interrupted

    with pytest.raises(Interrupted):
        run([job(shape, "first"), job(shape, "second", second)], setting, results(), tmp_path)
    assert seen == [["first"]]
    assert read(path).groups["stages/small"].ceilings == RATES
    assert path == tmp_path / "a-card-80gb" / "abc.json"


def test_a_group_is_replaced_as_a_whole_and_others_are_kept(shape, setting, tmp_path):
    run([job(shape, "old"), job(shape, "kept", part="layers")], setting, results(), tmp_path)
    again = running.resumed(tmp_path, results())
    path = run([job(shape, "new")], setting, again, tmp_path)
    assert {key: list(group.rows) for key, group in read(path).groups.items()} == {
        "stages/small": ["new"],
        "layers/small": ["kept"],
    }


def test_what_fails_is_a_row_and_the_next_is_measured(shape, setting, tmp_path, caplog):
    def full(_setting):
        raise torch.OutOfMemoryError

    def broken(_setting):
        raise RuntimeError("no such\nkernel")

    told = []
    jobs = [job(shape, "full", full), job(shape, "broken", broken), job(shape, "sound")]
    run(jobs, setting, results(), tmp_path, lambda j, row: told.append((j.name, row["status"])))
    rows = read(results().path(tmp_path)).groups["stages/small"].rows
    assert told == [("full", "out of memory"), ("broken", "failed"), ("sound", "ok")]
    assert rows["broken"] == {"status": "failed", "reason": "RuntimeError: no such\\nkernel"}
    assert "stages small: broken" in caplog.text and "Traceback" in caplog.text


def test_results_come_back_from_their_file(tmp_path):
    kept = fabricated()
    assert read(write(tmp_path, kept)) == kept


def test_timings_of_other_versions_are_not_gone_on_with(tmp_path):
    write(tmp_path, fabricated())
    same, other = fabricated(), fabricated()
    same.groups.clear(), other.groups.clear()
    other.versions["torch"] = "9.9"
    assert resumed(tmp_path, same).groups and not resumed(tmp_path, other).groups


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2, "groups": {}}', '{"format": 1, "groups": {"a": {}}}'])
def test_a_file_that_holds_no_timings_is_named(text, tmp_path):
    path = tmp_path / "card" / "abc.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(RunError, match=r"abc\.json: no timings that this version can read \(.*\); delete it and"):
        newest(tmp_path)


def test_of_each_device_part_and_shape_the_newest_counts_and_gpus_come_first(tmp_path):
    for commit, started in (("one", "2026-01-02"), ("two", "2026-01-03"), ("three", "2026-01-01")):
        write(tmp_path, fabricated("A processor", "cpu", commit, started))
    write(tmp_path, fabricated())
    later = fabricated("A processor", "cpu", "four", "2026-01-04")
    for key in [key for key, group in later.groups.items() if group.part != "decode"]:
        del later.groups[key]
    other_shape = replace(later.groups["decode/decoded"], shape="other", started="2026-01-05")
    later.groups["decode/other"] = other_shape
    write(tmp_path, later)
    newer = fabricated("A processor", "cpu", "five", "2026-01-06")
    newer.groups.clear()
    newer.groups["decode/other"] = replace(other_shape, started="2026-01-06")
    write(tmp_path, newer)
    gpu, *cpu = newest(tmp_path)
    assert (gpu.device["kind"], gpu.commit, gpu.groups) == ("cuda", "abc", fabricated().groups)
    everything = {group.part for group in fabricated().groups.values()}
    found = [(results.commit, {group.part for group in results.groups.values()}) for results in cpu]
    assert found == [("two", everything - {"decode"}), ("four", {"decode"}), ("five", {"decode"})], "old ones first"
    assert [list(results.groups) for results in cpu[1:]] == [["decode/decoded"], ["decode/other"]]


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(RunError, match="no timings here; measure some with: memlm bench"):
        newest(tmp_path)


def test_results_say_where_and_with_what_they_were_made(setting, tmp_path, monkeypatch):
    found = begin(setting, tmp_path)
    assert found.device["kind"] == "cpu" and found.device["arithmetic"] == "float32" and found.device["name"]
    assert found.versions["torch"] == version("torch")
    monkeypatch.setattr(running, "code_state", lambda: CodeState("f" * 40, "a change"))
    assert begin(setting, tmp_path).commit == "f" * 12 + "-dirty"
    monkeypatch.setattr(running, "code_state", lambda: CodeState(None, ""))
    assert begin(setting, tmp_path).commit == "unknown"


def test_the_plan_follows_what_is_asked_for(setting):
    assert default_shapes(setting) == ["tiny"]
    assert default_shapes(Setting(torch.device("cuda"), torch.bfloat16)) == ["S", "M8k"]
    assert {j.part for j in plan(["tiny"], PARTS, setting)} == set(PARTS)
    gpu = Setting(torch.device("cuda"), torch.bfloat16)
    models = list(SHAPES["S"].models.variants)
    assert [j.name for j in plan(["S"], ["steps"], gpu)] == models
    on_cpu = [j.name for j in plan(["S"], ["steps"], setting)]
    assert on_cpu == [name for name in models if not name.endswith("plain torch")] != models
    assert plan(["M8k"], ["steps"], setting) == [], "whole models are trained at S alone"
    grown = plan(["M8k", "S"], ["growth"], Setting(torch.device("cuda"), torch.bfloat16))
    assert len(grown) == 1 + 6 + 5 and {j.shape.name for j in grown} == {"grown"}
    written = plan(["S"], ["decode"], Setting(torch.device("cuda"), torch.bfloat16))
    assert len(written) == 6 * 4 and written[4].name == "host, graph, batch 1"
    assert grown[6].name == f"{1 << 24} slots, 32 reads"


@pytest.mark.parametrize("name", SHAPES)
def test_every_layer_and_model_can_be_built(name):
    shape = SHAPES[name]
    with torch.device("meta"):
        for fusion in shape.fusions:
            assert MemoryLayer(shape, fusion).bank.values.shape == (shape.n_slots, shape.d_value)
    for changes in shape.models.variants.values() if shape.models else ():
        assert ModelConfig.model_validate({**shape.models.model, **changes}).d_model == shape.d_model


@pytest.mark.parametrize("name", SHAPES)
def test_sizes_are_told_in_one_line(name):
    told = SHAPES[name].described("layers")
    assert f"{SHAPES[name].tokens:,} tokens" in told and "\n" not in told
