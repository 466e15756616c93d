"""The tables of what models know: answers by kind of question, and learned bits."""

from __future__ import annotations

from memlm.experiment.compare import Comparison
from memlm.report.tables import NOTHING, Cell, Format, Table, compact, fixed, name, percent, with_interval

RIGHT, NATS = "exact_match", "nll"
"""What is measured of an answer: the share that is right word for word, and nats of the whole answer."""
BITS: list[tuple[str, str, Format]] = [
    ("Learned bits", "total", compact),
    ("Without clipping", "unclipped", compact),
    ("Bits in the text", "possible", compact),
    ("Share", "share", percent),
    ("Bits per parameter", "per_parameter", fixed(4)),
    ("Per active parameter", "per_active_parameter", fixed(4)),
    ("Per memory parameter", "per_memory_parameter", fixed(4)),
]


def recall(comparison: Comparison, measure: str) -> Table:
    """Answers by kind of question, by one of the two measures; one row a variant.

    Where there is a memory, also with its reads set to zero and with its rows shuffled.
    """
    paths = dict.fromkeys(path for found in comparison.results.values() for path in found)
    columns = [path for path in paths if _asks(path) and path.endswith(f".{measure}")]
    form = percent if measure == RIGHT else fixed(2)
    rows = [
        [Cell(variant), *(with_interval(found.get(path), form) for path in columns)]
        for variant, found in comparison.results.items()
        if any(path in found for path in columns)
    ]
    return Table(["Variant", *(_label(path) for path in columns)], rows)


def bits(comparison: Comparison) -> Table:
    """What was learned of the told facts in bits, and for each parameter; one row a variant."""
    rows = [
        [Cell(variant), *(with_interval(found.get(f"learned_bits.{key}"), form) for _, key, form in BITS)]
        for variant, found in comparison.results.items()
        if "learned_bits.total" in found
    ]
    shown = [0, *(place for place in range(1, len(BITS) + 1) if any(row[place].text != NOTHING for row in rows))]
    columns = ["Variant", *(label for label, _, _ in BITS)]
    return Table([columns[place] for place in shown], [[row[place] for place in shown] for row in rows])


def _asks(path: str) -> bool:
    return path.startswith(("recall.", "recall_memory_")) and path.count(".") == 2


def _label(path: str) -> str:
    """Turns ``recall_memory_off.seen.nll`` into words."""
    group, kind, _ = path.split(".")
    control = group.removeprefix("recall").replace("_", " ").strip()
    return f"{name(kind)}, {control}" if control else name(kind)
