"""`memlm check`: everything about an experiment that can be known before it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from memlm.cli import screen
from memlm.cli.options import ConfigArgument, Overrides
from memlm.errors import counted

if TYPE_CHECKING:
    from memlm.data.cache import TokenData
    from memlm.experiment.config import ExperimentConfig
    from memlm.experiment.estimate import Estimate
    from memlm.experiment.solution import Solution


def command(
    config: ConfigArgument,
    override: Overrides = None,
    measure: Annotated[bool, typer.Option(help="Take a few steps on the device to estimate time and memory.")] = True,
    preflight: Annotated[bool, typer.Option(help="Try a small copy of each variant; refuse one with a fault.")] = False,
) -> None:
    """Check a config and its data, and print what variants cost. In parameters, FLOPs, bytes, time and peak memory."""
    from memlm.experiment.config import load_experiment

    experiment = load_experiment(config, override or [])
    console = screen.output()
    n_runs = f"{counted(len(experiment.variants), 'variant')} x {counted(len(experiment.seeds), 'seed')}"
    console.print(f"{config}: no mistake in the settings; {n_runs}")

    from memlm.data.prepare import prepare
    from memlm.experiment.estimate import estimate
    from memlm.experiment.match import solve_steps, solve_widths
    from memlm.experiment.run import device_record
    from memlm.experiment.text import suite_of
    from memlm.report.tables import duration

    experiment, solutions = solve_widths(experiment)
    data = prepare(experiment.data, progress=screen.shows_bars())
    suite = suite_of(experiment, data)
    device = device_record(experiment.train)
    console.print(f"data: {len(data.train.ids):,} training tokens, {len(suite.held_out.ids):,} held out")
    if suite.asked:
        console.print(f"questions: {len(suite.asked):,}")
    console.print(f"device: {device['name']} ({device['kind']})")
    if preflight:
        _print_preflight(console, experiment, data)
    if measure:
        console.print("taking a few steps of each variant on this device ...")
        experiment, timed = solve_steps(experiment, data, suite.tokenizer, device["name"])
        solutions += timed
    prices = {variant: estimate(experiment, variant, data, suite, measure) for variant in experiment.variants}
    rows = [[name, *map(told, prices.values())] for name, told in _quantities(measure).items()]
    screen.show_table(console, ["", *prices], rows)
    _print_matches(console, experiment, solutions)
    if measure:
        each = sum((price.time_s or 0) + (price.evaluate_s or 0) for price in prices.values())
        whole = duration(each * len(experiment.seeds))
        console.print(f"whole experiment: about {whole}, generation of samples not counted")


def _print_matches(console: Console, experiment: ExperimentConfig, solutions: Sequence[Solution]) -> None:
    """Prints what every match asks for, what it was solved to, and how near that comes."""
    from memlm.report.tables import compact, duration

    if solutions:
        rows: list[list[str]] = []
        for s in solutions:
            form = duration if s.by == "wall_clock" else compact
            solved = f"{s.setting} = {s.value:,}"
            rows.append([s.variant, s.to, s.by, solved, form(s.target), form(s.reached), f"{100 * s.off:.3f} %"])
        screen.show_table(console, ["matched", "to", "by", "solved", "target", "reached", "off"], rows)
    for solution in solutions:
        if solution.by == "wall_clock":
            varied = f"step times varied by {100 * (solution.spread or 0):.2g} %"
            console.print(f"{solution.variant}: measured now ({varied}); a run measures once, and keeps what it found")
    for name, variant in experiment.variants.items():
        if variant.match is not None:
            console.print(f"{name}: its steps are matched by wall_clock and not known without --measure")


def _quantities(measured: bool) -> dict[str, Callable[[Estimate], str]]:
    """Returns what is told of a variant, and how."""
    from memlm.report.tables import compact, duration

    counted: dict[str, Callable[[Estimate], str]] = {
        "parameters": lambda price: compact(price.cost.parameters),
        "active parameters": lambda price: compact(price.cost.active_parameters),
        "FLOPs per token": lambda price: compact(price.cost.flops_per_token),
        "bytes read per token": lambda price: compact(price.cost.bytes_per_token),
        "steps": lambda price: f"{price.plan.steps:,}",
        "tokens": lambda price: compact(price.plan.steps * price.plan.tokens_per_step),
    }
    timed: dict[str, Callable[[Estimate], str]] = {
        "training time": lambda price: duration(price.time_s or 0),
        "evaluation time": lambda price: duration(price.evaluate_s or 0),
        "peak memory": lambda price: f"{price.peak_memory_gib or 0:.2f} GiB",
    }
    return counted | timed if measured else counted


def _print_preflight(console: Console, experiment: ExperimentConfig, data: TokenData) -> None:
    """Prints how every check of every variant ended, and refuses those with a fault."""
    from memlm.experiment.preflight import preflight_variant
    from memlm.train.preflight import require

    reports = {variant: preflight_variant(experiment, variant, data) for variant in experiment.variants}
    rows = [
        [row[0].check, *(f"{outcome.status} {outcome.seconds:.2f} s" for outcome in row)]
        for row in zip(*(report.outcomes for report in reports.values()), strict=True)
    ]
    times = ("remembered" if report.remembered else f"{report.seconds:.1f} s" for report in reports.values())
    screen.show_table(console, ["check", *reports], [*rows, ["all", *times]])
    for variant, report in reports.items():
        for outcome in report.outcomes:
            if outcome.status in ("declared", "skipped"):
                console.print(f"{variant}: {outcome.check} {outcome.status}: {outcome.reason}")
    require(reports)
