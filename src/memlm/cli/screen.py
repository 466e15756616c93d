"""The screen: what the commands print on, and the bars that they draw."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from memlm.errors import MemlmError, counted

UNBOUNDED = 10_000
"""Columns of what is no terminal: a file or a pipe has no edge at which a table would have to be cut."""
SLOWEST = 3600.0
"""Seconds between two steps of a stage, beyond which the time that is left is not told."""
PROSE = 100
"""Columns after which sentences go on in the next line where there is no terminal."""
READABLE = 14
"""Columns that a cell's text keeps where it must be broken between words."""


def output() -> Console:
    """Returns what results are printed on, without breaking lines; nothing of the user's is markup or emoji."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else UNBOUNDED
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, width=width)


def show_prose(console: Console, text: str, style: str = "", indent: int = 0) -> None:
    """Prints sentences, broken between words at the edge of the terminal, after `PROSE` columns where there is none."""
    room = PROSE if console.width == UNBOUNDED else console.width
    for line in Text(text).wrap(console, room - indent):
        console.print(Text(" " * indent + line.plain.rstrip(), style))


def show_table(
    console: Console,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str = "",
    labels: int = 1,
    numbers: Collection[int] = (),
) -> None:
    """Prints a table, no cell of which is cut.

    Where a screen is too narrow for it, texts are broken between words, and it comes in parts.

    Args:
        console: What it is printed on.
        columns: The heads.
        rows: The cells, a text for each column; one of several lines is broken elsewhere only if it must.
        title: What stands above it.
        labels: So many columns at the left are in every part. A table of labels alone is whole, its words are broken.
        numbers: The columns that are aligned at the right.
    """
    cells = [[cell.split("\n") for cell in column] for column in zip(columns, *rows, strict=True)]
    widths = [max(cell_len(line) for lines in column for line in lines) for column in cells]
    least = [min(width, max(_longest(column), READABLE)) for width, column in zip(widths, cells, strict=True)]
    is_whole = _width(widths) <= console.width
    for number, part in enumerate(_parts(widths if is_whole else least, labels, console.width)):
        fitted = _fitted([widths[i] for i in part], [least[i] for i in part], console.width)
        table = Table(title=title if title and not number else None, title_justify="left")
        for i, width in zip(part, fitted, strict=True):
            justify = "right" if i in numbers else "left"
            table.add_column(columns[i], width=width, overflow="fold", justify=justify)
        for row in rows:
            table.add_row(*(row[i] for i in part))
        console.print(table)


def _longest(column: Sequence[Sequence[str]]) -> int:
    """Returns the width of what should not be broken: of a line in cells of several lines, of a word in others."""
    return max((cell_len(text) for lines in column for text in (lines if lines[1:] else lines[0].split())), default=0)


def _fitted(widths: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """Returns widths that fit: the widest column gives way, those at their least when all are."""
    fitted = list(widths)
    while _width(fitted) > room and max(fitted) > 1:
        widest = max(range(len(fitted)), key=lambda i: (fitted[i] > least[i], fitted[i]))
        fitted[widest] -= 1
    return fitted


def _parts(widths: Sequence[int], labels: int, room: int) -> Iterator[list[int]]:
    """Yields which columns stand side by side: the labels, and as many others as there is room for, at least one."""
    part = list(range(labels))
    for column in range(labels, len(widths)):
        if len(part) > labels and _width([widths[i] for i in [*part, column]]) > room:
            yield part
            part = list(range(labels))
        part.append(column)
    yield part


def _width(columns: Sequence[int]) -> int:
    """Returns the width of a table: of its columns, and of the frame around each."""
    return sum(columns) + 3 * len(columns) + 1


def beside() -> Console:
    """Returns what the course of a command is told on, beside its results: stderr."""
    return Console(stderr=True, highlight=False, emoji=False)


def tell_edits(run: Path, n: int, more: str = "") -> None:
    """Tells beside the results that a run was opened with ``n`` edits in force, if there are any."""
    if n:
        listed = f"memlm edit {shlex.quote(str(run))} lists {'it' if n == 1 else 'them'}"
        beside().print(f"with {counted(n, 'edit')} in force ({listed}){more}", markup=False, soft_wrap=True)


def tell_left_out(run: Path) -> None:
    """Tells beside the results that they are the checkpoint's, if the run has edits."""
    from memlm.experiment.recorded_edits import has_edits

    try:
        if not has_edits(run):
            return
        told = f"; memlm edit {shlex.quote(str(run))} --export DIR writes the edited model"
    except MemlmError as error:  # no reason to keep back what is not about them
        told = f": {error}"
    beside().print(f"without the run's edits{told}", markup=False, soft_wrap=True)


def shows_bars() -> bool:
    """Tells whether somebody sees the course as it goes: a log file is given lines and no bars."""
    return sys.stderr.isatty()


def bars(console: Console, *columns: ProgressColumn) -> Progress:
    """Returns bars with what each is of, ``columns``, the time that has passed and the time that is left."""
    left = (TextColumn("ETA"), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), BarColumn(), *columns, TimeElapsedColumn(), *left, console=console
    )


@contextmanager
def stages() -> Generator[Callable[[str, int, int], None]]:
    """Lends what is told how many steps of how many are done of a stage, and shows a bar for each stage."""
    shown = bars(beside(), TaskProgressColumn())
    shown.disable = not shows_bars()
    shown.speed_estimate_period = SLOWEST  # some stages have few and long steps
    tasks: dict[str, TaskID] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = shown.add_task(stage, total=total)
        shown.update(tasks[stage], completed=done, total=total)

    with shown:
        yield show


def eta(progress: Progress) -> str:
    """Returns the time that is left for the last bar, for the end of a line in a log; nothing before it can be told."""
    remaining = progress.tasks[-1].time_remaining
    return "" if remaining is None else f"  ETA {remaining:.0f} s"


def command_line() -> str:
    """Returns the command as it was given, for records."""
    return shlex.join(["memlm", *sys.argv[1:]])
