"""Measures what is asked for, row by row, and keeps each as soon as it exists."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from memlm.bench import ceilings, decode, growth, layers, stages, steps
from memlm.bench.setting import Setting
from memlm.bench.shapes import DECODED, GROWN, PLAIN, SHAPES, TINY, Shape
from memlm.bench.store import Group, Results, resumed, write
from memlm.errors import printable
from memlm.experiment.record import code_state, now, versions
from memlm.experiment.run import device_record

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """One row to measure."""

    part: str
    shape: Shape
    name: str
    measure: Callable[[Setting], dict[str, Any]]


def default_shapes(setting: Setting) -> list[str]:
    """Returns the shapes that are measured if none is named."""
    return ["S", "M8k"] if setting.on_gpu else [TINY.name]


def plan(names: Sequence[str], parts: Sequence[str], setting: Setting) -> list[Job]:
    """Returns every row of ``parts`` at the shapes ``names``; growth and decode have shapes of their own."""
    jobs = [job for name in names for part in parts for job in _jobs(part, SHAPES[name], setting)]
    if "growth" in parts:
        shape = GROWN if setting.on_gpu else TINY
        jobs += [Job("growth", shape, name, partial(growth.measure, name, shape)) for name in growth.points(shape)]
    if "decode" in parts:
        shape = DECODED if setting.on_gpu else TINY
        assert shape.decoding is not None, "both decode"
        jobs += [
            Job("decode", shape, f"{each.name}, batch {batch}", partial(each.measure, batch))
            for each in decode.decoders(shape, setting)
            for batch in shape.decoding.batches
        ]
    return jobs


def _jobs(part: str, shape: Shape, setting: Setting) -> Iterator[Job]:
    if part == "stages":
        for name in stages.of(shape):
            yield Job(part, shape, name, partial(stages.measure, name, shape))
    elif part == "layers":
        for layer, form in layers.forms(shape, setting):
            yield Job(part, shape, f"{layer}, {form}", partial(layers.measure, layer, form, shape))
    elif part == "steps" and shape.models is not None:
        for variant in shape.models.variants:
            if variant.endswith(PLAIN) and not setting.on_gpu:  # the model itself runs in plain torch
                continue
            yield Job(part, shape, variant, partial(steps.measure, variant, shape.models))


def begin(setting: Setting, folder: Path) -> Results:
    """Returns the results of this device and commit so far."""
    code = code_state()
    commit = (code.commit or "unknown")[:12] + ("-dirty" if code.difference else "")
    device = device_record(steps.settings(setting)) | {"arithmetic": str(setting.dtype).removeprefix("torch.")}
    return resumed(folder, Results(device, commit, versions()))


def run(
    jobs: Sequence[Job],
    setting: Setting,
    results: Results,
    folder: Path,
    told: Callable[[Job, dict[str, Any]], None] = lambda _job, _row: None,
) -> Path:
    """Measures ``jobs`` and returns the file that holds them.

    Args:
        jobs: What to measure.
        setting: Where.
        results: Takes the rows; groups that are begun replace those of before.
        folder: Where results are kept, in a folder for each device.
        told: Is told every row when it exists.
    """
    rates = ceilings.measure(setting)
    begun: set[str] = set()
    path = write(folder, results)
    for job in jobs:
        key = f"{job.part}/{job.shape.name}"
        if key not in begun:
            begun.add(key)
            results.groups[key] = Group(job.part, job.shape.name, now(), job.shape.described(job.part), rates)
        row = _measured(job, setting)
        results.groups[key].rows[job.name] = row
        path = write(folder, results)
        told(job, row)
    return path


def _measured(job: Job, setting: Setting) -> dict[str, Any]:
    # The default stream cannot be captured.
    stream = torch.cuda.stream(torch.cuda.Stream()) if setting.on_gpu else nullcontext()
    try:
        with stream:
            return job.measure(setting)
    except torch.OutOfMemoryError:
        return {"status": "out of memory"}
    except Exception as error:  # whatever it is, the rows to come may be sound, and those before are kept
        logger.warning("%s %s: %s", job.part, job.shape.name, job.name, exc_info=True)
        return {"status": "failed", "reason": printable(f"{type(error).__name__}: {error}")[:300]}
    finally:
        gc.collect()  # a failed job leaves its tensors in a traceback, and a compiled one in cycles
        if setting.on_gpu:
            torch.cuda.empty_cache()
