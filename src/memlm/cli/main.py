"""`memlm`: gathers the commands and turns errors into one line."""

from __future__ import annotations

import logging
import os
import signal
import sys
from types import FrameType

import typer
from rich.console import Console
from rich.logging import RichHandler

from memlm import __version__, launcher
from memlm.cli import (
    bench,
    chat,
    check,
    compare,
    diff,
    doctor,
    edit,
    evaluate,
    export,
    fill,
    generate,
    graft,
    inspect,
    list_types,
    lm_eval,
    logs,
    ps,
    release,
    report,
    rerun,
    run,
    serve,
    stop,
    tune,
)
from memlm.errors import FollowerError, Interrupted, MemlmError, RunError
from memlm.storage import redacted

app = typer.Typer(
    name="memlm",
    help="Train, compare, inspect and ship memory-augmented language models, with evidence.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for name, module in {
    "run": run,
    "rerun": rerun,
    "check": check,
    "tune": tune,
    "compare": compare,
    "diff": diff,
    "report": report,
    "inspect": inspect,
    "edit": edit,
    "generate": generate,
    "chat": chat,
    "serve": serve,
    "export": export,
    "release": release,
    "graft": graft,
    "eval": evaluate,
    "lm-eval": lm_eval,
    "fill": fill,
    "list": list_types,
    "bench": bench,
    "doctor": doctor,
    "ps": ps,
    "logs": logs,
    "stop": stop,
}.items():
    app.command(name)(module.command)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"memlm {__version__}")
        raise typer.Exit()


@app.callback()
def _options(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Show the version."),
) -> None:
    """Train, compare, inspect and ship memory-augmented language models, with evidence."""
    if context.invoked_subcommand != "run" and not launcher.is_alone():
        raise RunError(f"memlm {context.invoked_subcommand} is one process; start it without a launcher")


class _Redacting(logging.Formatter):
    """Writes what is logged, tracebacks included, without credentials: trackers put keys into their errors."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        return redacted(super().format(record))


def _log_to_stderr(is_first: bool) -> None:
    handler = RichHandler(console=Console(stderr=True), show_time=False, show_path=False)
    handler.setFormatter(_Redacting("%(message)s"))
    level = logging.WARNING if is_first else logging.ERROR  # rank 0 tells it for all
    logging.basicConfig(level=level, handlers=[handler])


def _interrupt(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
    raise Interrupted(signal.Signals(number).name, number)


def main() -> None:
    """Runs the command line; the exit code is 0, or that of the error."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    is_first = launcher.is_first()
    _log_to_stderr(is_first)
    try:
        app()
    except (MemlmError, Interrupted) as error:
        if is_first or isinstance(error, FollowerError):  # what all ranks meet rank 0 tells
            typer.echo(redacted(f"error: {error}"), err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        typer.echo(redacted(f"error: {error.filename or ''}: {error.strerror or error}"), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
