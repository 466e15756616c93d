"""Numbers that join `pays` and `pays_keys`, from their records, without a GPU; docs/findings.md quotes both tables.

    python experiments/across.py

prints what memories gain at equal FLOPs and tokens, with the runs of both experiments taken together, and from how much
more time for a step on a gain would be better bought by training a dense model for longer. No claim had planned that.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from memlm.evaluate.claims import parse_claim
from memlm.evaluate.statistics import difference
from memlm.evaluate.verdicts import Case, p_value
from memlm.experiment.judge import differences, values_of
from memlm.experiment.reading import Experiment, read_experiment
from memlm.report.claims import exact_p
from memlm.report.markdown import table
from memlm.report.tables import NOTHING, Cell, Table, signed

MARGINS = (0.0, 0.05, 0.064)
"""None; what was asked; and that if dense at its best rate is 0.014 better, as in one trial (pays_ngrams_trials)."""
GAINS = {
    "product keys, pays": ("pays", "product_key", "dense_flops"),
    "the same rates, pays_keys": ("pays_keys", "product_key_slow", "dense_flops"),
    "rates of short trials, pays_keys": ("pays_keys", "product_key", "dense_flops"),
    "n-grams, pays": ("pays", "memory", "dense_flops"),
}
"""What is told: its experiment, the memory, and its dense control of equal FLOPs."""
TIMED = {"product_key_slow": "product_key"}
"""Whose step times are those of another: the same model, at other rates."""
TOGETHER = ("product keys, pays", "the same rates, pays_keys")
LONGER = {"pays": ("dense_flops", "dense_same_time"), "pays_keys": ("dense_flops", "dense_time")}
"""Two dense variants, the second trained on more tokens."""


def paired(experiment: Experiment, left: str, right: str) -> list[float]:
    """Returns left - right for every seed that has both."""
    return list(differences(values_of(experiment, "validation_loss"), parse_claim(f"{left} < {right}")).values())


def tell_gains(pairs: dict[str, list[float]]) -> Table:
    """Tells mean, interval, extremes and p against each margin of paired differences; "less": the gain is below it."""
    rows: list[list[Cell]] = []
    for name, values in pairs.items():
        found = difference(values, 0.99)
        against = [exact_p(p_value(Case(found, m))) + (", less" if found.mean > -m else "") for m in MARGINS]
        assert found.low is not None and found.high is not None
        spans = [" to ".join(map(signed, span)) for span in ((found.low, found.high), (min(values), max(values)))]
        texts = [name, str(found.n), signed(found.mean), *spans, *against]
        rows.append(list(map(Cell, texts)))
    head = ["", "pairs", "difference", "99 % interval", "smallest and largest"]
    return Table([*head, *(f"p against {margin:g}" for margin in MARGINS)], rows)


def worth(experiment: Experiment, shorter: str, longer: str) -> float:
    """Returns by what a dense model's loss falls with each doubling of its tokens, if it falls with their logarithm.

    The two differ in width by up to 13 %, and the longer one reads a part of the text again.
    """
    tokens = [np.mean([run.record.tokens for run in experiment.finished(v)]) for v in (shorter, longer)]
    return -float(np.mean(paired(experiment, longer, shorter))) / math.log2(tokens[1] / tokens[0])


def steps(experiment: Experiment, memory: str) -> str:
    """Tells how much longer the memory's step takes than a dense model's of its width, each time it was measured."""
    timed = [match for match in experiment.plan.matches if match.to == TIMED.get(memory, memory)]
    times = [match.step_times_s for match in timed if match.step_times_s is not None]
    return ", ".join(f"{100 * (memory / dense - 1):+.0f} %" for dense, memory in times).replace("-", "−") or NOTHING


def tell_crossover(experiments: dict[str, Experiment], pairs: dict[str, list[float]]) -> Table:
    """Tells for each gain how many more tokens a dense model would need for it, and what the memory's step takes."""
    slopes = [worth(experiments[name], *variants) for name, variants in LONGER.items()]
    rows: list[list[Cell]] = []
    for name, (experiment, memory, _) in GAINS.items():
        gain = -float(np.mean(pairs[name]))
        more = sorted(100 * (2 ** (gain / slope) - 1) for slope in slopes)
        texts = [name, f"+{more[0]:.0f} to {more[1]:.0f} %", steps(experiments[experiment], memory)]
        rows.append(list(map(Cell, texts)))
    return Table(["", "tokens that dense needs for it", "time of the memory's step, as measured"], rows)


def main() -> str:
    """Returns both tables as Markdown."""
    experiments = {name: read_experiment(Path(__file__).parent / name) for name in LONGER}
    pairs = {told: paired(experiments[name], *variants) for told, (name, *variants) in GAINS.items()}
    together = {"the first two together": [value for told in TOGETHER for value in pairs[told]]}
    gains = tell_gains(pairs | together)
    return f"{table(gains)}\n\n{table(tell_crossover(experiments, pairs))}"


if __name__ == "__main__":
    sys.stdout.write(main() + "\n")
