"""`memlm doctor`: what this machine has and lacks, each with the line that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from memlm.cli import screen
from memlm.cli.options import Overrides, RunsOption

if TYPE_CHECKING:
    from memlm.experiment.environment import Check

STYLES = {"ok": "green", "warning": "yellow", "missing": "bold red"}


def command(
    config: Annotated[
        Path | None, typer.Argument(help="Also look for this experiment's data.", metavar="CONFIG")
    ] = None,
    override: Overrides = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """Check device, versions, optional packages and disk. With a CONFIG its data too; nothing is changed."""
    from memlm.experiment import environment

    console = screen.output()
    demands = environment.find_demands()
    failures = _show(console, [environment.check_platform(), *environment.check_packages(demands)])
    has_packages = not failures
    failures += _show(console, environment.check_extras(demands))
    failures += _show(console, environment.check_devices())
    if has_packages:  # without them, what comes now cannot be imported
        failures += _show(console, environment.check_folders(runs))
        if config is not None:
            from memlm.experiment.config import load_experiment

            failures += _show(console, environment.check_experiment(load_experiment(config, override or [])))
    if failures:
        console.print(f"\n{failures} missing; nothing can be run before that is mended", style="bold red")
        raise typer.Exit(1)
    console.print("\nready", style="bold green")


def _show(console: Console, checks: Iterable[Check]) -> int:
    """Prints checks as they come, and returns how many stop an experiment."""
    failures = 0
    for check in checks:
        failures += check.is_failure
        is_optional = check.mark == "missing" and not check.is_required
        style = "dim" if is_optional else STYLES[check.mark]
        console.print(Text.assemble((f"{check.mark:<8}", style), f"{check.what:<15} {check.detail}"))
        if check.mend:
            console.print(Text(f"{'':<24}{check.mend}", style="dim" if is_optional else "bold"))
    return failures
