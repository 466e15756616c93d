"""What a report says, in order, before it becomes a page or a Markdown file."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import yaml

from memlm.errors import counted
from memlm.experiment.compare import Comparison
from memlm.experiment.files import read_text
from memlm.experiment.judge import Judgement
from memlm.experiment.paths import inside
from memlm.experiment.reading import Experiment
from memlm.experiment.schema import Sample
from memlm.report import alarms, claims, course, figures, knowledge, tables
from memlm.report.tables import Table
from memlm.storage import write_text

N_SAMPLES = 4
FINDINGS = """\
<!-- Written by a person, against the controls. Every report carries this text and none overwrites it. -->

### What was found

### What the controls say

### What this does not show
"""


@dataclass(frozen=True)
class Section:
    """A part of the report: what to know before reading it, a table, a figure."""

    title: str
    text: str
    table: Table | None = None
    figure: str | None = None
    has_legend: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not self.figure and not (self.table and self.table.rows)


@dataclass(frozen=True)
class Prompt:
    """A prompt, and by name of the writer how the text goes on."""

    prompt: str
    texts: dict[str, str]


@dataclass(frozen=True)
class Content:
    """All that a report says."""

    title: str
    subtitle: str
    judgements: list[Judgement]
    warnings: list[str]
    missing: list[str]
    alarms: str
    has_alarms: bool
    sections: list[Section]
    samples: list[Prompt]
    sample_seed: int | None
    findings: str
    provenance: Table
    command: str
    config: str
    legend: dict[str, str]


def content(comparison: Comparison) -> Content:
    """Gathers the content of a report; the findings file is made if there is none.

    Raises:
        RunError: a file is broken.
    """
    experiment = comparison.experiment
    plan = experiment.plan
    finished, planned = len(experiment.finished()), len(plan.variants) * len(plan.seeds)
    devices = dict.fromkeys(run.record.device.name for run in experiment.finished())
    subtitle = [
        f"{counted(len(plan.variants), 'variant')} × {counted(len(plan.seeds), 'seed')}",
        f"{finished} of {planned} runs finished",
    ]
    if comparison.split == "test":
        subtitle.append("evaluated on the test split")
    seed, prompts = _samples(experiment)
    return Content(
        title=plan.name,
        subtitle=" · ".join([*subtitle, *devices]),
        judgements=comparison.judgements,
        warnings=comparison.warnings,
        missing=comparison.missing,
        alarms=alarms.sentence(experiment),
        has_alarms=any(run.record.alarms for run in experiment.runs),
        sections=[section for section in _sections(comparison) if not section.is_empty],
        samples=prompts,
        sample_seed=seed,
        findings=_findings(inside(experiment.folder, "findings.md")),
        provenance=tables.provenance(comparison),
        command=plan.command or f"memlm run {shlex.quote(plan.name + '.yaml')}",
        config=yaml.safe_dump(plan.config, allow_unicode=True, sort_keys=False) if plan.config else "",
        legend={variant: figures.swatch(plan.variants, variant) for variant in plan.variants},
    )


def _sections(comparison: Comparison) -> list[Section]:
    return [*_of_claims(comparison), *_of_memory(comparison), *_of_training(comparison), *_of_text(comparison)]


def _of_claims(comparison: Comparison) -> list[Section]:
    """Returns what was claimed, what was found, and what it cost."""
    entropy = "; ".join(tables.unigram_sentences(comparison))
    noise = "".join(f" {claims.noise_sentence(found)}" for found in comparison.noise)
    unequal = " What was not held equal may by itself explain a difference in loss."
    return [
        Section(
            "Claims",
            claims.explanation(comparison),
            claims.table(comparison),
            figures.claims(comparison.judgements),
        ),
        Section(
            "Results",
            "Means over finished seeds ± half of the 95 % interval (a value without ± is that of one seed); losses in "
            "nats per token. Train loss is the mean of the last tenth of the steps, in train mode."
            + (f" {entropy[:1].upper()}{entropy[1:]}." if entropy else "")
            + noise,
            tables.results(comparison),
        ),
        Section(
            "Ledger",
            f"What each variant cost. {tables.held_sentence(comparison)}"
            + (unequal if len(comparison.ledger.rows) > 1 else ""),
            tables.ledger(comparison),
        ),
        Section(
            "Equal within a claim",
            "What the variants of each claim cost alike, and what not: in brackets, by how much the dearest lies above "
            "the cheapest; means over finished seeds.",
            claims.shared(comparison),
        ),
    ]


def _of_memory(comparison: Comparison) -> list[Section]:
    """Returns what the memory does for the model."""
    return [
        Section(
            "Controls",
            "How much the held-out loss rises, over paired seeds, when the memory's reads are zeros (off) and when "
            "the bank's rows are permuted (shuffled). Near zero, the model does not use what the memory holds.",
            tables.controls(comparison),
        ),
        Section(
            "What it knows",
            "Questions with known answers, by kind (docs/facts.md): the share that greedy decoding answers word for "
            "word. Memory off and shuffled: the same questions under the two controls.",
            knowledge.recall(comparison, knowledge.RIGHT),
        ),
        Section(
            "What it knows, in nats",
            "What the right answer costs the model, the whole answer.",
            knowledge.recall(comparison, knowledge.NATS),
        ),
        Section(
            "Learned bits",
            "Over the told facts, the sum of log2 of the number of possible values less what the right one costs the "
            "model, no fact below zero (without clipping: each as it is).",
            knowledge.bits(comparison),
        ),
    ]


def _of_training(comparison: Comparison) -> list[Section]:
    """Returns how training went."""
    experiment = comparison.experiment
    return [
        Section(
            "Curves",
            "Finished runs only. A line is the mean over seeds; its band reaches from the lowest seed to the highest.",
            figure=figures.curves(experiment),
            has_legend=True,
        ),
        Section(
            "Claims over training",
            "The claimed differences in loss while the runs were trained, on validation text: means over paired seeds, "
            "of claims whose runs were evaluated at the same tokens.",
            course.table(comparison),
        ),
        Section(
            "Usage of the memory",
            "On held-out text; means over seeds. Left, the share of slots read at the end, a dot for each seed. Right, "
            "the share over training, each line's layer at its end; it is taken on less text, and lower for that. "
            "Update share: the norm of what the reads change, against reads of zero, over the residual stream's.",
            tables.usage(comparison),
            figures.usage(experiment),
        ),
        Section(
            "Alarms",
            "Told while training, by thresholds that were fixed in train.alarms before the run. One row for each alarm "
            "of a variant; its numbers are those of the first time.",
            alarms.table(experiment),
        ),
    ]


def _of_text(comparison: Comparison) -> list[Section]:
    """Returns what the models write, and the lineage's record of the same."""
    return [
        Section(
            "Generated text",
            "The same measures of the model's text, of the held-out text that it should resemble, and of tokens drawn "
            "by frequency. Closer to held-out text is better, in either direction.",
            tables.generation(comparison),
        ),
        Section(
            "Beside the lineage's record",
            "The lineage ran one seed, on its own text and with its own budget: compare the order, not the numbers. "
            "The quality score sums up the measures above and is kept for this table alone.",
            tables.lineage(comparison),
        ),
    ]


def written(findings: str) -> str:
    """Returns findings without comments; empty if nobody has filled in more than the headings."""
    text = re.sub(r"<!--.*?-->", "", findings, flags=re.DOTALL).strip()
    return text if re.sub(r"^#.*$", "", text, flags=re.MULTILINE).strip() else ""


def _findings(path: Path) -> str:
    if not path.exists():
        write_text(path, FINDINGS)
    return written(read_text(path))


def _samples(experiment: Experiment) -> tuple[int | None, list[Prompt]]:
    """Takes the first prompts of the first seed that most variants have samples of, so that none is picked by hand."""
    by_seed: dict[int, dict[str, dict[str, Sample]]] = {seed: {} for seed in experiment.plan.seeds}
    for run in experiment.finished():
        samples = {sample.prompt: sample for sample in run.samples()}
        if samples:
            by_seed[run.record.seed][run.record.variant] = samples
    seed = max(by_seed, key=lambda seed: len(by_seed[seed]), default=None)
    found = {} if seed is None else by_seed[seed]
    prompts = list(dict.fromkeys(prompt for by_prompt in found.values() for prompt in by_prompt))
    return seed, [_side_by_side(prompt, found) for prompt in prompts[:N_SAMPLES]]


def _side_by_side(prompt: str, found: dict[str, dict[str, Sample]]) -> Prompt:
    having = {variant: by_prompt[prompt] for variant, by_prompt in found.items() if prompt in by_prompt}
    texts = {variant: sample.model for variant, sample in having.items()}
    return Prompt(prompt, {**texts, "held-out text": next(iter(having.values())).real})
