"""A run repeated from its record."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from fabricate import edit_record
from typer.testing import CliRunner

from memlm.cli.main import app
from memlm.errors import RunError
from memlm.experiment import rerun as rerun_module
from memlm.experiment.config import load_experiment
from memlm.experiment.reading import read_run
from memlm.experiment.record import CodeState, config_hash
from memlm.experiment.rerun import LOSS_TOLERANCE, QUALITY_TOLERANCE, compare_runs, plan_rerun, recorded_config
from memlm.experiment.run import run_experiment
from memlm.fill.database import fingerprint_of

ONE = ["seeds=[1]", "hypotheses=[]", "variants.dense={}"]


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """The tiny experiment with one seed, run once for all tests."""
    from tests.conftest import experiment_yaml

    folder = tmp_path_factory.mktemp("rerun")
    config = load_experiment(experiment_yaml.__wrapped__(corpus, folder), ONE)
    return run_experiment(config, folder / "runs", progress=False) / "gated_mlp-s1"


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the gated MLP's run, to be spoilt."""
    return shutil.copytree(finished, tmp_path / "tiny" / finished.name)


def edit_settings(run, section, **changes):
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section] |= changes
    path.write_text(yaml.safe_dump(config))
    edit_record(run, config_hash=config_hash(config))


def edit_metrics(run, edit):
    path = run / "metrics.jsonl"
    lines = [edit(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line))


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def apart(rows):
    return [row.what for row in rows if not row.agrees]


def test_a_rerun_gives_the_same_bits_and_leaves_the_record_alone(run):
    before = content(run)
    plan = plan_rerun(run, progress=False)
    assert plan.obstacles == []
    rows = plan.execute(progress=False)
    assert apart(rows) == [] and {row.difference for row in rows} == {0.0}
    assert [row.what.split(",")[0] for row in rows[:-1]] == [
        "training loss",
        "evaluation loss",
        "validation_loss",
        "train_loss",
        "train_subset_loss",
        "memory_off_loss",
        "memory_shuffled_loss",
        "quality.score",
    ]
    assert re.fullmatch(r"\d+ other results, .*", rows[-1].what), "usage and what generated text is like"
    assert "3 values" in rows[0].what and "2 values" in rows[1].what
    assert content(run) == before
    assert plan.folder == run.parent / ".rerun" / "tiny" / "gated_mlp-s1"
    assert read_run(plan.folder).is_finished
    with pytest.raises(
        RunError, match=r"gated_mlp-s1 is there already, and a rerun replaces nothing; remove it, or ch"
    ):
        plan_rerun(run, progress=False)


def test_an_experiment_is_no_run(run):
    (run.parent / "experiment.json").write_text("{}")
    with pytest.raises(RunError, match=r"tiny is an experiment; give the folder of one of its runs: .*gated_mlp-s1"):
        plan_rerun(run.parent, progress=False)


def test_the_recorded_run_is_never_the_place_of_its_rerun(run, monkeypatch):
    for root in (run.parent.parent, run, run / "again"):
        with pytest.raises(RunError, match="lies in the recorded run, which is only read; choose another --runs"):
            plan_rerun(run, root, progress=False)
    monkeypatch.chdir(run)
    assert plan_rerun(Path(), progress=False).folder == run.parent / ".rerun" / "tiny" / run.name


def test_nor_is_the_recorded_experiment(run):
    renamed = run.rename(run.with_name("kept"))
    with pytest.raises(RunError, match="tiny is the recorded experiment, which is only read; choose another --runs"):
        plan_rerun(renamed, run.parent.parent, progress=False)


def test_other_questions_are_refused(run, tmp_path):
    (tmp_path / "asked.jsonl").write_text('{"text": "kalo mi", "answer": "mi"}\n')
    edit_settings(run, "evaluate", question_file=str(tmp_path / "asked.jsonl"))
    with pytest.raises(
        RunError, match=r"other questions are asked now than were recorded; bring the recorded .*asked\.j"
    ):
        plan_rerun(run, progress=False)


def test_a_database_that_changed_is_refused(run, tmp_path):
    (tmp_path / "facts.jsonl").write_text('"ka lo"\n')
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"]["memory"]["bank"] = {"type": "tokens", "database": str(tmp_path / "facts.jsonl")}
    path.write_text(yaml.safe_dump(config))
    with pytest.raises(RunError, match=r"the file of bank\.database has changed; bring the recorded one back"):
        plan_rerun(run, progress=False)
    edit_record(run, data={"database": fingerprint_of(tmp_path / "facts.jsonl")})
    plan_rerun(run, progress=False)


@pytest.mark.parametrize(("setting", "value"), [("precision", "bf16"), ("device", "cuda")])
def test_a_device_that_is_not_here_is_told_without_an_option_that_rerun_has_not(setting, value, run, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    edit_settings(run, "train", **{setting: value})
    edit_record(run, device={"kind": "cuda", "name": "NVIDIA H200"})
    with pytest.raises(RunError) as told:
        plan_rerun(run, progress=False)
    assert f"train.{setting} is {value}" in str(told.value) and "-o " not in str(told.value)
    assert str(told.value).endswith("repeat it on a machine like the recorded one, NVIDIA H200 (cuda)")


@pytest.mark.parametrize(
    ("share", "exact", "near"),
    [(0.0, [], []), (1e-15, ["training loss"], []), (0.05, ["training loss"], ["training loss"])],
)
def test_one_loss_that_is_off_is_seen(run, finished, share, exact, near):
    def edit(line):
        return line | {"train/loss": line["train/loss"] * (1 + share)} if line["step"] == 4 else line

    edit_metrics(run, edit)
    for is_exact, expected in ((True, exact), (False, near)):
        rows = compare_runs(read_run(finished), read_run(run), is_exact)
        assert [what.split(",")[0] for what in apart(rows)] == expected
    assert share == 0 or "step 4" in rows[0].what


def test_a_value_that_only_one_of_them_has_does_not_agree(run, finished):
    edit_metrics(run, lambda line: None if line["step"] == 6 else line)
    edit_record(run, results={"memory_off_loss": None})
    for pair in ((finished, run), (run, finished)):
        for is_exact in (True, False):
            rows = compare_runs(*map(read_run, pair), is_exact)
            assert [what.split(",")[0] for what in apart(rows)] == [
                "training loss",
                "evaluation loss",
                "memory_off_loss",
            ]
            assert all(row.difference is None for row in rows if not row.agrees)


def test_after_a_resume_the_later_line_counts(run, finished):
    path = run / "metrics.jsonl"
    path.write_text('{"step": 4, "tokens": 256, "train/loss": 99.0}\n' + path.read_text())
    assert apart(compare_runs(read_run(finished), read_run(run), is_exact=True)) == []


def test_times_and_memory_never_count_and_quality_has_its_own_tolerance(run, finished):
    score = read_run(finished).result("quality.score")
    edit_record(run, results={"time_s": 1e9, "tokens_per_s": 1.0, "peak_memory_gib": 1e3, "evaluate_time_s": 1e9})
    assert apart(compare_runs(read_run(finished), read_run(run), is_exact=True)) == []
    quality = json.loads((run / "record.json").read_text())["results"]["quality"]
    for off, expected in ((0.9 * QUALITY_TOLERANCE, []), (1.1 * QUALITY_TOLERANCE, ["quality.score"])):
        edit_record(run, results={"quality": quality | {"score": score + off}})
        assert apart(compare_runs(read_run(finished), read_run(run), is_exact=False)) == expected
        assert apart(compare_runs(read_run(finished), read_run(run), is_exact=True)) == ["quality.score"]


def test_every_other_result_counts_where_equal_bits_are_expected(run, finished):
    used = read_run(run).record.results["usage"]
    used["1"]["share_read"] += 1e-12
    edit_record(run, results={"usage": used})
    assert apart(compare_runs(read_run(finished), read_run(run), is_exact=False)) == []
    (told,) = apart(compare_runs(read_run(finished), read_run(run), is_exact=True))
    assert told.endswith("other results, usage.1.share_read")


def test_the_tolerance_of_losses_is_relative_on_either_side(run, finished):
    loss = read_run(finished).result("validation_loss")
    for share, expected in ((0.99, []), (1.01, ["validation_loss"])):
        for sign in (1, -1):
            edit_record(run, results={"validation_loss": loss * (1 + sign * share * LOSS_TOLERANCE)})
            assert apart(compare_runs(read_run(finished), read_run(run), is_exact=False)) == expected


@pytest.mark.parametrize(
    ("changes", "obstacle"),
    [
        ({"device": {"name": "another, 8 threads"}}, r"the device is .*, recorded another, 8 threads \(cpu\)"),
        ({"versions": {"torch": "2.0.0"}}, r"torch is .*, recorded 2\.0\.0"),
        ({"versions": {"python": "3.5.1"}}, r"python is 3\.\d+, recorded 3\.5"),
        ({"versions": {"memlm": "0.0.1"}}, r"memlm is .*, recorded 0\.0\.1"),
        ({"commit": "0" * 40}, r"memlm's commit is .*, recorded 0{40}"),
        ({"config_hash": "another"}, r"config\.yaml was changed after the run"),
    ],
)
def test_what_may_change_the_bits_is_named(run, changes, obstacle):
    edit_record(run, **changes)
    plan = plan_rerun(run, progress=False)
    assert not plan.is_exact
    (found,) = plan.obstacles
    assert re.fullmatch(obstacle, found)


def test_a_commit_that_was_recorded_in_short_is_the_same(run, monkeypatch):
    edit_record(run, commit="0123456")
    state = rerun_module.code_state()
    monkeypatch.setattr(rerun_module, "code_state", lambda: CodeState("0123456" + "f" * 33, state.difference))
    assert plan_rerun(run, progress=False).is_exact


def test_a_patch_of_python_changes_nothing(run):
    version = json.loads((run / "record.json").read_text())["versions"]["python"]
    edit_record(run, versions={"python": version.rpartition(".")[0] + ".99"})
    assert plan_rerun(run, progress=False).is_exact


def test_another_uncommitted_difference_is_named(run, monkeypatch):
    state = rerun_module.code_state()
    monkeypatch.setattr(rerun_module, "code_state", lambda: CodeState(state.commit, state.difference + "+more\n"))
    assert plan_rerun(run, progress=False).obstacles == [
        "memlm's uncommitted difference is not the recorded one (diff.patch)"
    ]
    (run / "diff.patch").write_text(state.difference + "+more\n")
    assert plan_rerun(run, progress=False).is_exact


@pytest.mark.parametrize(
    ("kind", "settings", "is_exact"),
    [
        ("cuda", {}, False),
        ("cuda", {"deterministic": True}, True),
        ("mps", {"deterministic": True}, False),
        ("cpu", {"compile": True}, False),
    ],
)
def test_a_gpu_is_exact_when_it_is_deterministic_and_nothing_is_compiled(run, monkeypatch, kind, settings, is_exact):
    edit_settings(run, "train", **settings)
    edit_record(run, device={"kind": kind, "name": "it"})
    monkeypatch.setattr(rerun_module, "device_record", lambda _: {"kind": kind, "name": "it"})
    plan = plan_rerun(run, progress=False)
    assert plan.is_exact == is_exact
    if not is_exact:
        (obstacle,) = plan.obstacles
        assert obstacle in (
            f"sums on {kind} have no fixed order without train.deterministic: true",
            "train.compile is on, and the compiler promises no order of sums",
        )


@pytest.mark.parametrize(
    "changes", [{"status": "running"}, {"status": "interrupted"}, {"status": "failed"}, {"data": None}]
)
def test_an_unfinished_run_is_refused(run, changes):
    edit_record(run, **changes)
    status = changes.get("status", "finished")
    with pytest.raises(RunError, match=rf"is no finished run \(status: {status}\); memlm run goes on with it"):
        plan_rerun(run, progress=False)


def test_other_text_is_refused(run, tmp_path, corpus):
    (tmp_path / "other.jsonl").write_text(corpus.read_text() + '{"text": "one more document"}\n')
    edit_settings(run, "data", corpus=str(tmp_path / "other.jsonl"))
    with pytest.raises(RunError, match=r"data\.corpus holds other text now \(fingerprint \w{16}, recorded \w{16}\)"):
        plan_rerun(run, progress=False)


def test_the_same_text_may_have_moved(run, tmp_path, corpus):
    shutil.copyfile(corpus, tmp_path / "moved.jsonl")
    edit_settings(run, "data", corpus=str(tmp_path / "moved.jsonl"))
    assert plan_rerun(run, progress=False).is_exact


def test_another_tokenizer_is_refused(run):
    edit_record(run, data={"tokenizer_fingerprint": "another"})
    with pytest.raises(RunError, match=r"the same text gives another tokenizer here, .* made with tokenizers \d"):
        plan_rerun(run, progress=False)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("train", {"momentum": 0.9}, r"config\.yaml: train\.momentum: TrainConfig has no such field"),
        ("model", {"fusion": {"type": "gone"}}, r"variants\.gated_mlp\.fusion\.type: unknown fusion 'gone'"),
        ("data", {"seq_len": 1}, r"data\.seq_len: "),
    ],
)
def test_settings_of_another_version_are_refused(run, section, changes, message):
    edit_settings(run, section, **changes)
    with pytest.raises(RunError, match=rf"{message}.*; the run was made by memlm .*, commit .*: repeat it with that"):
        plan_rerun(run, progress=False)


def test_trackers_are_off_in_a_rerun_and_all_else_is_as_recorded(run):
    edit_settings(run, "train", trackers=["wandb", "swanlab"])
    recorded = read_run(run)
    config = recorded_config(recorded)
    assert config.train.trackers == []
    again = config.run_config("gated_mlp", 1)
    assert again == recorded.config | {"train": recorded.config["train"] | {"trackers": []}}


def memlm(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "160"})


def test_the_command_tells_what_is_expected_the_numbers_and_the_verdict(run):
    done = memlm("rerun", run)
    assert done.exit_code == 0, done.output
    assert "expected bit for bit" in done.stdout
    assert str(read_run(run).result("validation_loss")) in done.stdout
    assert done.stdout.splitlines()[-1] == "gated_mlp-s1 agrees bit for bit"


def test_numbers_that_do_not_agree_are_named_and_the_exit_code_is_1(run, tmp_path):
    loss = read_run(run).result("validation_loss")
    edit_record(run, results={"validation_loss": loss * 1.001})
    done = memlm("rerun", run, "--runs", tmp_path / "again")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "gated_mlp-s1 does NOT agree bit for bit: validation_loss"
    edit_record(run, versions={"torch": "2.0.0"})
    done = memlm("rerun", run, "--runs", tmp_path / "once_more")
    assert done.exit_code == 0
    assert "expected within 1% of each loss and 1 point of quality, not bit for bit:\n  torch is " in done.stdout
    assert done.stdout.splitlines()[-1] == "gated_mlp-s1 agrees within 1% of each loss and 1 point of quality"
