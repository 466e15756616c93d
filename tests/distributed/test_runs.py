"""`memlm run` under torchrun: one process tells, writes and evaluates; the others train with it."""

import json

import pytest
import torch

from memlm.cli import main
from memlm.errors import FollowerError
from memlm.experiment import followers
from memlm.experiment.config import load_experiment
from memlm.experiment.run import run_experiment
from tests.distributed.launch import torchrun

TWO_VARIANTS = ("-o", "seeds=[0]", "-o", "variants.cross_attention.train.steps=4")


def results(folder):
    return json.loads((folder / "record.json").read_text())["results"]


def test_an_experiment_over_two_processes(experiment_yaml, tmp_path):
    ended = torchrun(2, "memlm.cli.main", "run", experiment_yaml, *TWO_VARIANTS, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("memlm run tiny") == 1, "more than one process prints"
    config = load_experiment(experiment_yaml, [word for word in TWO_VARIANTS if word != "-o"])
    run_experiment(config, tmp_path / "alone", progress=False)
    for variant in config.variants:
        found, expected = (results(root / "tiny" / f"{variant}-s0") for root in (tmp_path / "runs", tmp_path / "alone"))
        for metric in ("validation_loss", "train_loss", "train_subset_loss"):
            assert found[metric] == pytest.approx(expected[metric], rel=1e-4)
    record = json.loads((tmp_path / "runs" / "tiny" / "dense-s0" / "record.json").read_text())
    assert record["device"]["name"].endswith(", 2 ranks")


@pytest.mark.parametrize(
    ("rank", "arguments", "told"),
    [
        ("0", ["ps"], "error: memlm ps is one process; start it without a launcher\n"),
        ("1", ["ps"], ""),
        (
            "0",
            ["run", "{yaml}", "--detach"],
            "error: --detach is for one process; leave it out",
        ),
        ("1", ["run", "{yaml}", "-o", "train.lr=no"], ""),
    ],
)
def test_what_is_refused_under_a_launcher_is_told_once(rank, arguments, told, experiment_yaml, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2"), monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("MASTER_ADDR", "localhost"), monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setattr("sys.argv", ["memlm", *(word.format(yaml=experiment_yaml) for word in arguments)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code != 0
    error = capsys.readouterr().err
    assert error.startswith(told) and bool(error) == bool(told)


def test_a_batch_that_the_processes_cannot_share_is_refused(experiment_yaml, tmp_path):
    ended = torchrun(3, "memlm.cli.main", "run", experiment_yaml, cwd=tmp_path)
    assert ended.returncode == 1
    told = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert told == [
        "error: train.batch_size is 4, and 3 processes cannot have equal shares of it; make it a multiple, or start "
        "another number of processes"
    ]


def test_a_follower_without_memory_left_tells_so_in_one_line(experiment_yaml, monkeypatch):
    def run_out(_order):
        raise torch.OutOfMemoryError("CUDA out of memory")

    order = followers.Order(load_experiment(experiment_yaml), "dense", 0, "", None)
    monkeypatch.setattr(followers.dist, "broadcast_object_list", lambda told, src: told.__setitem__(src, order))
    monkeypatch.setattr(followers, "_train", run_out)
    with pytest.raises(FollowerError, match=r"^rank 0: out of memory; halve train\.batch_size"):
        followers.follow(order.config)
