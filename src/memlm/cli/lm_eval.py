"""`memlm lm-eval`: lm-eval's tasks for a run's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from memlm.cli import screen
from memlm.cli.options import RunArgument, Values, ValuesOption


def command(
    run: RunArgument,
    tasks: Annotated[list[str], typer.Argument(help="Names of tasks.", metavar="TASK")],
    include: Annotated[Path | None, typer.Option("--include", help="A folder of your own task files.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Questions of each task, for a try.")] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Questions at a time.")] = 8,
    values: ValuesOption = Values.DEVICE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Evaluate a run's model on tasks of lm-eval."""
    from memlm.experiment.reading import read_trained

    read_trained(run)  # a wrong folder is told before what takes seconds to import

    from memlm.evaluate.lm_eval import evaluate_tasks
    from memlm.experiment.trained import open_model

    model, tokenizer = open_model(run, values=values)
    screen.tell_left_out(run)
    results = evaluate_tasks(model, tokenizer, tasks, include, limit, batch_size)
    if as_json:
        typer.echo(json.dumps(results))
        return
    rows = [
        [task, metric.removesuffix(",none"), f"{value:.4f}"]
        for task, row in results.items()
        for metric, value in row.items()
    ]
    screen.show_table(screen.output(), ["task", "metric", "value"], rows, labels=3)
