"""The table of reliability: what was tried on purpose to break memlm, and how often it did as it should.

A test adds rows by ``record_property("reliability", {"what": ..., "tried": ..., "good": ..., "note": ...})``; rows of
the same ``what`` are summed. The table ends the session's summary;
``--reliability-file PATH`` also writes it as Markdown.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

PROPERTY = "reliability"
HEAD = ("what", "tried", "as it should be", "lost or missed", "notes")


class Rows:
    """Gathers the rows of all tests, on the process that prints the summary."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # Properties travel from xdist's workers with the reports; each report of a test repeats them all.
        if report.when == "teardown":
            self.rows += [value for name, value in report.user_properties if name == PROPERTY]

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        table = summed(self.rows)
        if not table:
            return
        terminalreporter.section("reliability")
        for line in aligned([HEAD, *table]):
            terminalreporter.write_line(line)
        path = config.getoption("--reliability-file")
        if path is not None:
            Path(path).write_text(markdown(table), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability-file", metavar="PATH", help="also write the table of reliability as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Rows(), "reliability-rows")


def summed(rows: Iterable[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Returns the cells of one line for each ``what``, in the order of the alphabet; notes are kept once each."""
    by_what: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_what.setdefault(row["what"], []).append(row)
    table: list[tuple[str, ...]] = []
    for what, group in sorted(by_what.items()):
        tried, good = sum(row["tried"] for row in group), sum(row["good"] for row in group)
        notes = "; ".join(dict.fromkeys(row["note"] for row in group if row.get("note")))
        table.append((what, f"{tried:,}", f"{good:,}", f"{tried - good:,}", notes))
    return table


def aligned(table: list[tuple[str, ...]]) -> list[str]:
    """Returns the lines of a plain table; numbers stand on the right."""
    widths = [max(len(row[n]) for row in table) for n in range(4)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(row[n].rjust(widths[n]) for n in (1, 2, 3)), row[4]]).rstrip()
        for row in table
    ]


def markdown(table: list[tuple[str, ...]]) -> str:
    """Returns a Markdown table."""
    lines = ["|".join(("", *(f" {cell} " for cell in row), "")) for row in [HEAD, *table]]
    return "\n".join([lines[0], "|---|---:|---:|---:|---|", *lines[1:]]) + "\n"
