"""SIGKILL at any moment costs nothing: the run goes on and gives the same bits."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def config(corpus, folder, steps):
    path = folder / "killed.yaml"
    path.write_text(
        f"""\
data: {{corpus: {corpus}, vocab_size: 320, seq_len: 16, validation_share: 0.1, judge_share: 0.1}}
model: {{d_model: 32, n_layers: 2, n_heads: 2}}
train:
  {{steps: {steps}, batch_size: 4, accumulation: 2, lr: 5.0e-3, log_every: 1, evaluate_every: 5, save_every: 2,
   keep_best: 1, train_values_epochs: 1}}
evaluate: {{tokens: 1k, train_tokens: 500, samples: 2, prompt_tokens: 4, new_tokens: 8}}
variants:
  memory:
    memory: {{type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3}}
    fusion: {{type: gated_mlp}}
seeds: [0]
""",
        encoding="utf-8",
    )
    return path


def survive(corpus, folder, record_property, kills, steps, seed):
    command = [sys.executable, "-m", "tests.resume.kills", config(corpus, folder, steps), folder, kills, seed]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout.splitlines()[-1])
    note = f"{summary['in_saves']} inside a save, {summary['runs']} runs, all bits equal"
    row = {"what": "kills survived", "tried": kills, "good": summary["kills"], "note": note}
    record_property("reliability", row)
    assert summary["differing"] == []
    assert summary["kills"] >= kills
    assert summary["in_saves"] >= kills // 10, "too few kills met a save to say anything about saves"


def test_a_killed_run_gives_the_same_bits(corpus, tmp_path, record_property):
    survive(corpus, tmp_path, record_property, kills=24, steps=30, seed=0)


@pytest.mark.torture
def test_many_kills(corpus, tmp_path, record_property):
    survive(corpus, tmp_path, record_property, kills=400, steps=60, seed=1)
