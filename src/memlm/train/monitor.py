"""What is watched while training: the metrics log, memory, and profiler traces."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self

import psutil
import torch


class Tracker(Protocol):
    """Anything that wants to see the metrics too."""

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Takes the metrics of a step; must return at once and never raise."""
        ...

    def close(self) -> None:
        """Ends tracking; must return within seconds and never raise."""
        ...


class MetricLog:
    """Appends metrics to a JSON Lines file first, then hands them to trackers.

    Args:
        path: The file; one JSON object a line, non-finite numbers as null.
        trackers: Who else is told.
    """

    def __init__(self, path: Path, trackers: list[Tracker]) -> None:
        self._file = path.open("a", encoding="utf-8")
        self._trackers = trackers

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one line and flushes it."""
        line = {"step": step, **values}
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self._file.write(json.dumps(finite, allow_nan=False) + "\n")
        self._file.flush()
        for tracker in self._trackers:
            tracker.log(finite, step)

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


class PeakMemory:
    """Peak memory since it was made: what torch allocated on a GPU, or resident memory of the process on a CPU.

    Args:
        device: The device to watch.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _reset_resident_peak()

    def gib(self) -> float:
        """Returns the peak in GiB."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return _resident_peak() / 2**30


def _reset_resident_peak() -> None:
    """Makes Linux forget the peak so far; elsewhere the peak is that of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def _resident_peak() -> int:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        info = psutil.Process().memory_info()
        return getattr(info, "peak_wset", info.rss)
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def write_profile(profile: torch.profiler.profile, folder: Path, step: int) -> None:
    """Writes the table of a profiled step, and its trace (in place of the last one) for a trace viewer."""
    folder.mkdir(exist_ok=True)
    order = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    table = profile.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=80)
    (folder / f"step-{step:06d}.txt").write_text(table, encoding="utf-8")
    profile.export_chrome_trace(str(folder / "trace.json"))


class Stopwatch:
    """Adds up the time spent on steps, apart from evaluation and saving between them.

    Attributes:
        times: Seconds of each step.
        total: Seconds spent on all of them.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.times: list[float] = []
        self.total = 0.0

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Times one step, the device's work included."""
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.times.append(time.perf_counter() - start)
        self.total += self.times[-1]

    def typical(self) -> float:
        """Returns the median seconds of a step, the first tenth left out (compilation, cold caches)."""
        warm = sorted(self.times[len(self.times) // 10 :])
        return warm[len(warm) // 2]
