"""The generated parts of docs/performance.md, between their marks, and its figures. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from memlm.bench import figures, tables, targets
from memlm.bench.shapes import PARTS
from memlm.bench.store import Results
from memlm.errors import RunError
from memlm.report import markdown
from memlm.storage import write_text

PAGE = "performance.md"
FIGURES = {"growth": figures.growth, "roofline": figures.roofline}
BLOCKS = ("targets", *PARTS, "profiles", "roofline")
MARK = "<!-- generated: {} -->"
END = "<!-- end of generated -->"


def write_page(docs: Path, everything: Sequence[Results]) -> list[Path]:
    """Writes the tables and figures of every device into ``docs`` and returns what was written.

    Raises:
        RunError: the page is not there, or lacks a mark.
    """
    path = docs / PAGE
    if not path.is_file():
        raise RunError(f"{path}: not there; give --report in a copy of memlm's repository, or --docs")
    text = path.read_text(encoding="utf-8")
    (docs / "figures").mkdir(exist_ok=True)
    written = [path]
    drawn: dict[tuple[str, int], str] = {}
    for position, results in enumerate(everything):
        for name, draw in FIGURES.items():
            svg = draw(results)
            if svg is not None:
                figure = docs / "figures" / f"{name}-{results.path(docs).parent.name}.svg"
                write_text(figure, svg)
                written.append(figure)
                drawn[name, position] = figure.relative_to(docs).as_posix()
    for block in BLOCKS:
        text = _replaced(path, text, block, "\n\n".join(_block(block, everything, drawn)))
    write_text(path, text)
    return written


def _block(block: str, everything: Sequence[Results], drawn: dict[tuple[str, int], str]) -> list[str]:
    """Returns the paragraphs of a block: for each device its tables and its figure, drawn by block and position."""
    parts: list[str] = []
    for position, results in enumerate(everything):
        device = results.device["name"]
        found = _tables(block, results)
        if (block, position) in drawn:
            found.append(f"![{block} on {device}]({drawn[block, position]})")
        if found:
            parts += [f"**{device}**, commit {results.commit}, torch {results.versions.get('torch')}", *found]
    return parts or ["Not measured yet."]


def _tables(block: str, results: Results) -> list[str]:
    if block == "targets":
        is_meant = targets.DEVICE in results.device["name"] and any(
            results.of(target.part) for target in targets.TARGETS
        )
        return [markdown.table(targets.table(results))] if is_meant else []
    if block == "profiles":
        rows = {name: row for group in results.of("steps") for name, row in group.rows.items() if row.get("profile")}
        return [part for name, row in rows.items() for part in (name, markdown.table(tables.profile(row)))]
    found: list[str] = []
    for group in results.of(block):
        rates = group.ceilings
        limits = f"copy {rates['bytes_per_s'] / 1e9:,.0f} GB/s, matmul {rates['flops_per_s'] / 1e12:,.1f} TFLOP/s"
        found += [f"{group.shape}: {group.sizes}; {limits}", markdown.table(tables.TABLES[block](group))]
    return found


def _replaced(path: Path, text: str, block: str, content: str) -> str:
    start = MARK.format(block)
    pattern = re.compile(f"{re.escape(start)}.*?{re.escape(END)}", flags=re.S)
    if len(pattern.findall(text)) != 1:
        raise RunError(f"{path}: needs {start} and {END} once; take both from the repository's copy")
    return pattern.sub(lambda _: f"{start}\n\n{content}\n\n{END}", text)
