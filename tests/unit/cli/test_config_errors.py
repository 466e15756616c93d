"""A wrong configuration at the command line: every problem, exit code 2, and nothing has been touched."""

import subprocess
import sys

import pytest

BAD = """\
data: {corpus: corpus.jsonl, vocab_size: 3}
train: {steps: 4, lrr: 1}
variants: {a: {memory: {type: prodct_key}}}
"""


def memlm(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "memlm.cli.main", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_wrong_file_is_told_whole_and_nothing_is_run(tmp_path, command):
    (tmp_path / "bad.yaml").write_text(BAD, encoding="utf-8")
    done = memlm(tmp_path, command, "bad.yaml", "-o", "train.lr=.nan", "-o", "seeds")
    assert done.returncode == 2
    assert done.stdout == ""
    assert (
        done.stderr
        == """\
error: bad.yaml: 5 problems, nothing was run
  bad.yaml:1  data.vocab_size = 3  Input should be greater than or equal to 272
  bad.yaml:2  train.lrr = 1  TrainConfig has no such field. Did you mean 'lr'?
  bad.yaml:3  variants.a.memory.type = 'prodct_key'  unknown memory 'prodct_key'. Did you mean 'product_key'? \
Known: ngram_embedding, ngram_hash, product_key, product_key_batch_norm, product_key_relu, product_key_sigmoid.
  -o seeds  must read dotted.path=value, such as train.lr=1e-3
  -o train.lr=.nan  train.lr = nan  Input should be a finite number
"""
    )
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_file_that_nests_without_end(tmp_path):
    (tmp_path / "bad.yaml").write_text("x: " + "[" * 1000, encoding="utf-8")
    done = memlm(tmp_path, "run", "bad.yaml", "--runs", "runs")
    assert done.returncode == 2
    assert (
        done.stderr
        == """\
error: bad.yaml: 1 problem, nothing was run
  is not valid YAML: nests more than 32 levels deep
"""
    )
    assert not (tmp_path / "runs").exists()


def test_a_wrong_file_is_not_started_in_the_background(tmp_path):
    (tmp_path / "bad.yaml").write_text(BAD, encoding="utf-8")
    done = memlm(tmp_path, "run", "bad.yaml", "--detach")
    assert done.returncode == 2 and "3 problems, nothing was run" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]
