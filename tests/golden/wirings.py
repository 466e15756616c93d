"""What wirings of every type start from and how their first steps go, as numbers that are kept in files."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from tests.contract.test_wirings import EACH_TYPE, SHAPE, VOCABULARY, settings

FOLDER = Path(__file__).parent
STEPS, SEQ_LEN, BATCH_SIZE = 20, 32, 8


MODELS = {
    "dense": {},
    "experts": {"experts": {"n_experts": 4}},
    "untied": {"tie_embeddings": False},
    **{f"{w['memory']}-{w['fusion']}-{w['placement']}": settings(w) for w in EACH_TYPE},
}
"""The configuration of each wiring, by the name of its file."""


def path_of(name: str) -> Path:
    return FOLDER / f"{name}.json"


def digest() -> str:
    """Returns what stands in the changelog for all files together."""
    content = b"".join(path.name.encode() + path.read_bytes() for path in sorted(FOLDER.glob("*.json")))
    return hashlib.sha256(content).hexdigest()[:8]


def corpus() -> np.ndarray:
    """Returns 8,001 tokens, most of which are one of the four followers of the one before; made from a seed."""
    draw = np.random.default_rng(0)
    followers = draw.integers(0, VOCABULARY, size=(VOCABULARY, 4))
    tokens = [0]
    for choice in draw.integers(0, 5, size=8000):
        tokens.append(int(followers[tokens[-1], choice]) if choice < 4 else int(draw.integers(0, VOCABULARY)))
    return np.array(tokens, dtype=np.uint16)


def measured(name: str, folder: Path) -> dict:
    """Returns the parameters of a new model and the losses of its first steps, on the CPU and one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        model = MemlmForCausalLM(MemlmConfig(model=SHAPE | MODELS[name], vocab_size=VOCABULARY, pad_token_id=1))
        parameters = {key: _summary(parameter) for key, parameter in model.named_parameters()}
        return {"parameters": parameters, "losses": _losses(model, folder)}
    finally:
        torch.set_num_threads(threads)


def _summary(parameter: torch.Tensor) -> dict:
    values = parameter.detach().flatten().double()
    return {
        "shape": list(parameter.shape),
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "first": values[:3].tolist(),
    }


def _losses(model: MemlmForCausalLM, folder: Path) -> list[float]:
    losses = []
    # Steps so small that rounding stays rounding, and a decay so large that its loss would show.
    settings = {"steps": STEPS, "batch_size": BATCH_SIZE, "lr": 3e-3, "weight_decay": 1.0, "device": "cpu"}
    config = TrainConfig(**settings, evaluate_every=0, memory_every=0)
    hooks = Hooks(progress=lambda _step, loss, _speed: losses.append(loss))
    with MetricLog(folder / "metrics.jsonl", []) as log:
        train(model, Sampler(corpus(), SEQ_LEN, BATCH_SIZE, 0), config, log, hooks, folder)
    return losses
