"""The generated parts of docs/performance.md, between their marks, and its figures. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from memlm.bench import figures, tables, targets
from memlm.bench.shapes import PARTS
from memlm.bench.store import Results
from memlm.errors import RunError
from memlm.report import markdown
from memlm.storage import write_text

PAGE = "performance.md"
FIGURES = {"growth": ("growth", figures.growth), "roofline": ("stages", figures.roofline)}
"""Each with the part that it draws."""
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
    devices: dict[str, list[Results]] = {}
    for results in everything:
        devices.setdefault(results.device["name"], []).append(results)
    written, drawn = [path], dict[tuple[str, str], tuple[str, str]]()
    for (name, (part, draw)), (device, found) in product(FIGURES.items(), devices.items()):
        svg = draw(whole) if (whole := _whole(found, [part])) else None
        if whole and svg is not None:
            figure = docs / "figures" / f"{name}-{whole.path(docs).parent.name}.svg"
            write_text(figure, svg)
            written.append(figure)
            drawn[name, device] = _heading(whole), f"![{name} on {device}]({figure.relative_to(docs).as_posix()})"
    for block in BLOCKS:
        parts = [part for found in devices.values() for part in _block(block, found, drawn)]
        text = _replaced(path, text, block, "\n\n".join(parts or ["Not measured yet."]))
    write_text(path, text)
    return written


def _whole(found: Sequence[Results], parts: Sequence[str]) -> Results | None:
    """Returns what was measured of some parts on one device, at whichever commits; None if nothing was."""
    meant = [results for results in found if any(results.of(part) for part in parts)]
    if not meant:
        return None
    groups = {key: group for results in meant for key, group in results.groups.items() if group.part in parts}
    commits, torches = ([r.commit for r in meant], dict.fromkeys(str(r.versions.get("torch")) for r in meant))
    return replace(meant[-1], commit=", ".join(commits), versions={"torch": ", ".join(torches)}, groups=groups)


def _block(block: str, found: Sequence[Results], drawn: dict[tuple[str, str], tuple[str, str]]) -> list[str]:
    """Returns the paragraphs of a block for one device: the tables of each commit, and what was drawn."""
    device, parts = found[0].device["name"], list[str]()
    if block == "targets":
        whole = _whole(found, list(dict.fromkeys(target.part for target in targets.TARGETS)))
        if whole and targets.DEVICE in device:
            parts += [_heading(whole), markdown.table(targets.table(whole))]
    for results in found:
        if tables_of_it := _tables(block, results):
            parts += [_heading(results), *tables_of_it]
    if (block, device) in drawn:
        heading, figure = drawn[block, device]
        parts += [figure] if parts else [heading, figure]
    return parts


def _heading(results: Results) -> str:
    commits = "commits" if "," in results.commit else "commit"
    return f"**{results.device['name']}**, {commits} {results.commit}, torch {results.versions.get('torch')}"


def _tables(block: str, results: Results) -> list[str]:
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
