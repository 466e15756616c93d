"""`memlm run`: trains and evaluates an experiment and writes its report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from memlm.cli.options import ConfigArgument, Overrides, RunsOption

if TYPE_CHECKING:
    from memlm.experiment.config import ExperimentConfig


def command(
    config: ConfigArgument,
    override: Overrides = None,
    runs: RunsOption = Path("runs"),
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; follow with: memlm logs")] = False,
) -> None:
    """Train and evaluate every variant with every seed; finished runs are kept, and a report is written."""
    from memlm.experiment.config import load_experiment

    experiment = load_experiment(config, override or [])
    console = Console(highlight=False, markup=False, soft_wrap=True)
    if detach:
        _detach(console, experiment.name, config, override or [], runs)
        return
    _print_header(console, experiment, runs)

    from memlm.experiment.run import Watcher, run_experiment
    from memlm.report.page import write_report

    view = _View(Console(stderr=True, highlight=False), total=len(experiment.variants) * len(experiment.seeds))
    with view.progress:
        watcher = Watcher(started=view.started, step=view.step, finished=view.finished)
        folder = run_experiment(experiment, runs, watcher, sys.stderr.isatty(), shlex.join(["memlm", *sys.argv[1:]]))
    write_report(folder)

    from memlm.cli.compare import print_comparison

    print_comparison(console, folder)


def _detach(console: Console, name: str, config: Path, overrides: list[str], runs: Path) -> None:
    from memlm.experiment.jobs import start_detached

    arguments = [str(config), "--runs", str(runs)]
    for override in overrides:
        arguments += ["-o", override]
    job = start_detached(arguments, runs / name)
    where = "" if runs == Path("runs") else f" --runs {runs}"
    console.print(f"started {name}, PID {job.pid}")
    console.print(f"  log     {job.log}")
    console.print(f"  follow  memlm logs {name} -f{where}")
    console.print(f"  stop    memlm stop {name}{where}")


def _print_header(console: Console, experiment: ExperimentConfig, runs: Path) -> None:
    """Prints every setting, so that a log tells alone what was run."""
    console.rule(f"memlm run {experiment.name} -> {runs / experiment.name}")
    settings = experiment.model_dump(mode="json", exclude_none=True)
    console.print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None), end="")
    console.rule()


class _View:
    """Draws the course of an experiment: one bar for the run at hand, one line for each that is finished."""

    def __init__(self, console: Console, total: int) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=console,
        )
        self._total, self._done = total, 0
        self._task: TaskID | None = None
        self._is_live = console.is_terminal

    def started(self, name: str, steps: int) -> None:
        """Starts a run's bar."""
        label = f"[{self._done + 1}/{self._total}] {name}"
        self._steps = steps
        self._task = self.progress.add_task(label, total=steps, detail="")
        self._name = label

    def step(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Moves the bar; where there is no terminal, a line at each tenth of the run tells the same."""
        detail = f"loss {loss:.3f}  {tokens_per_s:,.0f} tokens/s"
        if self._task is not None:
            self.progress.update(self._task, completed=step, detail=detail)
            if not self._is_live and step % max(1, self._steps // 10) == 0:
                remaining = self.progress.tasks[-1].time_remaining
                eta = "" if remaining is None else f"  ETA {remaining:.0f} s"
                self.progress.console.print(f"{self._name}  step {step}/{self._steps}  {detail}{eta}")

    def finished(self, name: str, results: Mapping[str, Any]) -> None:
        """Replaces the bar by a line."""
        self._done += 1
        if self._task is not None:
            self.progress.remove_task(self._task)
            self._task = None
        told = "finished before" if not results else _told(results)
        self.progress.console.print(f"[{self._done}/{self._total}] {name}  {told}", markup=False)


def _told(results: Mapping[str, Any]) -> str:
    return (
        f"validation {results['validation_loss']:.4f}  train {results['train_loss']:.4f}  "
        f"{results['tokens_per_s']:,.0f} tokens/s  {results['peak_memory_gib']:.2f} GiB  {results['time_s']:.0f} s"
    )
