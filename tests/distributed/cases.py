"""Small trainings that several processes must take as one does, and what each of them measures.

`python -m tests.distributed.cases FILE DEVICE NAME...`, under torchrun, writes what these cases give to FILE.
"""

import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from memlm.config.train import TrainConfig
from memlm.data.sampler import Sampler
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train import columns, updater
from memlm.train import optimizer as rules
from memlm.train.columns import ColumnBank
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from memlm.train.updater import Updater
from memlm.train.writers import FILE, FOLDER
from tests.contract.test_wirings import SHAPE, VOCABULARY, settings
from tests.golden.wirings import corpus

SEQ_LEN, BATCH_SIZE, STEPS = 16, 8, 3
TEXT = corpus()[: 40 * SEQ_LEN + 1]
"""40 sequences, five steps of an epoch."""
VALUES = "decoder.banks.0.values"
SAME, SENT = "same", "sent"
"""Whether all ranks end with the same bits, and how many bytes were sent for a bank that is sharded."""


def wired(fusion, memory="product_key", **more):
    """Returns the wiring of two of three layers that share a bank."""
    return settings(
        {"memory": memory, "fusion": fusion, "placement": "parallel", "layers": [0, 2], "shared_bank": True, **more}
    )


@dataclass(frozen=True)
class Case:
    """A model, how it is trained, and whether its bank's gradient is compact, or taken as that of all rows."""

    model: dict
    train: dict = field(default_factory=dict)
    by_rows: bool = False
    whole: bool = False

    def plain(self) -> "Case":
        """Returns the case as one process and plain torch take it."""
        return Case(self.model, self.train | {"compile": False}, self.by_rows)


SPARSE = wired("weighted_sum")
SPARSE["memory"] = SPARSE["memory"] | {"n_keys": 48, "top_k": 2}  # some keys are never chosen
NARROW = wired("weighted_sum")
NARROW["memory"] = NARROW["memory"] | {"bank": {"type": "vectors", "dtype": "bfloat16"}}
CASES = {
    "dense": Case({}),
    "experts": Case({"experts": {"n_experts": 6, "top_k": 1, "balance_weight": 0.0}}),
    "weighted_sum": Case(wired("weighted_sum")),
    "gated_mlp": Case(wired("gated_mlp"), {"accumulation": 2}),
    "cross_attention": Case(wired("cross_attention"), {"clip": 0.1}),
    "ngram_hash": Case(wired("weighted_sum", "ngram_hash"), {"accumulation": 2}, by_rows=True),
    "rows": Case(wired("weighted_sum"), {"clip": 0.1}, by_rows=True),
    "rows_joined": Case(wired("gated_mlp"), by_rows=True),
    "rows_of_16_bits": Case(NARROW, {"clip": 0.1, "accumulation": 2}, by_rows=True),
    "whole": Case(wired("weighted_sum"), {"clip": 0.1}, whole=True),
    "tokens": Case(wired("weighted_sum", bank={"type": "tokens"})),
    "frozen": Case(wired("weighted_sum"), {"steps": 7, "train_values_epochs": 1}),
    "columns": Case(wired("weighted_sum"), {"shard": "bank", "clip": 0.1, "accumulation": 2}),
    "columns_whole": Case(wired("weighted_sum"), {"shard": "bank", "clip": 0.1, "accumulation": 2}, whole=True),
    "columns_joined": Case(wired("gated_mlp"), {"shard": "bank", "clip": 0.1, "record_writers": True}, by_rows=True),
    "columns_attention": Case(wired("cross_attention"), {"shard": "bank"}),
    "columns_hash": Case(wired("weighted_sum", "ngram_hash"), {"shard": "bank"}, by_rows=True),
    "sharded": Case(wired("gated_mlp"), {"shard": "model", "clip": 0.1, "accumulation": 2}),
    "sharded_dense": Case({}, {"shard": "model"}),
    "sharded_experts": Case({"experts": {"n_experts": 6, "top_k": 1, "balance_weight": 0.0}}, {"shard": "model"}),
    "sharded_rows": Case(wired("weighted_sum"), {"shard": "model", "router_lr": 0}, by_rows=True),
    "sharded_attention": Case(wired("cross_attention"), {"shard": "model"}),
    "sharded_tokens": Case(
        wired("weighted_sum", bank={"type": "tokens", "learned_share": 0.5}),
        {"shard": "model", "steps": 7, "train_values_epochs": 1, "record_writers": True},
    ),
    "watched": Case(SPARSE, {"record_writers": True, "revive_every": 2, "accumulation": 2}),
}
FAST = {"compile": True, "precision": "bf16", "record_writers": False}
COMPILED = {
    f"compiled_{name}": Case(case.model, case.train | FAST, case.by_rows)
    for name, case in CASES.items()
    if name in ("gated_mlp", "columns", "columns_joined", "sharded", "sharded_rows")
}
"""What is tried on GPUs alone: 16 bits, and the compiler."""


def trained(case: Case, device: str) -> dict[str, torch.Tensor]:
    """Trains a case; returns losses, the last gradient before clipping, weights, and who wrote the slots."""
    torch.manual_seed(0)
    model = MemlmForCausalLM(MemlmConfig(model=SHAPE | case.model, vocab_size=VOCABULARY, pad_token_id=1))
    defaults = {"steps": STEPS, "batch_size": BATCH_SIZE, "lr": 1e-3, "evaluate_every": 0}
    config = TrainConfig(**{"precision": "fp32"} | defaults | case.train, device=device)
    found, losses, clip = {}, [], Updater.clip

    def clip_and_keep(self):
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        norm = found["norm"] = clip(self)
        parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
        found["held"] = torch.tensor(sum(part.numel() for part in parts))
        assert bool(self._rows) == (case.by_rows or case.whole)
        for bank, (rows, sums, n_rows) in self._rows:
            kept = torch.arange(len(rows), device=rows.device) < n_rows
            gradients[VALUES] = torch.zeros_like(bank.values, dtype=sums.dtype).index_add_(0, rows[kept], sums[kept])
        gradients = {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in gradients.items()}
        (bank,) = model.decoder.banks or [None]
        if isinstance(bank, ColumnBank):
            if not self._rows:
                gradients[VALUES] /= bank.n_ranks
            parts = [torch.empty_like(gradients[VALUES]) for _ in range(bank.n_ranks)]
            dist.all_gather(parts, gradients[VALUES])
            gradients[VALUES] = torch.cat(parts, dim=1)
        found.update({f"gradient/{name}": gradient for name, gradient in gradients.items()})
        return norm

    sampler = Sampler(TEXT, SEQ_LEN, config.batch_size, seed=0)
    hooks = Hooks(progress=lambda _step, loss, _speed: losses.append(loss))
    size, share = (0, 1.0) if case.by_rows else (rules.COMPACT_SIZE, rules.COMPACT_SHARE)
    with (
        tempfile.TemporaryDirectory() as scratch,
        MetricLog(Path(scratch) / "metrics.jsonl", []) as log,
        patch.object(Updater, "clip", clip_and_keep),
        patch.multiple(rules, COMPACT_SIZE=size, COMPACT_SHARE=share),
        patch.multiple(updater, WHOLE_SIZE=0, is_fast=lambda *_: True) if case.whole else nullcontext(),
    ):
        result = train(model, sampler, config, log, hooks, Path(scratch))
        if config.record_writers:
            written = load_file(Path(scratch) / FOLDER / FILE)
            found |= {f"writers/{name}": tensor for name, tensor in written.items() if not name.endswith("pull")}
    assert bool(result.compact_rows) == case.by_rows
    found |= {f"weight/{name}": parameter.detach() for name, parameter in model.named_parameters()}
    return {name: tensor.cpu() for name, tensor in found.items()} | {"losses": torch.tensor(losses)}


@contextmanager
def counted_bytes():
    """Counts what this rank sends for the sake of a bank that is sharded."""
    sent = [0.0]
    gathered, exchanged = columns.gathered, columns._exchanged

    def counted_gather(tensor, n_ranks):
        sent[0] += (n_ranks - 1) * tensor.nbytes
        return gathered(tensor, n_ranks)

    def counted_exchange(parts):
        sent[0] += (1 - 1 / len(parts)) * parts.nbytes
        return exchanged(parts)

    with patch.multiple(columns, gathered=counted_gather, _exchanged=counted_exchange):
        yield sent


def main(path: Path, device: str, *names: str) -> None:
    """Trains the cases one after the other, saying how long each took, and has rank 0 write what it measured."""
    found = {}
    for name in names:
        case, began = (CASES | COMPILED)[name], time.perf_counter()
        AcceleratorState._reset_state()  # it keeps one precision for the process; the process group stays
        with counted_bytes() as sent:
            own = trained(case, device)
        found[f"{name}/{SENT}"] = torch.tensor(sent)
        found |= {f"{name}/{key}": tensor for key, tensor in own.items()}
        # Of what is sharded only rank 0 has the whole in the end.
        apart = {"bank": f"weight/{VALUES}", "model": "weight/"}.get(case.train.get("shard"), "none")
        same = {k: t for k, t in own.items() if k in ("losses", "norm") or k.startswith("weight/")}
        known = torch.cat([tensor.flatten() for key, tensor in same.items() if not key.startswith(apart)])
        everyones: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, known)
        found[f"{name}/{SAME}"] = torch.tensor(all(torch.equal(part, known) for part in everyones))
        if dist.get_rank() == 0:
            print(f"{name}: {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
    if dist.get_rank() == 0:
        save_file({name: tensor.contiguous().clone() for name, tensor in found.items()}, path)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
