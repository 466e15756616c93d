"""The model card: what the model is, how it is loaded, and what its record and its experiment say of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from memlm.experiment.compare import Comparison, compare
from memlm.experiment.reading import Run, read_experiment
from memlm.report import tables
from memlm.report.markdown import fenced, table, verdict
from memlm.report.tables import Cell, Table

HEAD = """\
---
library_name: transformers
pipeline_tag: text-generation
tags:
- memlm
- memory-augmented
---
"""
"""What every model card begins with."""
USE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this one
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
print(tokenizer.decode(model.generate(**tokenizer("The", return_tensors="pt"), max_new_tokens=20)[0]))"""


def card(run: Run, experiment: Path) -> str:
    """Returns the text of ``README.md`` for a finished run and the folder of its experiment."""
    return HEAD + "\n" + "\n\n".join(_parts(run, experiment)) + "\n"


def _parts(run: Run, experiment: Path) -> Iterator[str]:
    record = run.record
    yield f"# {record.experiment}: {run.name}"
    yield (
        "A language model trained with memlm. It goes on with text as the training text did; it was not taught to "
        "follow instructions, and its chat template joins messages as they are."
    )
    yield "## How to load it"
    yield f"```python\n{USE}\n```"
    yield (
        "The code needs torch, transformers and pydantic. With memlm installed, `import memlm.hf` takes the place of "
        "`trust_remote_code=True`, and a GPU runs memlm's kernels; the code in this folder is plain torch."
    )
    yield "## Results of this run"
    yield table(_results(run))
    if (experiment / "experiment.json").exists():
        yield from _experiment(compare(read_experiment(experiment)))
    yield "## What it is"
    yield fenced(yaml.safe_dump(run.config.get("model"), allow_unicode=True, sort_keys=False).rstrip())
    yield table(_provenance(run))


def _results(run: Run) -> Table:
    found = ((label, run.result(path), form) for label, path, form in tables.RESULTS)
    rows = [[Cell(label), Cell(form(value))] for label, value, form in found if value is not None]
    return Table(["Result", run.name], rows)


def _experiment(comparison: Comparison) -> Iterator[str]:
    yield "## Its experiment"
    yield from map(verdict, comparison.judgements)
    if not comparison.judgements:
        yield "This experiment states no hypothesis, so there is no verdict."
    yield table(tables.results(comparison))
    yield f"What each variant cost. {tables.held_sentence(comparison)}"
    yield table(tables.ledger(comparison))
    shown = tables.controls(comparison)
    if shown.rows:
        yield "How much the held-out loss rises when the memory's reads are zeros (off) and when its rows are permuted:"
        yield table(shown)


def _provenance(run: Run) -> Table:
    record = run.record
    known = {
        "Trained on": str(record.device),
        "Finished": record.finished or tables.NOTHING,
        "Commit of memlm": (record.commit or tables.NOTHING) + (" (changed)" if record.dirty else ""),
        "Steps": f"{record.steps:,}",
        "Tokens": f"{record.tokens:,}",
        "Text": record.data.fingerprint if record.data else tables.NOTHING,
        **{name: version or tables.NOTHING for name, version in record.versions.items()},
    }
    return Table(["", ""], [[Cell(name), Cell(value)] for name, value in known.items()], labels=2)
