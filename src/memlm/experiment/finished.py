"""Opens a finished run of a model with a memory: to look into it, or to edit it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memlm.data.cache import TokenData
from memlm.data.prepare import prepare
from memlm.errors import RunError
from memlm.experiment.config import ExperimentConfig
from memlm.experiment.paths import FINAL_WEIGHTS, inside
from memlm.experiment.reading import Run, read_remembering
from memlm.experiment.rerun import recorded_config
from memlm.experiment.trained import model_of
from memlm.hf import MemlmForCausalLM


@dataclass(frozen=True)
class Finished:
    """A finished run: its record, its settings, its text, and the file of its weights."""

    run: Run
    config: ExperimentConfig
    data: TokenData
    weights: Path

    @cached_property
    def model(self) -> MemlmForCausalLM:
        """Its model in eval mode, loaded when it is asked for; raises CheckpointError if it is damaged."""
        return model_of(self.run)

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.run.record.experiment}/{self.run.name}"


def open_finished(folder: Path, purpose: str, shows_bars: bool = False) -> Finished:
    """Reads a run and its text.

    Args:
        folder: The run's folder.
        purpose: What it is opened to do, such as ``inspect``; errors say so.
        shows_bars: Show bars while the text is prepared.

    Raises:
        RunError: the folder holds no finished run of a model with a memory, or its text is not the recorded one.
        CheckpointError: it holds no checkpoint, as a record that was kept alone.
        MemlmError: of the data.
    """
    run = read_remembering(folder, purpose)
    assert run.record.data is not None, "a finished run has recorded its data"
    config = recorded_config(run)
    data = prepare(config.data, progress=shows_bars)
    if data.fingerprint != run.record.data.fingerprint:
        raise RunError(f"{folder}: data.corpus holds other text now; bring the recorded text back to {purpose} the run")
    return Finished(run, config, data, inside(folder, FINAL_WEIGHTS))
