"""Several runs at a time, each in a process of its own, by Ray: over the GPUs of this machine, or of a cluster.

Ray starts a task again if its process died; what a run had saved, it goes on from. A run's own lock keeps two processes
from making it at once.
"""

# Ray is an extra, and its interface is untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from memlm.errors import Interrupted, MemlmError, RunError
from memlm.experiment.locks import locked
from memlm.experiment.schema import run_name
from memlm.extras import optional

PURPOSE = "memlm run --workers"
RETRIES = 2
"""How often a run is begun again whose process died."""
TURN_S = 1.0
"""How long Ray waits at a time: in between, handlers of signals run."""
STORE_BYTES = 100 << 20
"""Room for what workers are handed; Ray takes a third of the memory if it is not told."""

Make = Callable[[str, int], dict[str, Any]]


def spread(
    make: Make, runs: Sequence[tuple[str, int]], workers: int, on_gpu: bool
) -> Iterator[tuple[str, dict[str, Any] | MemlmError]]:
    """Makes runs in worker processes; yields each one's name, and its results or why it has none, as they come.

    Args:
        make: Makes a run, given its variant and its seed; it is sent to the workers.
        runs: Variants and seeds, in the order in which they are begun.
        workers: How many at a time.
        on_gpu: Whether each takes a GPU of its own.

    Raises:
        MissingDependencyError: Ray is not installed.
        RunError: Ray cannot be started or reached.
        Interrupted: a signal came.
    """
    ray = optional("ray", "ray", PURPOSE)
    with _plain_signals(), _cluster(ray, workers):
        task = ray.remote(num_cpus=1, num_gpus=int(on_gpu), max_retries=RETRIES)(make_run)
        waiting, at_work = list(runs), dict[Any, str]()
        while waiting or at_work:
            while waiting and len(at_work) < workers:
                variant, seed = waiting.pop(0)
                at_work[task.remote(make, variant, seed)] = run_name(variant, seed)
            ended, _ = ray.wait(list(at_work), timeout=TURN_S)
            for task_id in ended:
                name = at_work.pop(task_id)
                yield name, _outcome(ray, task_id, name)


def make_run(make: Make, variant: str, seed: int) -> dict[str, Any]:
    """Makes a run in a worker; Ray takes a function, and shows its name while it is at work."""
    return make(variant, seed)


def claimed(run: Path) -> AbstractContextManager[None]:
    """Keeps a second process from making a run; raises RunError if another one does."""
    busy = f"{run} is being made by another process; wait for it, and give the same command again"
    return locked(run.parent, busy, f".{run.name}.lock")


@contextmanager
def _plain_signals() -> Generator[None]:
    """Raises a signal's own exception, which Ray's compiled functions wrap in a SystemError."""
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, Interrupted):
            raise error.__cause__ from None
        raise


@contextmanager
def _cluster(ray: Any, workers: int) -> Generator[None]:
    """Lends Ray on this machine, or the cluster that RAY_ADDRESS names."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if not os.environ.get("RAY_ADDRESS"):
        settings |= {"address": "local", "num_cpus": workers, "object_store_memory": STORE_BYTES}
        settings |= {"include_dashboard": False}
    ends = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**settings)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"Ray cannot be started or reached ({error}); leave --workers out, or mend RAY_ADDRESS"
        ) from error
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, ends)  # Ray has put its own in the place of ours
        yield
    finally:
        ray.shutdown()


def _outcome(ray: Any, done: Any, name: str) -> dict[str, Any] | MemlmError:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MemlmError):
            return error.cause
        raise
    except ray.exceptions.RayError as error:  # a process that was killed, a machine that is gone
        return RunError(
            f"{name}: its process died {RETRIES + 1} times ({type(error).__name__}); what it saved is kept: give the "
            "same command again"
        )
