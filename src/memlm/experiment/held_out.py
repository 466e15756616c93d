"""The held-out loss of a finished run's model again, by how its memory's values are held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from memlm.evaluate.controls import memory_off
from memlm.evaluate.loss import mean_loss, spread_sequences
from memlm.experiment.evaluated import accelerator_of, load_evaluated
from memlm.experiment.finished import open_finished
from memlm.experiment.trained import ON_DEVICE, checkpoint_of, model_of
from memlm.model.decoder import Decoder
from memlm.offload.cached import CachedBank

MEMORY_OFF = "memory off"


class HeldOut(NamedTuple):
    """A loss.

    Attributes:
        values: How the values were held, or `MEMORY_OFF`.
        loss: On the held-out text of the run's own evaluation, nats per token.
        more: That loss less the one as the run evaluates it.
        hit_rate: Share of the reads whose rows were on the device, None where all are.
    """

    values: str
    loss: float
    more: float
    hit_rate: float | None


def held_out(folder: Path, values: Sequence[str], shows_bars: bool = False) -> Iterator[HeldOut]:
    """Yields the loss as the run evaluates it, that with the memory off, and those of ``values``, as they come.

    Device and precision are those of the run's own evaluation, and so is where the values are, but for ``values``.
    One model is held at a time, since a bank may fill most of the memory.

    Args:
        folder: The run's folder.
        values: `ON_DEVICE`, which adds nothing where the run's evaluation had them there, and names of
            `memlm.offload.HELD`.
        shows_bars: Show bars while the text is prepared.

    Raises:
        MemlmError: as of `open_finished`, the model is damaged, or has no values that can be held elsewhere.
    """
    finished = open_finished(folder, "evaluate", shows_bars)
    settings = finished.config.evaluate
    text = getattr(finished.data, settings.split).ids
    sequences = spread_sequences(text, finished.config.data.seq_len, settings.tokens)

    train = finished.config.train
    accelerator = accelerator_of(finished.run, train)

    def loss_of(decoder: Decoder) -> float:
        with accelerator.autocast():
            return mean_loss(decoder, sequences, settings.batch_size)

    as_it_is = load_evaluated(checkpoint_of(finished.run), train, accelerator.device).decoder
    whole = loss_of(as_it_is)
    where = "host" if train.bank_is_apart else ON_DEVICE
    yield HeldOut(where, whole, 0.0, None)
    with memory_off(as_it_is):
        off = loss_of(as_it_is)
    yield HeldOut(MEMORY_OFF, off, off - whole, None)
    del as_it_is
    for name in values:
        if name == where == ON_DEVICE:
            continue
        decoder = model_of(finished.run, str(accelerator.device), name).decoder
        loss = loss_of(decoder)
        traffic = [bank.traffic() for bank in decoder.banks if isinstance(bank, CachedBank)]
        reads = sum(each.reads for each in traffic)
        hit_rate = 1 - sum(each.misses for each in traffic) / reads if reads else None
        del decoder
        yield HeldOut(name, loss, loss - whole, hit_rate)
