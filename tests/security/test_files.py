"""What a run and the cache leave on the disk: known kinds of files, none of them a pickle or an archive of pickles."""

from pathlib import Path

import pytest

from memlm.experiment.config import load_experiment
from memlm.experiment.run import run_experiment
from memlm.report.page import write_report

KINDS = {".bin", ".html", ".jinja", ".json", ".jsonl", ".lock", ".md", ".patch", ".safetensors", ".txt", ".yaml"}
PICKLES = (b"PK\x03\x04", *(b"\x80" + bytes([protocol]) for protocol in range(2, 6)), b"\x93NUMPY", b"\x1f\x8b")
# Numbers alone, in which any bytes may come first.
RAW = {"train.bin", "validation.bin", "judge.bin"}


def is_suspect(path: Path) -> bool:
    kind = path.suffix or path.name
    return kind not in KINDS or (path.name not in RAW and path.read_bytes()[:8].startswith(PICKLES))


@pytest.fixture(scope="module")
def left_behind(corpus, tmp_path_factory):
    from tests.conftest import experiment_yaml

    folder = tmp_path_factory.mktemp("files")
    overrides = ["seeds=[0]", "train.save_every=3", "train.profile_every=3"]
    config = load_experiment(experiment_yaml.__wrapped__(corpus, folder), overrides)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMLM_CACHE", str(folder / "cache"))
        write_report(run_experiment(config, folder / "runs", progress=False))
    return [path for part in ("runs", "cache") for path in (folder / part).rglob("*") if path.is_file()]


def test_nothing_that_is_left_behind_is_a_pickle(left_behind):
    names = {path.name for path in left_behind}
    assert {"model.safetensors", "record.json", "trace.json", "report.html", "train.bin"} <= names
    assert [path for path in left_behind if is_suspect(path)] == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.pt", b""), ("a.json", b"\x80\x04\x95"), ("model.safetensors", b"PK\x03\x04zip"), ("pickled", b"{}")],
)
def test_a_planted_one_is_seen(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    assert is_suspect(tmp_path / name)
