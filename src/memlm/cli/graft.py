"""`memlm graft`: adds a memory to a model that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import MofNCompleteColumn

from memlm.cli import screen
from memlm.cli.options import Overrides


def command(
    dense: Annotated[Path, typer.Argument(help="The folder of a Llama- or Qwen-like model.", metavar="DENSE_MODEL")],
    folder: Annotated[Path, typer.Argument(help="The new folder.", metavar="DIR")],
    config: Annotated[Path, typer.Option("--config", help="What is added and how it is trained: a YAML file.")],
    override: Overrides = None,
) -> None:
    """Add a memory to a Hugging Face model, and train it alone. The folder that is written loads without memlm."""
    from memlm.config.load import read, validate
    from memlm.model.graft import GraftConfig

    settings = validate(read(config, override or ()), GraftConfig)
    from memlm.graft.graft import graft

    bars = screen.bars(screen.beside(), MofNCompleteColumn())
    bars.disable = not screen.shows_bars()
    task = bars.add_task("training the memory", total=settings.steps)

    def tell(step: int, loss: float) -> None:
        """Moves the bar; where there is no terminal, a line at each tenth of the steps tells the same."""
        told = f"loss {loss:.3f}"
        bars.update(task, completed=step, description=told)
        if bars.disable and step % max(1, settings.steps // 10) == 0:
            typer.echo(f"step {step}/{settings.steps}  {told}{screen.eta(bars)}", err=True)

    with bars:
        found = graft(dense, folder, settings, tell)
    typer.echo(f"{found.added:,} parameters added, trained on {found.tokens:,} tokens")
    typer.echo(f"held-out loss {found.before:.4f} -> {found.after:.4f} nats per token")
    typer.echo(f"{folder}: AutoModelForCausalLM.from_pretrained({str(folder)!r}, trust_remote_code=True) loads it")
