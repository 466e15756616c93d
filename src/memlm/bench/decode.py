"""Decoding by a whole model whose values are held on the device, elsewhere, or in 8 bits: a token at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from memlm.bank.base import Bank
from memlm.bank.vectors import VectorBank
from memlm.bench.setting import TOLERANCES, Draw, Setting
from memlm.bench.shapes import Decoding, Shape
from memlm.bench.timing import Timing, norm_error
from memlm.model.config import ModelConfig
from memlm.model.decoder import Decoder
from memlm.offload import HostBank, Int8Bank, MappedBank
from memlm.offload.cached import CachedBank

STEPS, RUNS = 32, 5
"""Tokens that a sequence takes in a run, and runs."""
WARM = 24
"""Steps at the largest batch before the hot rows are chosen."""
COPIED = 1 << 28
"""Bytes whose copy tells the rate from the host."""
CHECKED = 64
"""Tokens whose reads are compared with those of the values themselves."""

Holder = Callable[[Tensor, torch.device], Bank]


def _mapped(values: Tensor, device: torch.device) -> MappedBank:
    with TemporaryDirectory() as scratch:  # a mapped file stays until nothing maps it
        path = Path(scratch) / "values.safetensors"
        save_file({"values": values}, path)
        with safe_open(path, "pt") as file:
            return MappedBank(file.get_tensor("values"), device)


HOLDERS: Mapping[str, Holder | None] = {
    "device": None,
    "host": HostBank,
    "host, a quarter hot": partial(HostBank, hot_share=0.25),
    "int8": Int8Bank,
    "mapped": _mapped,
}
"""How the values are held; None: as the model's parameter."""


class Decoders:
    """One model for all batches of a row's kind; built when it is first asked for, dropped after the last batch.

    Args:
        values: How its values are held, a name of `HOLDERS`.
        is_captured: Replay a step as a CUDA graph.
        shape: Its sizes.
    """

    def __init__(self, values: str, is_captured: bool, shape: Shape) -> None:
        assert shape.decoding is not None, "only a shape with decoding decodes"
        self.values, self.is_captured, self.shape, self.sizes = values, is_captured, shape, shape.decoding
        self._built: tuple[Decoder, float] | None = None

    @property
    def name(self) -> str:
        """What the rows begin with."""
        return f"{self.values}, {'graph' if self.is_captured else 'eager'}"

    @torch.inference_mode()
    def measure(self, batch: int, setting: Setting) -> dict[str, Any]:
        """Returns the row of a batch: time of a step, tokens a second, hit rate, bytes that a step moves, the error."""
        try:
            if self._built is None:
                self._built = self._build(setting)
            decoder, error = self._built
            row = {"error": error, "values_gib": _bytes(decoder.banks[0]) / 2**30}
            limit = TOLERANCES[torch.bfloat16] if self.values == "int8" else 0.0
            if not error <= limit:
                return row | {"status": "wrong"}
            return row | {"status": "ok", **self._timed(decoder, batch, setting)}
        finally:
            if batch == self.sizes.batches[-1]:
                self._built = None

    def _build(self, setting: Setting) -> tuple[Decoder, float]:
        """Returns the model, its hot rows chosen, and the error of what its bank gives."""
        torch.manual_seed(0)
        config = ModelConfig.model_validate({**self.sizes.model, "memory": self.shape.memory})
        with torch.inference_mode(False), torch.no_grad(), torch.device(setting.device):
            decoder = Decoder(config, self.sizes.vocab_size).to(setting.dtype).eval()
        bank = decoder.banks[0]
        assert isinstance(bank, VectorBank), "a bank of vectors is what can be held elsewhere"
        holder = HOLDERS[self.values]
        if holder is None:
            return decoder, 0.0
        values = bank.values.detach().cpu()
        decoder.banks[0] = held = holder(values, setting.device)
        del bank  # the device may have no room for both
        if isinstance(held, CachedBank):
            self._warm(decoder, held, setting)
        return decoder, self._error(held, values, setting)

    def _warm(self, decoder: Decoder, bank: CachedBank, setting: Setting) -> None:
        tokens = _tokens(self.sizes, WARM, max(self.sizes.batches), setting, seed=1)
        past = _Past(decoder.config, self.sizes.context, max(self.sizes.batches), setting)
        for ids in tokens:
            _step(decoder, ids, past)
        bank.refresh()

    def _error(self, bank: Bank, values: Tensor, setting: Setting) -> float:
        draw = Draw(setting)
        slots = draw.slots(self.shape.n_slots, CHECKED, self.shape.n_reads)
        weights = draw.weights(CHECKED, self.shape.n_reads)
        plain = VectorBank(slots.numel(), self.shape.d_value).to(setting.device, values.dtype)
        with plain.showing(values[slots.cpu().flatten()].to(setting.device)):
            right = plain.weighted_sum(torch.arange(slots.numel(), device=setting.device).view_as(slots), weights)
        return norm_error(bank.weighted_sum(slots, weights), right)

    def _timed(self, decoder: Decoder, batch: int, setting: Setting) -> dict[str, Any]:
        past, bank = _Past(decoder.config, self.sizes.context, batch, setting), decoder.banks[0]
        runs = [_tokens(self.sizes, STEPS, batch, setting, seed) for seed in range(2, 2 + RUNS)]
        given = runs[0][0].clone()
        step = self._runnable(decoder, given, past)
        before = bank.traffic() if isinstance(bank, CachedBank) else None
        times = [_run(step, given, tokens, setting) for tokens in runs]
        row: dict[str, Any] = {
            "time": Timing(statistics.median(times), min(times), max(times), RUNS).as_dict(),
            "tokens_per_s": 1e3 * batch / statistics.median(times),
        }
        if isinstance(bank, CachedBank) and before is not None:
            after = bank.traffic()
            row["hit_rate"] = 1 - (after.misses - before.misses) / (after.reads - before.reads)
            row["moved_bytes"] = (after.bytes - before.bytes) / (STEPS * RUNS)
            row["host_bytes_per_s"] = _host_rate(setting)
        return row

    def _runnable(self, decoder: Decoder, given: Tensor, past: _Past) -> Callable[[], object]:
        def step() -> object:
            return _step(decoder, given, past)

        for _ in range(3):
            step()
        if not self.is_captured:
            return step
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            step()
        return graph.replay


def decoders(shape: Shape, setting: Setting) -> list[Decoders]:
    """Returns the kinds of rows: on a GPU graphs, but for rows that the host sends, and what those are held against."""
    if not setting.on_gpu:
        return [Decoders(values, False, shape) for values in HOLDERS]
    captured = [Decoders(values, True, shape) for values in HOLDERS if values != "mapped"]
    return [*captured, Decoders("device", False, shape), Decoders("mapped", False, shape)]


class _Past:
    """Keys and values of the tokens so far; the last place takes the token of the step, again and again."""

    def __init__(self, config: ModelConfig, context: int, batch: int, setting: Setting) -> None:
        heads = config.n_kv_heads or config.n_heads
        shape = (config.n_layers, 2, batch, heads, context, config.d_model // config.n_heads)
        self._kept = Draw(setting).normal(*shape)
        self.positions = torch.full((1, 1), context - 1, device=setting.device)

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Stores a token's keys and values, [B, heads, 1, C]."""
        keys, values = self._kept[layer_idx]
        keys[:, :, -1:], values[:, :, -1:] = key_states, value_states
        return keys, values

    def get_seq_length(self) -> int:
        """Returns how many tokens are stored."""
        return self._kept.shape[-2]


def _step(decoder: Decoder, ids: Tensor, past: _Past) -> Tensor:
    """Returns the likeliest next tokens [B, 1] after ``ids`` [B, 1]."""
    return decoder.logits(decoder(ids, past.positions, None, past).hidden).argmax(-1)


def _run(step: Callable[[], object], given: Tensor, tokens: Tensor, setting: Setting) -> float:
    """Returns the milliseconds of a step, over the steps with ``tokens`` [steps, B, 1]."""
    _wait(setting)
    start = time.perf_counter()
    for ids in tokens:
        given.copy_(ids)
        step()
    _wait(setting)
    return 1e3 * (time.perf_counter() - start) / len(tokens)


def _wait(setting: Setting) -> None:
    if setting.on_gpu:
        torch.cuda.synchronize(setting.device)


def _host_rate(setting: Setting) -> float | None:
    """Returns the rate at which pages that stay in the host's memory are copied to a GPU, bytes a second."""
    if not setting.on_gpu:
        return None
    pages = torch.empty(COPIED, dtype=torch.int8, pin_memory=True)
    there = torch.empty_like(pages, device=setting.device)
    times: list[float] = []
    for _ in range(RUNS):
        _wait(setting)
        start = time.perf_counter()
        there.copy_(pages, non_blocking=True)
        _wait(setting)
        times.append(time.perf_counter() - start)
    return COPIED / min(times)


def _tokens(sizes: Decoding, steps: int, batch: int, setting: Setting, seed: int) -> Tensor:
    """Returns tokens whose frequency falls with one over their rank, as that of words does, [steps, B, 1]."""
    generator = torch.Generator().manual_seed(seed)
    drawn = float(sizes.vocab_size) ** torch.rand(steps, batch, 1, dtype=torch.float64, generator=generator)
    return (drawn.long() - 1).clamp(0, sizes.vocab_size - 1).to(setting.device)


def _bytes(bank: object) -> int:
    """Returns what the values take on the device."""
    if isinstance(bank, CachedBank):
        return bank.hot.table.nbytes
    if isinstance(bank, Int8Bank):
        return bank.integers.nbytes + bank.scales.nbytes
    assert isinstance(bank, VectorBank), "there are no others here"
    return bank.values.nbytes
