"""Runs that other versions of memlm recorded: which of them have the settings of an experiment, and which have not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from fabricate import edit_record

from memlm.errors import RunError
from memlm.experiment import run as run_module
from memlm.experiment.begun import refuse_other_settings, refuse_strangers
from memlm.experiment.compare import compare
from memlm.experiment.config import load_experiment
from memlm.experiment.match import recall_steps, solve_widths
from memlm.experiment.reading import read_experiment
from memlm.experiment.record import config_hash
from memlm.experiment.run import Watcher, run_experiment
from tests.told import one_line

ROOT = Path(__file__).parents[3]
RECORDS = {
    "pays": "configs/pays.yaml",  # of versions without train.shard and train.values_on; two steps were solved by time
    **{name: f"configs/studies/{name}.yaml" for name in ("healthy", "healthy_long", "signs", "values16", "wiring")},
}


def copied(name, folder):
    """Copies what `memlm run` looks at, so that nothing could touch the records themselves."""
    for path in (ROOT / "experiments" / name).glob("**/*"):
        if path.name in ("experiment.json", "config.yaml", "record.json"):
            copy = folder / path.relative_to(ROOT / "experiments")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return folder / name


def resolved(path, folder, overrides=()):
    config, _ = solve_widths(load_experiment(ROOT / path, overrides))
    return recall_steps(config, run_module._solutions(folder, config))[0]


@pytest.mark.parametrize("name", RECORDS)
def test_the_records_of_earlier_versions_count_as_finished(name, tmp_path):
    folder = copied(name, tmp_path)
    config = resolved(RECORDS[name], folder)
    refuse_other_settings(config, folder)
    refuse_strangers(config, folder)
    runs, done = read_experiment(folder).finished(), []
    for run in runs:  # the text is not here, so each is asked with the text that it has recorded
        text = run.record.data
        prepared = SimpleNamespace(
            config=config,
            folder=folder,
            data=SimpleNamespace(fingerprint=text.fingerprint),
            data_record={"questions": text.questions},
            watcher=Watcher(finished=lambda name, results: done.append((name, results))),
        )
        run_module._run_if_needed(prepared, run.record.variant, run.record.seed)
    assert runs and done == [(run.name, {}) for run in runs]


def test_records_of_other_settings_are_refused(tmp_path):
    folder = copied("pays", tmp_path)
    other = resolved(RECORDS["pays"], folder, ["train.shard=bank"])
    with pytest.raises(RunError, match=r"memory-s21 is a finished run with other settings \(train\.shard\); give this"):
        refuse_other_settings(other, folder)


@pytest.fixture(scope="module")
def once(corpus, tmp_path_factory):
    from tests.conftest import experiment_yaml

    folder = tmp_path_factory.mktemp("settings")
    config = load_experiment(
        experiment_yaml.__wrapped__(corpus, folder), ["hypotheses=[]", "seeds=[0]", "variants={dense: {}}"]
    )
    return run_experiment(config, folder / "runs", progress=False), config


@pytest.fixture
def made(once, tmp_path):
    """A copy of a finished experiment's folder, and its configuration."""
    folder, config = once
    return shutil.copytree(folder, tmp_path / "tiny"), config


def rewrite(run, change):
    """Makes a run one whose settings were others from the beginning."""
    path = run / "config.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(settings)
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    edit_record(run, config_hash=config_hash(settings))


def older(settings):
    """Takes away what a version before these settings did not record."""
    del settings["train"]["shard"], settings["evaluate"]["questions"], settings["model"]["experts"]


def test_a_setting_that_was_added_since_leaves_a_finished_run_finished(made):
    folder, config = made
    rewrite(folder / "dense-s0", older)
    before, done = (folder / "dense-s0" / "record.json").read_text(), []
    watcher = Watcher(finished=lambda name, results: done.append((name, bool(results))))
    run_experiment(config.model_copy(update={"seeds": [0, 1]}), folder.parent, watcher, progress=False)
    assert done == [("dense-s0", False), ("dense-s1", True)]
    assert (folder / "dense-s0" / "record.json").read_text() == before
    assert not [told for told in compare(read_experiment(folder)).warnings if "Not comparable" in told]
    run_experiment(config.model_copy(update={"seeds": [1]}), folder.parent, progress=False)  # the older is a stranger


def test_a_recorded_value_that_was_the_default_then_is_no_other_ones(made):
    folder, config = made
    rewrite(folder / "dense-s0", lambda settings: settings["train"].update(clip=0.5))
    with pytest.raises(RunError, match=r"dense-s0 is a finished run with other settings \(train\.clip\); give"):
        run_experiment(config, folder.parent, progress=False)
    with pytest.raises(RunError, match=r"dense-s0 was run with other settings \(train\.clip\), and an experiment has"):
        run_experiment(config.model_copy(update={"seeds": [1]}), folder.parent, progress=False)


def test_a_setting_that_is_gone_is_named_in_one_line(made):
    folder, config = made
    rewrite(folder / "dense-s0", lambda settings: settings["train"].update(shards="none"))
    with pytest.raises(RunError) as raised:
        run_experiment(config, folder.parent, progress=False)
    hint = "train.shards: TrainConfig has no such field. Did you mean 'shard'?"
    one_line(raised.value, f"is a finished run with other settings ({hint}); give this experiment another name")


def test_a_config_that_was_changed_lost_or_damaged_since_is_not_the_runs(made):
    folder, config = made
    rewrite(folder / "dense-s0", older)
    edit_record(folder / "dense-s0", config_hash="another")
    with pytest.raises(RunError, match=r"other settings \(its config\.yaml was changed since\)"):
        run_experiment(config, folder.parent, progress=False)
    path = folder / "dense-s0" / "config.yaml"
    path.unlink()
    with pytest.raises(RunError, match=r"other settings \(.*config\.yaml: there is no such file\)"):
        run_experiment(config, folder.parent, progress=False)
    path.write_text("train: [", encoding="utf-8")
    with pytest.raises(RunError) as raised:
        run_experiment(config, folder.parent, progress=False)
    one_line(raised.value, "dense-s0 is a finished run with other settings (", "config.yaml:")


@pytest.mark.parametrize("change", [lambda s: s["train"].update(clip=0.5), older], ids=["a value", "left out"])
def test_a_config_that_was_edited_alone_is_refused(made, change):
    folder, config = made
    recorded = (folder / "dense-s0" / "record.json").read_text()
    rewrite(folder / "dense-s0", change)
    (folder / "dense-s0" / "record.json").write_text(recorded, encoding="utf-8")
    with pytest.raises(RunError) as raised:
        run_experiment(config, folder.parent, progress=False)
    one_line(raised.value, "dense-s0 is a finished run with other settings (its config.yaml was changed since); give")


def test_another_model_is_refused_beside_a_known_variant_alone(made):
    folder, config = made
    small = config.variants["dense"]
    deep = small.model_copy(update={"n_layers": small.n_layers + 1})
    with pytest.raises(RunError) as raised:
        run_experiment(config.model_copy(update={"seeds": [77], "variants": {"dense": deep}}), folder.parent)
    told = one_line(raised.value, "dense-s0 was run with other settings (model.n_layers), and an experiment has one")
    assert "  " not in told
    refuse_strangers(config.model_copy(update={"variants": {"deep": deep}}), folder)


def test_without_its_config_a_run_of_this_version_is_known_by_its_hash(made):
    folder, config = made
    (folder / "dense-s0" / "config.yaml").unlink()
    run_experiment(config, folder.parent, progress=False)
    assert json.loads((folder / "dense-s0" / "record.json").read_text())["status"] == "finished"
