"""`memlm tune`: learning rates for every variant by as many short trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from rich.console import Console
from rich.progress import TextColumn

from memlm.cli import screen
from memlm.cli.options import ConfigArgument, Overrides, RunsOption
from memlm.errors import Interrupted, counted

if TYPE_CHECKING:
    from memlm.experiment.trials import Trial, Tune


def command(
    config: ConfigArgument,
    override: Overrides = None,
    variant: Annotated[
        list[str] | None, typer.Option(help="A variant to tune, again for more; all if left out.", metavar="NAME")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Trials for each variant (tune.trials).")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps of a trial (tune.steps).")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides the rates that are tried (tune.seed).")] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Tune the learning rates of every variant. The text is one that runs do not see; finished trials are kept."""
    from memlm.experiment.config import load_experiment

    given = {"trials": trials, "steps": steps, "seed": seed}
    overrides = [*(override or []), *(f"tune.{name}={value}" for name, value in given.items() if value is not None)]
    experiment = load_experiment(config, overrides)

    from memlm.experiment.tunable import tunable, tune_folder

    as_tuned, chosen = tunable(experiment, runs, variant)
    console = screen.output()
    settings, n_trials = experiment.tune, len(chosen) * experiment.tune.trials
    console.print(
        f"{experiment.name}: {counted(len(chosen), 'variant')} x {counted(settings.trials, 'trial')} of "
        f"{counted(settings.steps, 'step')}, into {tune_folder(experiment, runs)}"
    )
    if as_tuned.data != experiment.data:
        console.print(f"on another generated world than the runs', data.facts.seed {as_tuned.data.facts.seed}")

    from memlm.experiment.tune import TuneWatcher, tune, write_tuned
    from memlm.report.tuning import PICTURE, write_tuning

    view = _View(screen.beside(), settings.steps, n_trials)
    with view.progress:
        try:
            watcher = TuneWatcher(view.step, view.finished)
            done = tune(experiment, runs, watcher, screen.shows_bars(), screen.command_line(), variant)
        except Interrupted:
            view.progress.console.print("finished trials are kept; the same command goes on from there")
            raise
    write_tuning(done)
    best = write_tuned(done, config, overrides)
    print_best(console, done)
    console.print(yaml.safe_dump(best, sort_keys=False), end="")
    console.print(f"\nwritten: {', '.join(str(done.folder / name) for name in ('tuned.yaml', 'tuning.md', PICTURE))}")


def print_best(console: Console, done: Tune) -> None:
    """Prints the best rates of each variant, and what has to be known of them."""
    from memlm.report import tuning

    best = tuning.best(done)
    screen.show_table(console, best.columns, best.texts)
    for warning in tuning.warnings(done):
        console.print(f"note: {warning}", style="yellow")


class _View:
    """Draws the course of a tune: one bar over the steps of all trials, one line for each trial that is finished."""

    def __init__(self, console: Console, steps: int, n_trials: int) -> None:
        self.progress = screen.bars(console, TextColumn("{task.completed:.0f}/{task.total:.0f} steps"))
        self._steps, self._n_trials = steps, n_trials
        self._done = 0
        self._task = self.progress.add_task("tune", total=self._n_trials * self._steps)

    def step(self, variant: str, number: int, step: int) -> None:
        """Moves the bar."""
        completed = self._done * self._steps + step
        self.progress.update(self._task, description=f"{variant}, trial {number + 1}", completed=completed)

    def finished(self, trial: Trial, before: bool) -> None:
        """Tells how a trial ended; the time of those that were done before does not count in the ETA."""
        self._done += 1
        if before:
            self.progress.reset(self._task, completed=self._done * self._steps)
        else:
            self.progress.update(self._task, completed=self._done * self._steps)
        rates = "  ".join(f"{name} {rate:.3g}" for name, rate in trial.rates.items())
        loss = "diverged" if trial.loss is None else f"loss {trial.loss:.4f}"
        end = "  done before" if before else f"  {trial.time_s:.1f} s"
        eta = "" if self.progress.console.is_terminal else screen.eta(self.progress)
        self.progress.console.print(
            f"[{self._done}/{self._n_trials}] {trial.variant}  {rates}  {loss}{end}{eta}", markup=False, soft_wrap=True
        )
