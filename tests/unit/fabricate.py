"""Fabricates the folder of an experiment, as training would leave it, from a few numbers."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

SEEDS = (0, 1, 2)
LOSSES = {"dense": 4.10, "cross_attention": 4.45, "gated_mlp": 4.16, "门控记忆": 4.02}
PROMPT = "从前有一座山，<script>alert('山')</script> & a | b"
ENTROPY = 5.25


def loss_of(variant: str, seed: int) -> float:
    return round(LOSSES[variant] + 0.01 * seed + 0.002 * (seed * len(variant) % 5), 4)


def fabricate(root: Path, hypotheses: list[dict[str, Any]] | None = None, seeds: tuple[int, ...] = SEEDS) -> Path:
    """Writes every planned run, finished and sound; tests then spoil what they are about."""
    folder = root / "演示 demo"
    folder.mkdir(parents=True)
    claims = [
        {"name": "connection", "claim": "gated_mlp < cross_attention", "metric": "validation_loss", "margin": 0.05}
    ]
    plan = {
        "format": 1,
        "name": "演示 demo",
        "variants": list(LOSSES),
        "seeds": list(seeds),
        "hypotheses": claims if hypotheses is None else hypotheses,
        "config": {"data": {"corpus": "python-docs"}, "train": {"tokens": 400_000}, "seeds": list(seeds)},
    }
    write_json(folder / "experiment.json", plan)
    for variant in LOSSES:
        for seed in seeds:
            _write_run(folder, variant, seed)
    return folder


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def edit_record(run: Path, **changes: Any) -> None:
    """Changes fields of a run's record; a mapping is merged into the one that is there."""
    path = run / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        record[key] = {**record.get(key, {}), **value} if isinstance(value, dict) else value
    write_json(path, record)


def _write_run(folder: Path, variant: str, seed: int) -> None:
    run = folder / f"{variant}-s{seed}"
    run.mkdir()
    write_json(run / "record.json", _record(variant, seed))
    config = {
        "experiment": "演示 demo",
        "variant": variant,
        "seed": seed,
        "data": {"corpus": "python-docs", "seq_len": 128},
        "model": {"d_model": 128, "wiring": variant, "memory": None if variant == "dense" else {"n_keys": 64}},
        "train": {"lr": 1e-3, "tokens": 400_000},
        "evaluate": {"samples": 2},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    lines = [json.dumps(line) for line in _metrics(variant, seed)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    samples = [
        {"prompt": PROMPT, "model": f"{variant} 说：<b>bold</b> ```x```", "real": "山里有座庙。" * 6},
        {
            "prompt": "def read(path):",
            "model": "\n    return open(path).read()" * 3,
            "real": "\n    with open(path) as f:",
        },
    ]
    write_json(run / "samples.json", samples)
    write_json(run / "documents.json", _documents(variant, seed))


def alarm(name: str, where: str, **changes: Any) -> dict[str, Any]:
    """An entry of a record's alarms, as `memlm.train.alarms.Alarms.history` has it."""
    entry = {
        "step": 20,
        "name": name,
        "where": where,
        "value": 0.0031,
        "threshold": 0.01,
        "message": "the weight lies on 13 effective slots of the 4,065 that even reading would reach <&>",
        "last_step": 200,
        "count": 10,
        "active": True,
    }
    return entry | changes


def _record(variant: str, seed: int) -> dict[str, Any]:
    has_memory = variant != "dense"
    memory = 4096 * 64 if has_memory else 0
    return {
        "format": 1,
        "experiment": "演示 demo",
        "variant": variant,
        "seed": seed,
        "status": "finished",
        "error": None,
        "started": f"2026-11-0{seed + 1}T10:00:00+00:00",
        "finished": f"2026-11-0{seed + 1}T10:05:00+00:00",
        "host": "somewhere",
        "commit": "0123456789abcdef",
        "dirty": False,
        "device": {"kind": "cuda", "name": "NVIDIA GeForce RTX 4090"},
        "versions": {"memlm": "0.1.0", "python": "3.11.9", "torch": "2.11.0", "numpy": "2.1.0"},
        "config_hash": f"{variant}{seed}",
        "data": {
            "fingerprint": "d41d8cd98f00b204",
            "tokenizer_fingerprint": "9e107d9d372bb682",
            "train_tokens": 2_000_000,
            "validation_tokens": 100_000,
            "judge_tokens": 100_000,
            "bytes_per_token": 3.412,
            "unigram_entropy": ENTROPY,
            "counts": {"documents": 500},
        },
        "cost": {
            "parameters": 1_183_744 + memory,
            "active_parameters": 1_183_744,
            "memory_parameters": memory,
            "flops_per_token": 2_510_848 + (1_000 if has_memory else 0),
            "bytes_per_token": 4_734_976 + 4 * memory // 1024,
        },
        "evaluated": {
            "split": "validation",
            "fingerprint": "5f4dcc3b5aa765d6",
            "tokens": 100_000,
            "time": f"2026-11-0{seed + 1}T10:04:00+00:00",
        },
        "alpha": 0.05,
        "steps": 200,
        "tokens": 400_000,
        "results": _results(variant, seed),
        "alarms": [],
    }


def _results(variant: str, seed: int) -> dict[str, Any]:
    loss = loss_of(variant, seed)
    results: dict[str, Any] = {
        "validation_loss": loss,
        "validation_perplexity": math.exp(loss),
        "bits_per_byte": loss / math.log(2) / 3.412,
        "train_loss": loss - 0.05,
        "train_subset_loss": loss - 0.07,
        "quality": {
            "score": round(12 - 2 * loss, 2),
            "metrics": {
                "model": {
                    "repetition": 0.1 + 0.01 * seed,
                    "distinct_1": 0.4,
                    "distinct_2": 0.7,
                    "judge_nats": loss + 0.4,
                },
                "real": {"repetition": 0.05, "distinct_1": 0.5, "distinct_2": 0.85, "judge_nats": 4.2},
                "unigram": {"repetition": 0.02, "distinct_1": 0.6, "distinct_2": 0.97, "judge_nats": 7.7},
            },
        },
        "time_s": 130.0 + 40 * len(variant) + seed,
        "evaluate_time_s": 4.2,
        "peak_memory_gib": 1.25,
        "tokens_per_s": 9000.0 - 100 * seed,
    }
    if variant != "dense":
        results |= {"memory_off_loss": loss + 0.3, "memory_shuffled_loss": loss + 0.1 + 0.01 * seed}
        results["usage"] = {str(layer): _usage(layer, seed) for layer in range(4)}
    return results


def _documents(variant: str, seed: int) -> dict[str, Any]:
    """Losses by document that add up to the results; long documents are harder, and each variant finds its own hard."""
    tokens = [40 + 17 * (n % 7) for n in range(30)]
    extra = [0.5 * (n % 3) + 0.05 * ((n * len(variant)) % 5) for n in range(30)]
    mean = sum(t * e for t, e in zip(tokens, extra, strict=True)) / sum(tokens)
    results = _results(variant, seed)
    metrics = [name for name in ("validation_loss", "memory_off_loss", "memory_shuffled_loss") if name in results]
    nats = {m: [round(t * (results[m] + e - mean), 3) for t, e in zip(tokens, extra, strict=True)] for m in metrics}
    return {"format": 1, "documents": [f"{n:012x}" for n in range(30)], "tokens": tokens, "nats": nats}


def _usage(layer: int, seed: int) -> dict[str, Any]:
    share = 0.8 - 0.15 * layer + 0.02 * seed
    return {
        "share_read": share,
        "kl_uniform": 1.5,
        "effective_slots": 4096 * share / 3,
        "dead_slots": int(4096 * (1 - share)),
        "n_slots": 4096,
        "reads": 5000,
        "read_norm": 0.7,
        "update_share": 0.12 - 0.02 * layer,
    }


def _metrics(variant: str, seed: int) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for step in range(2, 201, 2):
        fall = (9.0 - loss_of(variant, seed)) * math.exp(-step / 40)
        now = {"step": step, "tokens": step * 2000, "time_s": step * 1.5}
        noise = 0.08 * math.sin(step * (seed + 2))
        lines.append({**now, "train/loss": loss_of(variant, seed) + fall + noise, "train/lr": 1e-3})
        if step % 20 == 0:
            line = {**now, "evaluate/validation_loss": loss_of(variant, seed) + fall}
            if variant != "dense":
                shares = {f"memory/{n}/share_read": (0.8 - 0.15 * n) * (1 - math.exp(-step / 60)) for n in range(4)}
                line |= shares
            lines.append(line)
    return lines
