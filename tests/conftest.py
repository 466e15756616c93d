"""What all tests share: a small text, its experiment, and a cache of their own."""

import json
import os
import random
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when triton is imported: kernels then run on the CPU

pytest_plugins = ["tests.reliability"]


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="Write the files of tests/golden anew.")


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("update_golden"):
        from tests.golden.wirings import digest

        terminalreporter.write_line(f"golden files written; say why in CHANGELOG.md, with `golden: {digest()}`")


SYLLABLES = ["ka", "lo", "mi", "ten", "ur", "sha", "bel", "dor", "ix", "pa", "ru", "vel", "on", "ta", "ge"]


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("MEMLM_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def _gpu_as_found(request):
    """accelerate keeps one state for the process, which a test of another precision would contradict."""
    if request.node.get_closest_marker("gpu"):
        AcceleratorState._reset_state(reset_partial_state=True)
    yield
    if request.node.get_closest_marker("gpu"):
        torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """300 documents of made-up words with some order in them; seeded."""
    draw = random.Random(0)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(120)]
    followers = {word: draw.sample(words, 4) for word in words}
    path = tmp_path_factory.mktemp("text") / "corpus.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for _ in range(300):
            text = [draw.choice(words)]
            for _ in range(60):
                text.append(draw.choice(followers[text[-1]]))
            file.write(json.dumps({"text": " ".join(text) + "。"}, ensure_ascii=False) + "\n")
    return path


MEMORY = "{type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3, n_heads: 2}"


@pytest.fixture
def experiment_yaml(corpus, tmp_path) -> Path:
    """A complete experiment that trains in seconds."""
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""\
data: {{corpus: {corpus}, vocab_size: 320, seq_len: 16, validation_share: 0.1, judge_share: 0.1}}
model: {{d_model: 32, n_layers: 2, n_heads: 2, n_kv_heads: 1}}
train: {{steps: 6, batch_size: 4, lr: 5.0e-3, log_every: 2, evaluate_every: 3, memory_every: 3}}
evaluate: {{tokens: 2k, train_tokens: 500, samples: 4, prompt_tokens: 4, new_tokens: 8}}
variants:
  dense: {{}}
  cross_attention: {{memory: {MEMORY}, fusion: {{type: cross_attention, n_heads: 4}}}}
  gated_mlp: {{memory: {MEMORY}, fusion: {{type: gated_mlp}}}}
seeds: [0, 1]
hypotheses:
  - {{name: connection, claim: gated_mlp < cross_attention, margin: 0.05}}
""",
        encoding="utf-8",
    )
    return path
