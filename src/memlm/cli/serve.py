"""`memlm serve`: a run's model behind OpenAI's protocol."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from memlm.cli import screen
from memlm.cli.options import RunArgument, Values, ValuesOption
from memlm.errors import Interrupted
from memlm.extras import optional


def command(
    run: RunArgument,
    port: Annotated[int, typer.Option("--port", help="The port to listen at.")] = 8000,
    host: Annotated[
        str, typer.Option("--host", help="The address; others than 127.0.0.1 let others in.")
    ] = "127.0.0.1",
    values: ValuesOption = Values.DEVICE,
) -> None:
    """Serve a run's model to OpenAI clients on this machine. They may chat, complete texts, and stream."""
    from memlm.experiment.reading import read_trained

    read_trained(run)  # a wrong folder is told before what takes seconds to import

    for package in ("fastapi", "uvicorn", "openai"):
        optional(package, "serve", "memlm serve")
    from memlm.export.serve import serve

    def tell(name: str, n_edits: int) -> None:
        screen.tell_edits(run, n_edits)
        typer.echo(f"http://{host}:{port}/v1, model {name!r}; Ctrl+C ends it")
        if host not in ("127.0.0.1", "::1", "localhost"):
            typer.echo("whoever reaches this address can use the model; there is no password", err=True)

    with contextlib.suppress(Interrupted):  # a signal is how one ends it; it is no failure
        serve(run, host, port, tell, values)
