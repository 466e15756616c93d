"""Models that have passed, so that the same model and code are not tried again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch

import memlm
from memlm.config.train import TrainConfig
from memlm.data.cache import default_cache
from memlm.kernels.choice import VARIABLE
from memlm.model.config import ModelConfig
from memlm.storage import sha256, write_json
from memlm.train.preflight.findings import Report

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "triton")


def key(model: ModelConfig, train: TrainConfig, device: torch.device, with_evaluation: bool) -> str:
    """Returns the hash of all that the outcome depends on: settings, code, versions and the kind of device."""
    settings = {
        "model": model.model_dump(mode="json"),
        "skip_checks": sorted(train.skip_checks),
        "with_evaluation": with_evaluation,
        "code": _code(),
        "types": [_source(part) for part in (model.memory, model.fusion) if part is not None],
        "versions": [sys.version, *(f"{name} {metadata.version(name)}" for name in PACKAGES if find_spec(name))],
        "kernels": [os.environ.get(name) for name in (VARIABLE, "TRITON_INTERPRET")],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@cache
def _code() -> list[str]:
    root = Path(memlm.__file__).parent
    return [f"{path.relative_to(root)} {sha256(path)}" for path in sorted(root.rglob("*.py"))]


def _source(part: object) -> str:
    """Returns the hash of the file of a memory's or a fusion's configuration, which may be another distribution's."""
    module: ModuleType = sys.modules[type(part).__module__]
    return sha256(Path(module.__file__)) if module.__file__ else module.__name__


def recall(key: str) -> Report | None:
    """Returns the report of a model that passed, or None; a damaged file is told and made again."""
    path = _path(key)
    if not path.exists():
        return None
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8")), remembered=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s); the preflight is run again", path, error)
        return None


def keep(key: str, report: Report) -> None:
    """Remembers a report without faults."""
    assert not report.faults, "a model with a fault is tried again"
    path = _path(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, report.as_dict())
    except OSError as error:  # it will be run again, which is no reason to refuse anything
        logger.warning("%s: cannot be written (%s); the preflight is not remembered", path, error.strerror)


def _path(key: str) -> Path:
    return default_cache() / "preflight" / f"{key}.json"
