"""Evaluates trained models in ways that are wrong: which of them makes a gap to training as wide as the lineage's?

    python experiments/gap.py [CONFIG] [ROOT]

trains what CONFIG (experiments/gap.yaml) asks for into ROOT (runs), evaluates every run under each fault, and writes
ROOT/gap/faults.json and, from it, faults.md. Finished runs are not made again.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from memlm.bank.base import Bank
from memlm.data.tokenizer import load_tokenizer
from memlm.evaluate.loss import mean_loss, spread_sequences
from memlm.evaluate.statistics import interval
from memlm.experiment.config import load_experiment
from memlm.experiment.finished import Finished, open_finished
from memlm.experiment.models import new_model
from memlm.experiment.run import run_experiment
from memlm.experiment.schema import run_name
from memlm.memory.base import MemoryRead
from memlm.memory.product_key import ProductKeyConfig, ProductKeyMemory
from memlm.model.decoder import Decoder
from memlm.registry import MEMORIES
from memlm.storage import write_json, write_text


class PooledProductKeyConfig(ProductKeyConfig):
    """Product keys whose query is the mean over the sequence, later tokens too: public code of the lineage has it."""

    type: Literal["pooled_product_key"]  # pyright: ignore[reportIncompatibleVariableOverride]

    def build(self, d_model: int) -> PooledProductKeyMemory:
        """Returns the module."""
        return PooledProductKeyMemory(self, d_model)


class PooledProductKeyMemory(ProductKeyMemory):
    """Every token reads what the mean of all of them asks for."""

    def forward(self, hidden: Tensor, bank: Bank) -> MemoryRead:
        """Selects slots; hidden [B, T, D] -> slots and weights [B, T, H, K]."""
        return super().forward(hidden.mean(1, keepdim=True).expand_as(hidden), bank)


class Trained(NamedTuple):
    """A run, the held-out sequences [N, T + 1] and the same text as longer and shorter ones, and other text."""

    finished: Finished
    tokenizer: Tokenizer
    held_out: np.ndarray
    longer: np.ndarray
    shorter: np.ndarray
    code: np.ndarray

    @property
    def decoder(self) -> Decoder:
        """Its model."""
        return self.finished.model.decoder

    def loss(self, sequences: np.ndarray) -> float:
        """Returns the loss as it should be evaluated, nats per token."""
        return mean_loss(self.decoder, sequences, 32)


def cached(run: Trained) -> float:
    """Token by token, with the cache: what is pooled is the one token that is new."""
    tokens = torch.from_numpy(run.held_out)
    cache, losses = DynamicCache(), list[Tensor]()
    with torch.inference_mode():
        for t in range(tokens.shape[1] - 1):
            positions = torch.full((1, 1), t)
            hidden = run.decoder(tokens[:, t : t + 1], positions=positions, cache=cache).hidden[:, -1]
            losses.append(F.cross_entropy(F.linear(hidden, run.decoder.output_weight), tokens[:, t + 1]))
    return torch.stack(losses).mean().item()


def prefixes(run: Trained) -> float:
    """Token by token, each time with all tokens so far and without a cache."""
    tokens = torch.from_numpy(run.held_out)
    losses: list[Tensor] = []
    with torch.inference_mode():
        for t in range(1, tokens.shape[1]):
            hidden = run.decoder(tokens[:, :t]).hidden[:, -1]
            losses.append(F.cross_entropy(F.linear(hidden, run.decoder.output_weight), tokens[:, t]))
    return torch.stack(losses).mean().item()


def shifted_twice(run: Trained) -> float:
    """Against the token after the next one."""
    tokens = torch.from_numpy(run.held_out)
    with torch.inference_mode():
        logits = F.linear(run.decoder(tokens[:, :-2]).hidden, run.decoder.output_weight)
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 2:].flatten()).item()


def noisy(run: Trained, size: float) -> float:
    """With noise on the queries, whose halves are normed, in evaluation alone."""
    generator = torch.Generator().manual_seed(0)
    memories = [module for module in run.decoder.modules() if isinstance(module, ProductKeyMemory)]

    def add_noise(_module: object, _inputs: object, query: Tensor) -> Tensor:
        return query + size * query.std() * torch.randn(query.shape, generator=generator)

    handles = [memory.query.register_forward_hook(add_noise) for memory in memories]
    try:
        return run.loss(run.held_out)
    finally:
        for handle in handles:
            handle.remove()


def missing(run: Trained, part: str) -> float:
    """With every parameter whose name has ``part`` in it as a new model draws it."""
    with _redrawn(run, part):
        return run.loss(run.held_out)


@contextmanager
def _redrawn(run: Trained, part: str) -> Iterator[None]:
    (variant,) = run.finished.config.variants
    torch.manual_seed(1_000)
    drawn = new_model(run.finished.config, variant, run.tokenizer).decoder.state_dict()
    kept = {name: value.clone() for name, value in run.decoder.state_dict().items()}
    names = [name for name in kept if part in name]
    assert names, f"no parameter has {part} in its name"
    run.decoder.load_state_dict(kept | {name: drawn[name] for name in names})
    try:
        yield
    finally:
        run.decoder.load_state_dict(kept)


FAULTS: dict[str, Callable[[Trained], float]] = {
    "none": lambda run: run.loss(run.held_out),
    "token by token, cached": cached,
    "token by token, all tokens so far": prefixes,
    "sequences a quarter as long": lambda run: run.loss(run.shorter),
    "sequences four times as long": lambda run: run.loss(run.longer),
    "noise as large as the query": partial(noisy, size=1.0),
    "noise ten times as large": partial(noisy, size=10.0),
    "the bank is missing on reload": partial(missing, part="banks."),
    "the router is missing on reload": partial(missing, part=".memory."),
    "the fusion is missing on reload": partial(missing, part=".fusion."),
    "labels shifted twice": shifted_twice,
    "text from another source (code for prose)": lambda run: run.loss(run.code),
}
"""What is done wrong in evaluation; the first is nothing."""


def opened(folder: Path) -> Trained:
    """Opens a run with all the text that it is evaluated on."""
    finished = open_finished(folder, "evaluate")
    data, settings = finished.config.data, finished.config.evaluate
    tokenizer = load_tokenizer(finished.data.tokenizer, data.vocab_size)
    ids = finished.data.validation.ids
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted(_library().glob("*.py"))[:40])
    code = np.array(tokenizer.encode(source).ids)

    def cut(text: np.ndarray, length: int = data.seq_len) -> np.ndarray:
        return spread_sequences(text, length, settings.tokens)

    return Trained(finished, tokenizer, cut(ids), cut(ids, 4 * data.seq_len), cut(ids, data.seq_len // 4), cut(code))


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def main(config_path: Path, root: Path) -> None:
    """Trains, evaluates, writes."""
    MEMORIES.register(PooledProductKeyConfig)
    config = load_experiment(config_path)
    folder = run_experiment(config, root, progress=False, command=f"python experiments/gap.py {config_path}")
    found: list[dict[str, Any]] = []
    for seed in config.seeds:
        for variant in config.variants:
            run = opened(folder / run_name(variant, seed))
            train_loss = run.finished.run.result("train_loss")
            losses = {fault: evaluate(run) for fault, evaluate in FAULTS.items()}
            found.append({"variant": variant, "seed": seed, "train_loss": train_loss, "losses": losses})
    write_json(folder / "faults.json", found)
    write_text(folder / "faults.md", table(found))


def table(found: list[dict[str, Any]]) -> str:
    """Returns, as Markdown, each fault's gap: its loss less the training loss, mean and half of the 95 % interval."""
    variants = list(dict.fromkeys(run["variant"] for run in found))
    lines = ["| fault in evaluation | " + " | ".join(variants) + " |", "|---|" + "---|" * len(variants)]
    for fault in found[0]["losses"]:
        cells = [[r["losses"][fault] - r["train_loss"] for r in found if r["variant"] == v] for v in variants]
        lines.append(f"| {fault} | " + " | ".join(map(_shown, cells)) + " |")
    return "\n".join(lines) + "\n"


def _shown(gaps: list[float]) -> str:
    over = interval(gaps)
    return f"{over.mean:+.2f}" if over.low is None else f"{over.mean:+.2f} ± {over.mean - over.low:.2f}"


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(Path(arguments[0] if arguments else "experiments/gap.yaml"), Path((arguments[1:] or ["runs"])[0]))
