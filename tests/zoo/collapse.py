"""A pair of trainings: keys of very unequal norm, without and with the norms that undo it.

A few keys of large norm win for almost every query, so nearly all tokens read the same slots. With normalised queries
and keys the same weights give a sound memory.
"""

import numpy as np
import torch

from memlm.config.alarms import AlarmsConfig
from memlm.config.train import TrainConfig
from memlm.evaluate.loss import mean_loss, spread_sequences
from memlm.evaluate.usage import UsageCounter
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.alarms import Alarm, Alarms
from memlm.train.optimizer import build_optimizer

V, T, LAYER = 256, 32, 1
STEPS, BATCH, EVALUATE_EVERY = 40, 16, 20
LARGE_KEYS, LARGE = 4, 100.0


def train_and_watch(has_norms: bool, seed: int = 0) -> list[Alarm]:
    """Trains a small model for about a second; returns every alarm that began."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    train_ids, validation_ids = np.split(_text(rng, 25_000), [20_000])
    validation = spread_sequences(validation_ids, T, len(validation_ids))
    model = _model(has_norms)
    optimizer = build_optimizer(model, TrainConfig(steps=STEPS, lr=1e-2))
    alarms, losses = Alarms(AlarmsConfig()), list[float]()
    begun: list[Alarm] = []
    for step in range(1, STEPS + 1):
        starts = rng.integers(0, len(train_ids) - T, size=BATCH)
        batch = torch.from_numpy(np.stack([train_ids[start : start + T] for start in starts]))
        loss = model(batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        begun += alarms.after_step(step, losses)
        if step % EVALUATE_EVERY == 0:
            begun += alarms.after_evaluation(step, _metrics(model, validation), losses)
    return begun


def _text(rng: np.random.Generator, length: int) -> np.ndarray:
    """Draws words each of which can be followed by eight others."""
    followers = rng.integers(0, V, size=(V, 8))
    ids = [0]
    for choice in rng.integers(0, 8, size=length - 1):
        ids.append(int(followers[ids[-1], choice]))
    return np.array(ids)


def _model(has_norms: bool) -> MemlmForCausalLM:
    memory = {"type": "product_key", "n_keys": 64, "d_key": 16, "d_value": 16, "top_k": 4}
    memory |= {"query_norm": has_norms, "key_norm": has_norms}
    wiring = {"memory": memory, "fusion": {"type": "weighted_sum"}, "placement": "parallel", "layers": [LAYER]}
    model = MemlmForCausalLM(MemlmConfig(model={"d_model": 32, "n_layers": 2, "n_heads": 2, **wiring}, vocab_size=V))
    with torch.no_grad():
        model.decoder.blocks[LAYER].memory.keys[:, :, :LARGE_KEYS] *= LARGE
    return model


def _metrics(model: MemlmForCausalLM, validation: np.ndarray) -> dict[str, float]:
    usage = UsageCounter()
    metrics = {"evaluate/validation_loss": mean_loss(model.decoder, validation, BATCH, usage)}
    for layer, used in usage.result().items():
        metrics |= {f"memory/{layer}/{name}": value for name, value in used.as_dict().items()}
    return metrics
