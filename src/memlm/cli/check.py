"""`memlm check`: everything about an experiment that can be known before it is run."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from memlm.cli.options import ConfigArgument, Overrides


def command(
    config: ConfigArgument,
    override: Overrides = None,
    measure: Annotated[bool, typer.Option(help="Take a few steps on the device to estimate time and memory.")] = True,
) -> None:
    """Check a config and its data, and print each variant's parameters, FLOPs, bytes, time and peak memory."""
    from memlm.experiment.config import load_experiment

    experiment = load_experiment(config, override or [])
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{config}: sound; {len(experiment.variants)} variants x {len(experiment.seeds)} seeds")

    from memlm.data.prepare import prepare
    from memlm.evaluate.suite import Suite
    from memlm.experiment.estimate import estimate
    from memlm.experiment.run import device_record
    from memlm.report.tables import compact, duration

    data = prepare(experiment.data, progress=sys.stderr.isatty())
    suite = Suite.of(experiment.evaluate, data, experiment.data.seq_len)
    device = device_record(experiment.train)
    console.print(f"data: {len(data.train.ids):,} training tokens, {len(data.validation.ids):,} held out")
    console.print(f"device: {device['name']} ({device['kind']})")
    columns = ["variant", "parameters", "active", "FLOPs/token", "bytes/token", "steps", "tokens"]
    columns += ["time", "evaluation", "peak memory"] if measure else []
    table = Table(*columns)
    total = 0.0
    for variant in experiment.variants:
        price = estimate(experiment, variant, data, suite, measure)
        row = [compact(price.cost.parameters), compact(price.cost.active_parameters)]
        row += [compact(price.cost.flops_per_token), compact(price.cost.bytes_per_token)]
        row += [f"{price.plan.steps:,}", compact(price.plan.steps * price.plan.tokens_per_step)]
        if price.time_s is not None and price.evaluate_s is not None:
            total += (price.time_s + price.evaluate_s) * len(experiment.seeds)
            row += [duration(price.time_s), duration(price.evaluate_s), f"{price.peak_memory_gib:.2f} GiB"]
        table.add_row(variant, *row)
    console.print(table)
    if measure:
        console.print(f"whole experiment: about {duration(total)}, generation of samples not counted")
