"""How a time is taken, and how two results are compared before it is believed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

N_SETS = 4
"""Sets of inputs that the runs of a measurement take in turn."""
GPU_RUNS = 20
CPU_RUNS, CPU_SECONDS = (5, 50), 2.0
"""Least and most runs on a CPU, where other work disturbs each: beyond the least, as many as these seconds allow."""
FLUSH_BYTES = 1 << 28
"""Five times the L2 cache of an H100."""
FLUSHES = 8
"""Buffers written before a run. One empties the cache; the others give the host time to queue the whole run before the
device comes to it, so that what is timed is the device."""
BEYOND = 1e9
"""The largest error that is told: JSON has no infinity."""
_PIECE = 1 << 26

Call = Callable[[int], Any]
"""Runs on the given set of inputs."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call over several runs: their median and extremes."""

    median_ms: float
    min_ms: float
    max_ms: float
    runs: int

    def as_dict(self) -> dict[str, float]:
        """Returns the fields by name."""
        return asdict(self)


class Clock:
    """Takes times on one device.

    On CUDA: events around each run, the L2 cache flushed before it, inputs in rotation; what can be captured is
    replayed as a CUDA graph, so that no time of the host is in it. Elsewhere: the processor's clock.

    Args:
        device: Where the calls run.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._buffer: Tensor | None = None

    def time(self, call: Call, n_sets: int = N_SETS, captured: bool = False) -> Timing:
        """Returns the time of ``call`` on ``n_sets`` sets of inputs; a few runs before that warm up.

        With ``captured`` a GPU replays the call as a graph; nothing in it may wait for the device.
        """
        for run in range(N_SETS):
            call(run % n_sets)
        if captured and self.device.type == "cuda":
            call = self._captured(call, n_sets)
        times = self._cuda(call, n_sets) if self.device.type == "cuda" else self._host(call, n_sets)
        return Timing(statistics.median(times), min(times), max(times), len(times))

    @staticmethod
    def _captured(call: Call, n_sets: int) -> Call:
        """Returns the call as graphs, one for each set of inputs; they share their memory."""
        graphs = [torch.cuda.CUDAGraph() for _ in range(n_sets)]
        pool = torch.cuda.graph_pool_handle()
        for i, graph in enumerate(graphs):
            # A backward pass runs on the stream of its forward pass, which therefore is the one to capture.
            with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
                call(i)
        return lambda i: graphs[i].replay()

    def _cuda(self, call: Call, n_sets: int) -> list[float]:
        if self._buffer is None:
            self._buffer = torch.empty(FLUSH_BYTES, dtype=torch.int8, device=self.device)
        pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(GPU_RUNS)]
        for run, (start, end) in enumerate(pairs):
            for _ in range(FLUSHES):
                self._buffer.zero_()
            start.record()
            call(run % n_sets)
            end.record()
        torch.cuda.synchronize(self.device)
        return [start.elapsed_time(end) for start, end in pairs]

    @staticmethod
    def _host(call: Call, n_sets: int) -> list[float]:
        times: list[float] = []
        least, most = CPU_RUNS
        for run in range(most):
            if run >= least and sum(times) > 1e3 * CPU_SECONDS:
                break
            start = time.perf_counter()
            call(run % n_sets)
            times.append(1e3 * (time.perf_counter() - start))
        return times


def largest_error(found: Tensor, expected: Tensor) -> float:
    """Returns the largest difference as a share of the largest expected magnitude; NaN if one is not a number."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} beside {tuple(expected.shape)}"
    off = _reduced((a.float() - b.float()).abs().max() for a, b in _pieces(found, expected)).max()
    size = _reduced(b.float().abs().max() for _, b in _pieces(found, expected)).max()
    return (off / size).item() if size else off.item()


def norm_error(found: Tensor, expected: Tensor) -> float:
    """Returns the norm of the difference as a share of the expected norm; it forgives what happens to few elements."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} beside {tuple(expected.shape)}"
    off = _reduced((a.float() - b.float()).square().sum() for a, b in _pieces(found, expected)).sum().sqrt()
    size = _reduced(b.float().square().sum() for _, b in _pieces(found, expected)).sum().sqrt()
    return (off / size).item() if size else off.item()


def _pieces(found: Tensor, expected: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """Yields two tables piece by piece: a difference of whole ones would need their memory again, twice."""
    return zip(found.flatten().split(_PIECE), expected.flatten().split(_PIECE), strict=True)


def _reduced(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts))


def worst(errors: Sequence[float]) -> float:
    """Returns the largest error; one that is not a number counts as `BEYOND`, so that it fails every tolerance."""
    return max((error if error < BEYOND else BEYOND for error in errors), default=0.0)
