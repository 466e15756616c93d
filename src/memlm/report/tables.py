"""The tables and sentences of a report, as plain data that both the page and the Markdown file show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from memlm.evaluate.statistics import Interval
from memlm.experiment.compare import CONTROLS, LEDGER, Comparison
from memlm.experiment.difference import flatten
from memlm.experiment.equality import Match
from memlm.experiment.reading import Run

Format = Callable[[float], str]
NOTHING = "–"

LINEAGE = {"dense": (2.43, 1.99, 7.5), "cross_attention": (2.84, 7.68, 2.0), "gated_mlp": (2.75, 2.33, 6.2)}
"""What the experiment that memlm grew from recorded: train loss, evaluation loss, generation quality of 10."""
LINEAGE_MODEL = {"d_model": 512, "n_layers": 8, "n_heads": 32, "placement": "replace"}
"""What tells a model of its recipe (``configs/lineage``) from others that are called the same."""


@dataclass(frozen=True)
class Cell:
    """A value and, in smaller type beside it, how sure it is; ``kind`` is what the page colours it by, if it does."""

    text: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first ``labels`` columns are text and whose others are numbers.

    ``ends_in_text``: the last column is text too, as the labels are.
    """

    columns: list[str]
    rows: list[list[Cell]]
    foot: list[Cell] = field(default_factory=list[Cell])
    labels: int = 1
    ends_in_text: bool = False

    @property
    def texts(self) -> list[list[str]]:
        """The rows, and the foot if there is one; each value and its note as one text."""
        lines = [*self.rows, self.foot] if self.foot else self.rows
        return [[f"{cell.text} {cell.note}".strip() for cell in line] for line in lines]

    def is_text(self, place: int) -> bool:
        """Whether the column at ``place`` is text."""
        return place < self.labels or (self.ends_in_text and place == len(self.columns) - 1)


def fixed(digits: int) -> Format:
    """Returns the format of a number with that many decimals."""
    return lambda value: f"{value:,.{digits}f}".replace("-", "−")


def signed(value: float) -> str:
    """Formats a difference with its sign, three decimals."""
    return f"{value:+.3f}".replace("-", "−")


def compact(value: float) -> str:
    """Formats a count with the four digits that matter: 1,234 or 65.54 k or 1.2 M."""
    if abs(value) < 10_000:
        return f"{value:,.0f}"
    sizes = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
    size, unit = next((size, unit) for size, unit in sizes if abs(value) >= size)
    return f"{value / size:.4g} {unit}"


def percent(value: float) -> str:
    """Formats a share of 1."""
    return f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Formats a time span in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def with_interval(found: Interval | None, form: Format) -> Cell:
    """Shows a mean, and beside it half of its 95 % interval if there is one."""
    if found is None:
        return Cell(NOTHING)
    if found.low is None or found.high is None:
        return Cell(form(found.mean))
    return Cell(form(found.mean), f"± {form((found.high - found.low) / 2)}")


RESULTS: list[tuple[str, str, Format]] = [
    ("Train loss", "train_loss", fixed(3)),
    ("Train text, eval mode", "train_subset_loss", fixed(3)),
    ("Held-out loss", "validation_loss", fixed(3)),
    ("Perplexity", "validation_perplexity", fixed(1)),
    ("Bits per byte", "bits_per_byte", fixed(3)),
    ("Repetition", "quality.metrics.model.repetition", fixed(3)),
    ("Distinct 2", "quality.metrics.model.distinct_2", fixed(3)),
    ("Judge, nats", "quality.metrics.model.judge_nats", fixed(2)),
    ("Time", "time_s", duration),
    ("Peak memory, GiB", "peak_memory_gib", fixed(2)),
    ("Tokens/s", "tokens_per_s", fixed(0)),
]


def results(comparison: Comparison) -> Table:
    """Mean and interval of every headline number, one row a variant."""
    plan = comparison.experiment.plan
    shown = {path for _, path, _ in RESULTS}
    claimed = dict.fromkeys(h.metric for h in plan.hypotheses if h.metric not in shown)
    wanted = [*RESULTS, *((name(path), path, fixed(3)) for path in claimed)]
    columns = [entry for entry in wanted if any(entry[1] in row for row in comparison.results.values())]
    rows = [
        [
            Cell(variant),
            Cell(f"{len(comparison.experiment.finished(variant))} of {len(plan.seeds)}"),
            *(with_interval(found.get(path), form) for _, path, form in columns),
        ]
        for variant, found in comparison.results.items()
    ]
    return Table(["Variant", "Runs", *(label for label, _, _ in columns)], rows)


def ledger(comparison: Comparison) -> Table:
    """What each variant cost, and in the last row which quantities were held equal, if there are two to compare.

    Where it ran is left to `held_sentence`: a device's name is longer than a column has room for.
    """
    forms: dict[str, Format] = dict.fromkeys(LEDGER, compact) | {"time_s": duration}
    labels = {"flops_per_token": "FLOPs per token", "bytes_per_token": "Bytes read per token", "time_s": "Wall clock"}
    rows = [
        [
            Cell(row.variant),
            *(Cell(NOTHING if value is None else forms[key](value)) for key, value in row.values.items()),
        ]
        for row in comparison.ledger.rows
    ]
    foot = [Cell("Held"), *(Cell(comparison.ledger.held[key]) for key in LEDGER)] if len(rows) > 1 else []
    columns = ["Variant", *(labels.get(key, name(key)) for key in LEDGER)]
    own = comparison.experiment.plan.own_training
    if not own:
        return Table(columns, rows, foot)
    rows = [[*row, Cell(_settings(own.get(row[0].text, {})))] for row in rows]
    return Table([*columns, "Training of its own"], rows, foot and [*foot, Cell(NOTHING)], ends_in_text=True)


def controls(comparison: Comparison) -> Table:
    """How much the held-out loss rises without the memory's content, over paired seeds."""
    by_variant: dict[str, dict[str, Cell]] = {}
    for control in comparison.controls:
        cell = with_interval(control.difference, fixed(3))
        by_variant.setdefault(control.variant, {})[control.name] = Cell(signed(control.difference.mean), cell.note)
    rows = [
        [Cell(variant), *(cells.get(control, Cell(NOTHING)) for control in CONTROLS)]
        for variant, cells in by_variant.items()
    ]
    return Table(["Variant", *(f"{name(control)} − intact" for control in CONTROLS)], rows)


USAGE: list[tuple[str, str, Format]] = [
    ("Slots read", "share_read", percent),
    ("Effective slots", "effective_slots", fixed(0)),
    ("Dead slots", "dead_slots", fixed(0)),
    ("Slots", "n_slots", fixed(0)),
    ("KL from uniform, nats", "kl_uniform", fixed(2)),
    ("Read norm", "read_norm", fixed(2)),
    ("Update share", "update_share", percent),
]


def usage(comparison: Comparison) -> Table:
    """How each layer of each variant used its memory on held-out text; what no run recorded has no column."""
    recorded = {path.rpartition(".")[2] for found in comparison.results.values() for path in found}
    columns = [column for column in USAGE if column[1] in recorded]
    rows: list[list[Cell]] = []
    for variant, found in comparison.results.items():
        layers = dict.fromkeys(layer for run in comparison.experiment.finished(variant) for layer in run.layers)
        for layer in layers:
            cells = [_mean(found.get(f"usage.{layer}.{key}"), form) for _, key, form in columns]
            rows.append([Cell(variant), Cell(layer), *cells, _reads_a_slot(found, layer)])
    return Table(["Variant", "Layer", *(label for label, _, _ in columns), "Reads a slot"], rows, labels=2)


def _reads_a_slot(found: Mapping[str, Interval], layer: str) -> Cell:
    """Says how often each slot would have been read on average: usage over few reads says little."""
    reads, slots = (found.get(f"usage.{layer}.{key}") for key in ("reads", "n_slots"))
    return Cell(fixed(1)(reads.mean / slots.mean) if reads and slots and slots.mean else NOTHING)


def generation(comparison: Comparison) -> Table:
    """The metrics of generated text, beside the held-out text itself and words drawn by frequency."""
    prefix = "quality.metrics."
    paths = [path for found in comparison.results.values() for path in found if path.startswith(prefix)]
    metrics = list(dict.fromkeys(path.rpartition(".")[2] for path in paths))
    rows = [
        [Cell(variant), *(with_interval(found.get(f"{prefix}model.{metric}"), fixed(3)) for metric in metrics)]
        for variant, found in comparison.results.items()
        if any(path.startswith(prefix) for path in found)
    ]
    for source, label in (("real", "held-out text"), ("unigram", "tokens drawn by frequency")):
        cells = [_pooled(comparison, f"{prefix}{source}.{metric}") for metric in metrics]
        if any(cell.text != NOTHING for cell in cells):
            rows.append([Cell(label), *cells])
    return Table(["Text of", *(name(metric) for metric in metrics)], rows)


def lineage(comparison: Comparison) -> Table:
    """The three columns of the lineage's record beside what its recipe gave here; no rows where no variant is of it."""
    paths = ("train_loss", "validation_loss", "quality.score")
    rows = [
        [Cell(variant), *_beside([comparison.results[variant].get(path) for path in paths], LINEAGE[variant])]
        for variant in comparison.results
        if comparison.results[variant] and _is_of_lineage(comparison, variant)
    ]
    labels = ("Train loss", "Validation loss", "Quality, of 10")
    return Table(["Variant", *(f"{label}, {where}" for label in labels for where in ("here", "lineage"))], rows)


def _is_of_lineage(comparison: Comparison, variant: str) -> bool:
    models = [dict(flatten(run.config.get("model"))) for run in comparison.experiment.finished(variant)]
    return variant in LINEAGE and all(LINEAGE_MODEL.items() <= model.items() for model in models)


def provenance(comparison: Comparison) -> Table:
    """What ran, on which text, where and with which versions; a value that differs between runs is listed in full."""
    runs = comparison.experiment.finished() or comparison.experiment.runs
    plan = comparison.experiment.plan
    facts: list[tuple[str, str]] = [
        ("Variants and seeds", f"{', '.join(plan.variants)} × {', '.join(map(str, plan.seeds))}"),
        ("Device", _distinct(runs, lambda run: str(run.record.device))),
        ("Commit", _distinct(runs, _commit)),
        ("Text", _distinct(runs, lambda run: run.record.data and run.record.data.fingerprint)),
        ("Tokenizer", _distinct(runs, lambda run: run.record.data and run.record.data.tokenizer_fingerprint)),
        ("Training text", _distinct(runs, lambda run: run.record.data and f"{run.record.data.train_tokens:,} tokens")),
        ("Held-out text", _distinct(runs, lambda r: r.record.data and f"{r.record.data.validation_tokens:,} tokens")),
        ("Evaluated on", _distinct(runs, _evaluated)),
        ("Bytes per token", _distinct(runs, lambda run: run.record.data and f"{run.record.data.bytes_per_token:.3f}")),
        ("Unigram entropy", _distinct(runs, lambda r: r.record.data and f"{r.record.data.unigram_entropy:.3f} nats")),
        ("Steps", _distinct(runs, lambda run: f"{run.record.steps:,}")),
        ("Versions", _distinct(runs, lambda run: ", ".join(f"{k} {v}" for k, v in run.record.versions.items() if v))),
        ("Began", min((run.record.started for run in runs), default=NOTHING)),
        ("Ended", max((run.record.finished or "" for run in runs), default="") or NOTHING),
    ]
    return Table(["", ""], [[Cell(key), Cell(value)] for key, value in facts], labels=2)


def unigram_sentences(comparison: Comparison) -> list[str]:
    """Says what the text's unigram entropy is, and on which side of it each variant's loss lies."""
    side = {True: "above it: worse than guessing by token frequency", False: "below it"}
    runs = comparison.experiment.finished()
    entropy = _distinct(runs, lambda run: run.record.data and f"{run.record.data.unigram_entropy:.3f} nats")
    gaps = [f"{variant} is {abs(gap):.3f} nats {side[gap > 0]}" for variant, gap in comparison.above_unigram.items()]
    return [f"the unigram entropy of the held-out text is {entropy}", *gaps] if gaps else []


def _settings(own: Mapping[str, object]) -> str:
    told = {
        key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in own.items() if value is not None
    }
    return ", ".join(f"{key} {value}" for key, value in told.items()) or NOTHING


def _match_sentence(match: Match) -> str:
    solution = match.solution
    near = (
        "which cannot be told yet" if match.off is None else f"which its runs met within {100 * abs(match.off):.2g} %"
    )
    spread = "" if solution.spread is None else f" (step times varied by {100 * solution.spread:.2g} % when measured)"
    solved = f"{solution.variant} has {solution.setting} {solution.value:,}"
    return f"{solved}, solved for the {name(match.quantity, False)} of {solution.to}, {near}{spread}."


def held_sentence(comparison: Comparison) -> str:
    """Says which quantities are equal in all variants, which not or cannot be told, what was solved, and where.

    What the variants of one claim share is told claim by claim, by `memlm.report.claims.shared`.
    """
    held = comparison.ledger
    if len(held.rows) == 1:
        alone = f"{held.rows[0].variant} is the only variant: there is nothing to compare it with."
        return " ".join([alone, *_device_sentences(comparison)])
    which = "all variants" if all(row.device for row in held.rows) else "all variants with a finished run"
    parts = [
        (f"Held equal in {which}", held.equal()),
        ("Not in all", held.unequal()),
        ("Cannot be told", held.unknown()),
    ]
    told = [f"{label}: {', '.join(name(key, False) for key in keys)}." for label, keys in parts if keys]
    return " ".join([*told, *map(_match_sentence, held.matches), *_device_sentences(comparison)])


def _device_sentences(comparison: Comparison) -> Iterator[str]:
    """Yields where the finished runs were made; a sentence a device if there are several."""
    variants: dict[str, list[str]] = {}
    for row in comparison.ledger.rows:
        if row.device:
            variants.setdefault(row.device, []).append(row.variant)
    for device, there in variants.items():
        yield f"{'All finished runs' if len(variants) == 1 else ', '.join(there)} ran on {device}."


WORDS = {
    "validation_loss": "held-out loss",
    "time_s": "wall clock",
    "flops_per_token": "FLOPs per token",
    "bytes_per_token": "bytes read per token",
    "share_read": "share of slots read",
    "kl_uniform": "KL from uniform",
    "exact_match": "share of right answers",
    "nll": "nats of the answer",
}
"""The last part of a key of a record, where its own words would not do."""


def name(key: str, capital: bool = True) -> str:
    """Turns a key of a record into words: ``usage.2.kl_uniform`` into "KL from uniform, layer 2"."""
    *groups, last = key.removeprefix("quality.metrics.model.").split(".")
    text = WORDS.get(last, last.replace("_", " "))
    match groups:
        case ["usage", layer]:
            text = f"{text}, layer {layer}"
        case ["recall", kind]:
            text = f"{text}, {kind.replace('_', ' ')}"
        case _:
            text = " ".join([*(group.replace("_", " ") for group in groups), text])
    return text[:1].upper() + text[1:] if capital else text


def plain(value: float) -> str:
    """Formats a number as it was written, with a true minus sign and no minus zero."""
    return f"{value + 0.0:g}".replace("-", "−")


def _mean(found: Interval | None, form: Format) -> Cell:
    return Cell(NOTHING if found is None else form(found.mean))


def _pooled(comparison: Comparison, path: str) -> Cell:
    means = [found[path].mean for found in comparison.results.values() if path in found]
    return Cell(fixed(3)(sum(means) / len(means)) if means else NOTHING)


def _beside(here: Sequence[Interval | None], there: Sequence[float]) -> Iterator[Cell]:
    for found, value, digits in zip(here, there, (2, 2, 1), strict=True):
        yield _mean(found, fixed(digits))
        yield Cell(fixed(digits)(value))


def _distinct(runs: Sequence[Run], read: Callable[[Run], str | None]) -> str:
    return " / ".join(dict.fromkeys(read(run) or "not recorded" for run in runs)) or NOTHING


def _evaluated(run: Run) -> str | None:
    found = run.record.evaluated
    return found and f"{found.split} split, {found.tokens:,} tokens, {found.fingerprint[:16]}"


def _commit(run: Run) -> str | None:
    return f"{run.record.commit} with uncommitted changes" if run.record.dirty else run.record.commit
