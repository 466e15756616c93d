"""`memlm graft`: adds a memory to a model that is there already."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from memlm.cli import screen


def command(
    dense: Annotated[Path, typer.Argument(help="The folder of a Llama- or Qwen-like model.", metavar="DENSE_MODEL")],
    folder: Annotated[Path, typer.Argument(help="The new folder.", metavar="DIR")],
    config: Annotated[Path, typer.Option("--config", help="What is added and how it is trained: a YAML file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--override", "-o", help="Change a setting: -o lr=1e-4; may be given many times."),
    ] = None,
) -> None:
    """Add a memory to a Hugging Face model, train the memory alone, and write a folder that loads without memlm."""
    from memlm.config.load import read, validate
    from memlm.model.graft import GraftConfig

    settings = validate(read(config, overrides or ()), GraftConfig)
    from memlm.graft.graft import graft

    if screen.shows_bars():
        with screen.bars(screen.beside(), MofNCompleteColumn()) as bars:
            task = bars.add_task("training the memory", total=settings.steps)
            found = graft(
                dense,
                folder,
                settings,
                lambda step, loss: bars.update(task, completed=step, description=f"loss {loss:.3f}"),
            )
    else:
        found = graft(dense, folder, settings, _lines(settings.steps))
    typer.echo(f"{found.added:,} parameters added, trained on {found.tokens:,} tokens")
    typer.echo(f"held-out loss {found.before:.4f} -> {found.after:.4f} nats per token")
    typer.echo(f"{folder}: AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True) loads it")


def _lines(steps: int) -> Callable[[int, float], None]:
    """Returns what tells each tenth of the steps in a line on stderr, for a log file."""
    began = 0.0

    def tell(step: int, loss: float) -> None:
        nonlocal began
        if step == 1:
            began = time.monotonic()
        if step % max(1, steps // 10) == 0:
            passed = time.monotonic() - began
            eta = f"  ETA {passed / (step - 1) * (steps - step):.0f} s" if step > 1 else ""
            typer.echo(f"step {step}/{steps}  loss {loss:.3f}{eta}", err=True)

    return tell
