"""`memlm run`: trains and evaluates an experiment and writes its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.progress import TaskID, TextColumn
from rich.text import Text

from memlm import launcher
from memlm.cli import screen
from memlm.cli.options import ConfigArgument, Overrides, RunsOption
from memlm.errors import Interrupted, MemlmError, RunError
from memlm.storage import redacted

if TYPE_CHECKING:
    from memlm.experiment.attempt import Watcher
    from memlm.experiment.config import ExperimentConfig
    from memlm.experiment.solution import Solution


def command(
    config: ConfigArgument,
    override: Overrides = None,
    runs: RunsOption = Path("runs"),
    detach: Annotated[bool, typer.Option("--detach", help="Run in the background; memlm logs follows it.")] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Runs at a time, each in its own process, by Ray; 0: one, here.")
    ] = 0,
) -> None:
    """Train and evaluate every variant with every seed. Finished runs are kept, and a report is written."""
    from memlm.experiment.config import load_experiment

    launcher.require_sound()
    experiment = load_experiment(config, override or [])
    if launcher.rank():
        from memlm.experiment.followers import follow

        raise typer.Exit(follow(experiment))
    console = screen.output()
    if workers and launcher.n_ranks() > 1:
        raise RunError("--workers starts processes itself; leave out the launcher, or --workers")
    if detach and launcher.n_ranks() > 1:
        raise RunError("--detach is for one process; leave it out, and start the launcher itself in the background")
    if detach:
        _detach(console, experiment.name, config, override or [], runs, workers)
        return
    _print_header(console, experiment, runs)

    from memlm.experiment.run import run_experiment
    from memlm.report.page import write_report

    if launcher.n_ranks() > 1:
        screen.beside().print(f"waiting for {launcher.n_ranks()} processes at {launcher.address()}", markup=False)
    view = View(screen.beside(), total=len(experiment.variants) * len(experiment.seeds))
    with view.progress:
        watcher = view.watcher()
        failed: MemlmError | None = None
        try:
            run_experiment(experiment, runs, watcher, screen.shows_bars(), screen.command_line(), workers)
        except MemlmError as error:
            if not view.n_ended:
                raise
            failed = error  # the other runs are worth a report
        except Interrupted:
            view.progress.console.print("finished runs and checkpoints are kept; the same command goes on from there")
            raise
    folder = runs / experiment.name

    from memlm.cli.compare import print_comparison

    try:
        write_report(folder)
        print_comparison(console, folder)
    finally:  # why runs failed is told, also where the report fails as well
        if failed is not None:
            raise failed


def _detach(console: Console, name: str, config: Path, overrides: list[str], runs: Path, workers: int) -> None:
    from memlm.experiment.jobs import start_detached

    arguments = [str(config), "--runs", str(runs), "--workers", str(workers)]
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
    console.print(f"── memlm run {experiment.name} -> {runs / experiment.name} ──")
    settings = redacted(experiment.model_dump(mode="json", exclude_none=True))
    console.print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, default_flow_style=None), end="")
    console.print("──")


class View:
    """Draws the course of an experiment: one bar for the run at hand, one line for each that has ended.

    Attributes:
        n_ended: Runs that are finished or have failed.
    """

    def __init__(self, console: Console, total: int) -> None:
        self.progress = screen.bars(
            console, TextColumn("{task.completed:.0f}/{task.total:.0f}"), TextColumn("{task.fields[detail]}")
        )
        self._total, self.n_ended = total, 0
        self._task: TaskID | None = None
        self._alarms: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._begun: list[Mapping[str, Any]] = []
        self._from = 0
        self._is_live = console.is_terminal

    def watcher(self) -> Watcher:
        """Returns what an experiment tells its course."""
        from memlm.experiment.attempt import Watcher

        return Watcher(
            self.matched,
            self.checked,
            self.started,
            self.continued,
            self.step,
            self.alarm,
            self.finished,
            self.failed,
        )

    def matched(self, solution: Solution) -> None:
        """Tells what a match was solved to."""
        solved = f"{solution.setting} {solution.value:,} for the {solution.by} of {solution.to}"
        self._print(f"{solution.variant}  solved: {solved}, off by {100 * solution.off:.2g} %")

    def checked(self, name: str, line: str) -> None:
        """Tells how a run's preflight ended."""
        self._print(f"[{self.n_ended + 1}/{self._total}] {name}  preflight {line}")

    def started(self, name: str, steps: int) -> None:
        """Starts a run's bar."""
        label = f"[{self.n_ended + 1}/{self._total}] {name}"
        self._steps = steps
        self._task = self.progress.add_task(label, total=steps, detail="")
        self._name = label
        self._alarms = {}
        self._from = 0

    def continued(self, name: str, step: int) -> None:
        """Tells from where a run goes on."""
        self._from = step
        self.progress.console.print(f"{name} goes on from step {step}", markup=False)

    def step(self, step: int, loss: float, tokens_per_s: float) -> None:
        """Moves the bar; where there is no terminal, a line at each tenth of the run tells the same."""
        from memlm.report.alarms import marks

        self._tell_alarms()
        told = [f"loss {loss:.3f}  {tokens_per_s:,.0f} tokens/s", marks(self._alarms.values())]
        detail = ("\n" if self._is_live else "  ").join(told).rstrip()  # beside a bar there is no room for a long line
        if self._task is not None:
            self.progress.update(self._task, completed=step, detail=detail)
            if not self._is_live and step % max(1, self._steps // 10) == 0:
                self._print(f"{self._name}  step {step}/{self._steps}  {detail}{screen.eta(self.progress)}")

    def alarm(self, _name: str, entry: Mapping[str, Any]) -> None:
        """Takes an alarm of the run at hand that began or ceased; what began is told before the next step."""
        self._alarms[entry["name"], entry["where"]] = entry
        if entry["active"] and entry["last_step"] > self._from:  # what held before a break was told before it
            self._begun.append(entry)

    def _tell_alarms(self) -> None:
        """Prints what began since the last time: the layers of a model come one by one, and are told in one line."""
        from memlm.report.alarms import lines

        for line in lines(self._begun):
            self._print(f"{self._name}  {line}", style="yellow")
        self._begun = []

    def finished(self, name: str, results: Mapping[str, Any]) -> None:
        """Replaces the bar by a line."""
        self._end(name, _told(results) if results else "finished before")

    def failed(self, name: str, reason: str) -> None:
        """Replaces the bar by a line that says why there is no result."""
        self._end(name, reason, style="red")

    def _end(self, name: str, told: str, style: str = "") -> None:
        self._tell_alarms()
        self.n_ended += 1
        if self._task is not None:
            self.progress.remove_task(self._task)
            self._task = None
        self._print(f"[{self.n_ended}/{self._total}] {name}  {told}", style)

    def _print(self, line: str, style: str = "") -> None:
        self.progress.console.print(Text(line, style), soft_wrap=True)


def _told(results: Mapping[str, Any]) -> str:
    return (
        f"validation {results['validation_loss']:.4f}  train {results['train_loss']:.4f}  "
        f"{results['tokens_per_s']:,.0f} tokens/s  {results['peak_memory_gib']:.2f} GiB  {results['time_s']:.0f} s"
    )
