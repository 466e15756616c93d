"""On a GPU a run repeats and resumes bit for bit with train.deterministic, and a preflight tries the GPU's kernels."""

import pytest
import torch

from memlm.experiment.config import load_experiment
from memlm.experiment.run import run_experiment
from memlm.train.preflight import preflight
from tests.resume.kills import outcome
from tests.resume.test_kills import config as write_config
from tests.resume.test_resume import broken_off

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("fusion", ["gated_mlp", "cross_attention", "weighted_sum"])
def test_a_run_that_is_broken_off_gives_the_same_bits(corpus, tmp_path, fusion, precision):
    overrides = [
        "train.deterministic=true",
        f"train.precision={precision}",
        f"variants.memory.fusion={{type: {fusion}}}",
    ]
    config = load_experiment(write_config(corpus, tmp_path, 12), overrides)
    untouched = outcome(run_experiment(config, tmp_path / "untouched", progress=False) / "memory-s0")
    broken_off(config, tmp_path / "broken")
    assert outcome(run_experiment(config, tmp_path / "broken", progress=False) / "memory-s0") == untouched


def test_values_of_16_bits_get_the_same_bits_after_a_break(corpus, tmp_path):
    narrow = "variants.memory.memory.bank={type: vectors, dtype: bfloat16}"
    config = load_experiment(write_config(corpus, tmp_path, 12), ["train.deterministic=true", narrow])
    untouched = outcome(run_experiment(config, tmp_path / "untouched", progress=False) / "memory-s0")
    broken_off(config, tmp_path / "broken")
    assert outcome(run_experiment(config, tmp_path / "broken", progress=False) / "memory-s0") == untouched


def test_the_operations_of_the_gpu_are_tried(corpus, tmp_path):
    config = load_experiment(write_config(corpus, tmp_path, 12))
    report = preflight(config.variants["memory"], config.train, device=torch.device("cuda"), use_cache=False)
    assert report.faults == []
    assert next(outcome for outcome in report.outcomes if outcome.check == "kernels").status == "passed"
