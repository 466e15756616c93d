"""The screen: what the commands print on, and the bars that they draw."""

from __future__ import annotations

import shlex
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def output() -> Console:
    """Returns what results are printed on, without breaking lines; names and values of the user's are no markup."""
    return Console(highlight=False, markup=False, soft_wrap=True)


def beside() -> Console:
    """Returns what the course of a command is told on, beside its results: stderr."""
    return Console(stderr=True, highlight=False)


def shows_bars() -> bool:
    """Tells whether somebody sees the course as it goes: a log file is given lines and no bars."""
    return sys.stderr.isatty()


def bars(console: Console, *columns: ProgressColumn) -> Progress:
    """Returns bars with what each is of, ``columns``, the time that has passed and the time that is left."""
    left = (TextColumn("ETA"), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *columns, TimeElapsedColumn(), *left, console=console
    )


def eta(progress: Progress) -> str:
    """Returns the time that is left for the last bar, for the end of a line in a log; nothing before it can be told."""
    remaining = progress.tasks[-1].time_remaining
    return "" if remaining is None else f"  ETA {remaining:.0f} s"


def command_line() -> str:
    """Returns the command as it was given, for records."""
    return shlex.join(["memlm", *sys.argv[1:]])
