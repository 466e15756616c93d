"""lm-eval's tasks for a memlm model (EleutherAI's lm-evaluation-harness)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerFast

from memlm.errors import RunError
from memlm.extras import optional

TALKATIVE = ("lm_eval", "huggingface_hub", "datasets")
"""Loggers that warn of how a model was handed over, and of every retry."""


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[str],
    include: Path | None = None,
    limit: int | None = None,
    batch_size: int = 8,
) -> dict[str, dict[str, float]]:
    """Returns the numbers of each task, by metric, as lm-eval names them.

    Args:
        model: A causal language model, in eval mode.
        tokenizer: Its tokenizer.
        tasks: Names of tasks.
        include: A folder of task files of your own; lm-eval runs the code that they name.
        limit: Take this many questions of each task, for a try.
        batch_size: Questions at a time.

    Raises:
        MissingDependencyError: lm-eval is not installed.
        RunError: a task is not known, or its data cannot be read.
    """
    names = ("lm_eval", "lm_eval.models.huggingface", "lm_eval.tasks")
    lm_eval, wrapper, known = (optional(name, "lm-eval", "lm-eval's tasks") for name in names)
    manager = known.TaskManager(include_path=None if include is None else str(include))
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        raise RunError(f"lm-eval knows no task {', '.join(unknown)}; lm-eval ls tasks lists those that it knows")
    try:
        with _only_errors():
            wrapped = wrapper.HFLM(
                pretrained=model,
                tokenizer=tokenizer,
                device=str(model.device),
                batch_size=batch_size,
                max_length=model.config.max_position_embeddings,
            )
            found = lm_eval.simple_evaluate(
                wrapped, tasks=list(tasks), task_manager=manager, limit=limit, log_samples=False, bootstrap_iters=0
            )
    except ConnectionError as error:
        raise RunError(
            f"{', '.join(tasks)}: the data cannot be fetched ({error}); lm-eval takes it from the hub, unless a task "
            "of your own (--include) names files"
        ) from error
    except (OSError, ValueError) as error:  # datasets and the hub raise both
        raise RunError(f"{', '.join(tasks)}: cannot be evaluated ({error})") from error
    assert found is not None, "there is one process"
    results: dict[str, dict[str, Any]] = found["results"]
    return {task: {k: v for k, v in row.items() if isinstance(v, float)} for task, row in results.items()}


@contextmanager
def _only_errors() -> Iterator[None]:
    """Inside, the loggers in `TALKATIVE` tell errors alone."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
