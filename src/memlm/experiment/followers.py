"""Rank 0 makes an experiment; the other ranks follow: they wait until a model is trained, and train it with rank 0.

So all that is asked, written and told is rank 0's, as if it were alone.
"""

# torch leaves parts of its interface untyped:
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import distributed as dist

from memlm.data.prepare import prepare
from memlm.errors import DivergedError, FollowerError, MemlmError, RunError
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.models import new_model, starting_device
from memlm.experiment.text import sampler_of, suite_of
from memlm.train.accelerator import OUT_OF_MEMORY, build_accelerator
from memlm.train.checkpoint import load_model
from memlm.train.loop import Hooks, train
from memlm.train.monitor import MetricLog
from memlm.train.ranks import Ranks, telling_lost_ranks
from memlm.train.state import TrainingState


@dataclass(frozen=True)
class Order:
    """What rank 0 has the others train.

    Attributes:
        config: The experiment, all that is matched in it solved.
        variant: Which variant.
        seed: Which seed.
        data: Fingerprint of the tokens.
        checkpoint: The checkpoint to go on from, None to begin.
    """

    config: ExperimentConfig
    variant: str
    seed: int
    data: str
    checkpoint: Path | None


class Followers:
    """The other ranks, as rank 0 sees them; a process without any has nothing to tell.

    Args:
        ranks: The processes of this run.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._are_training = False

    @contextmanager
    def training(self, order: Order) -> Generator[None]:
        """Has the others train what rank 0 trains inside."""
        self._are_training = True
        self._tell(order)
        try:
            yield
        except DivergedError:
            self._are_training = False  # it diverged everywhere
            raise
        self._are_training = False

    @contextmanager
    def dismissed(self) -> Generator[None]:
        """Ends the others after what is done inside, with the exit code that it gives this process."""
        try:
            yield
        except BaseException as error:
            with suppress(RuntimeError, RunError):  # that a rank is lost too tells nobody why this one ends
                self._dismiss(getattr(error, "exit_code", 1))
            raise
        self._dismiss(0)

    @property
    def are_waiting(self) -> bool:
        """Whether they can be told what is next: not where a training broke off here, and they are still in it."""
        return self._ranks.number == 1 or not self._are_training

    def _dismiss(self, exit_code: int) -> None:
        """Ends the others, unless they are left in the middle of a training: those end by the loss of rank 0."""
        if self._ranks.number > 1 and self.are_waiting:
            self._tell(exit_code)
            dist.destroy_process_group()

    def _tell(self, message: Order | int) -> None:
        if self._ranks.number > 1:
            with telling_lost_ranks():
                dist.broadcast_object_list([message], src=0)


def follow(config: ExperimentConfig) -> int:
    """Trains what rank 0 trains, until it dismisses this rank with the exit code that is returned.

    Raises:
        FollowerError: this rank cannot go on, or another one has ended.
    """
    ranks = Ranks.of(build_accelerator(config.train))
    try:
        while True:
            message: list[Order | int] = [0]
            with telling_lost_ranks():
                dist.broadcast_object_list(message, src=0)
            if isinstance(message[0], int):
                dist.destroy_process_group()
                return message[0]
            try:
                _train(message[0])
            except DivergedError:
                continue  # rank 0 tells it
    except torch.OutOfMemoryError as error:
        raise FollowerError(f"rank {ranks.index}: {OUT_OF_MEMORY}") from error
    except MemlmError as error:
        raise FollowerError(f"rank {ranks.index}: {error}") from error


def _train(order: Order) -> None:
    config = order.config
    settings = config.train_of(order.variant)
    data = prepare(config.data, progress=False)
    if data.fingerprint != order.data:
        raise RunError("the text here is not that of rank 0; give all processes the same files")
    torch.manual_seed(order.seed)
    if order.checkpoint is None:
        state = None
        model = new_model(config, order.variant, Tokenizer.from_file(str(data.tokenizer)))
    else:
        state = TrainingState.read(order.checkpoint)
        model = load_model(order.checkpoint, starting_device(settings))
    sampler = sampler_of(config, data, order.seed)
    hooks = Hooks()
    if settings.shard != "none":  # what rank 0 evaluates reads the parts that are here
        suite = suite_of(config, data)
        hooks = Hooks(evaluate=lambda: suite.evaluate_quick(model))
    with tempfile.TemporaryDirectory() as scratch, MetricLog(Path(scratch) / "metrics.jsonl", []) as log:
        train(model, sampler, settings, log, hooks, Path(scratch), state)
