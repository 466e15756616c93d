"""Trackers (TensorBoard, SwanLab, W&B) behind a thread that training never waits for.

Trackers wait for networks, and some raise when one is gone. Here a tracker gets its own daemon thread and a bounded
queue: what it cannot take is dropped and counted, and its first error switches it off with one logged line.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memlm.errors import MissingDependencyError

logger = logging.getLogger(__name__)

OFFLINE = {"SWANLAB_MODE": "local", "WANDB_MODE": "offline"}
"""What keeps trackers off the network unless the user's environment says otherwise."""
WHERE = {"swanlab": ("experiment_name", "logdir"), "wandb": ("name", "dir")}
"""What trackers call the run's name and folder where accelerate hands them neither."""
QUEUE_SIZE = 1000
CLOSE_SECONDS = 5.0


def require(name: str) -> None:
    """Raises MissingDependencyError if the package of tracker ``name`` is not installed."""
    if importlib.util.find_spec(name) is None:
        raise MissingDependencyError(name, name, f"train.trackers: [{name}]")


class BackgroundTracker:
    """One of accelerate's trackers, run in a thread of its own.

    Args:
        kind: ``tensorboard``, ``swanlab`` or ``wandb``.
        project: The experiment's name.
        run: The run's name.
        folder: Where a tracker that writes files puts them.
        config: The run's settings, shown by the tracker.

    Raises:
        MissingDependencyError: its package is not installed.
    """

    def __init__(self, kind: str, project: str, run: str, folder: Path, config: Mapping[str, Any]) -> None:
        from accelerate import tracking

        require(kind)
        for variable, mode in OFFLINE.items():
            os.environ.setdefault(variable, mode)
        self._cls = tracking.LOGGER_TYPE_TO_CLASS[kind]
        self._name, self._project, self._run, self._folder, self._config = kind, project, run, folder, dict(config)
        self._queue: queue.Queue[tuple[dict[str, Any], int] | None] = queue.Queue(QUEUE_SIZE)
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name=f"tracker-{kind}", daemon=True)
        self._thread.start()

    def log(self, values: Mapping[str, Any], step: int) -> None:
        """Queues the metrics of a step, or drops them if the tracker is behind."""
        try:
            self._queue.put_nowait((dict(values), step))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Lets the tracker finish, for a few seconds at most."""
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            self._dropped += 1
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logger.warning("%s did not finish within %.0f s and was left behind", self._name, CLOSE_SECONDS)
        if self._dropped:
            logger.warning("%s was too slow: %d steps were not sent to it", self._name, self._dropped)

    def _work(self) -> None:
        try:
            tracker = self._start()
            while (item := self._queue.get()) is not None:
                values, step = item
                tracker.log({k: v for k, v in values.items() if isinstance(v, (int, float))}, step=step)
            tracker.finish()
        except Exception as error:  # whatever a tracker does, the run goes on
            logger.warning("%s failed and is switched off for this run: %s", self._name, error)

    def _start(self) -> Any:
        if self._cls.requires_logging_directory:
            tracker = self._cls(self._run, logging_dir=str(self._folder))
        else:
            name, folder = WHERE[self._name]
            self._folder.mkdir(parents=True, exist_ok=True)
            tracker = self._cls(self._project, **{name: self._run, folder: str(self._folder)})
        if hasattr(tracker, "start"):
            tracker.start()
        tracker.store_init_configuration(_flat(self._config))
        return tracker


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings under dotted names, as text where a tracker takes no other kind."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}.")
        else:
            flat[name] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat
