"""A report as Markdown with GitHub's tables; the figures are left to the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from memlm.experiment.judge import Judgement
from memlm.report.claims import sentence
from memlm.report.content import Content
from memlm.report.tables import Table


def markdown(content: Content) -> str:
    """Returns the report as the text of ``report.md``."""
    return "\n\n".join(part for part in _parts(content) if part) + "\n"


def _parts(content: Content) -> Iterator[str]:
    yield f"# {_escape(content.title)}"
    yield _escape(content.subtitle)
    for judgement in content.judgements:
        yield verdict(judgement)
    if not content.judgements:
        yield "This experiment states no hypothesis, so there is no verdict."
    yield _items("Warning", content.warnings)
    yield _items("Missing", content.missing)
    yield _escape(content.alarms)
    for section in content.sections:
        yield f"## {section.title}"
        yield _escape(section.text)
        yield table(section.table) if section.table else ""
        yield "The figure is in `report.html`." if section.figure else ""
    yield from _samples(content)
    yield "## Findings"
    yield content.findings or "None written yet; they belong into `findings.md` beside this file."
    yield "## How it was run"
    yield fenced(content.command)
    yield table(content.provenance)


def verdict(judgement: Judgement) -> str:
    """Returns a claim, its verdict and what that rests on."""
    claim = f"{judgement.hypothesis.name}: {judgement.hypothesis.claim}"
    return f"**{_escape(claim)}. Verdict: {judgement.outcome}.** {_escape(sentence(judgement))}"


def _samples(content: Content) -> Iterator[str]:
    if not content.samples:
        return
    yield "## Samples"
    yield f"The first prompts of seed {content.sample_seed}, not picked."
    for sample in content.samples:
        yield "**Prompt**\n\n" + fenced(sample.prompt)
        yield from (f"{_escape(writer)}\n\n{fenced(text)}" for writer, text in sample.texts.items())


def _items(label: str, items: Sequence[str]) -> str:
    return "\n".join(f"- **{label}.** {_escape(item)}" for item in items)


def table(table: Table) -> str:
    """Returns a table in GitHub's Markdown."""
    ruler = [":--" if table.is_text(place) else "--:" for place in range(len(table.columns))]
    rows = ([_escape(text) for text in row] for row in table.texts)
    lines = [[_escape(column) for column in table.columns], ruler, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Makes text stand for itself, in a table too."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", text).replace("\n", " ")


def fenced(text: str) -> str:
    """Returns a block of text that is shown as it is."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
