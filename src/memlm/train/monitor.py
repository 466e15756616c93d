"""What is watched while training: the metrics log, memory, and profiler traces."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import psutil
import torch

from memlm.storage import write_text


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
        after: The step that the run goes on from; lines of later steps, which will be taken again, are dropped.
    """

    def __init__(self, path: Path, trackers: list[Tracker], after: int = 0) -> None:
        if path.exists():
            write_text(path, "".join(_lines_until(path, after)))
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

    def sync(self) -> None:
        """Puts every line on disk, so that no checkpoint is ahead of its log."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file and the trackers."""
        self._file.close()
        for tracker in self._trackers:
            tracker.close()


def _lines_until(path: Path, step: int) -> Iterator[str]:
    """Yields the whole lines of a metrics file up to ``step``; a kill may have cut the last one."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                if json.loads(line)["step"] <= step and line.endswith("\n"):
                    yield line
            except (ValueError, KeyError, TypeError):
                continue


class PeakMemory:
    """Peak memory since it was made: what torch allocated on a GPU, or resident memory of the process on a CPU.

    Args:
        device: The device to watch.
        before: Peak of earlier processes of the same run, GiB.
    """

    def __init__(self, device: torch.device, before: float = 0.0) -> None:
        self._device, self._before = device, before
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _reset_resident_peak()

    def gib(self) -> float:
        """Returns the peak in GiB."""
        on_gpu = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if on_gpu else _resident_peak()
        return max(self._before, peak / 2**30)


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
    """Adds up the time spent on steps, and on nothing else.

    A step is its batch, forward, backward, clipping and the optimizer. Revival, evaluation, saving and the log come
    between steps, and count in none.

    Args:
        times: Seconds of the steps so far; the same list takes those to come.

    Attributes:
        times: Seconds of each step.
        total: Seconds spent on all of them.
    """

    def __init__(self, times: list[float]) -> None:
        self._end = 0.0
        self.times = times
        self.total = sum(times)

    def stop(self, start: float, apart: float = 0.0) -> None:
        """Counts the step that was begun at ``start`` and that the device has just finished.

        A step may be begun before the one before it is finished; its time runs from then.

        Args:
            start: As `time.perf_counter` tells.
            apart: Seconds since then that were spent on something else.
        """
        now = time.perf_counter()
        self.times.append(now - max(start, self._end) - apart)
        self.total += self.times[-1]
        self._end = now

    def recent(self, steps: int) -> float:
        """Returns the mean seconds of the last ``steps`` steps.

        One alone tells little: where the host has waited for several, all but the first seem to take no time.
        """
        last = self.times[-steps:]
        return sum(last) / len(last)

    def typical(self) -> float:
        """Returns the median seconds of a step, the first tenth left out (compilation, cold caches)."""
        warm = sorted(self.times[len(self.times) // 10 :])
        return warm[len(warm) // 2]
