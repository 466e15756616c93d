"""What docs/performance.md says: its commands, its generated parts, and what it counts."""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from memlm.bench.page import write_page
from memlm.bench.shapes import SHAPES
from memlm.bench.store import newest
from memlm.cli.main import app
from memlm.experiment.config import load_experiment
from memlm.model.cost import cost

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")


def test_its_commands_have_the_options_that_it_names():
    parameters = typer.main.get_command(app).commands["bench"].params
    known = {option for parameter in parameters for option in parameter.opts}
    commands = [shlex.split(line, comments=True) for line in re.findall(r"^memlm bench.*$", PAGE, flags=re.M)]
    assert len(commands) == 5
    for command in commands:
        assert {word for word in command if word.startswith("--")} <= known
        assert {after for word, after in pairwise(command) if word == "--config"} <= set(SHAPES)


def test_the_generated_parts_are_what_the_records_give(tmp_path):
    kept = ROOT / "benchmarks"
    (tmp_path / "performance.md").write_text(PAGE, encoding="utf-8")
    write_page(tmp_path, newest(kept) if any(kept.glob("*/*.json")) else [])
    assert (tmp_path / "performance.md").read_text(encoding="utf-8") == PAGE, "run: memlm bench --report"


@pytest.mark.parametrize(("column", "variant"), [(0, "dense"), (1, "gated_mlp"), (2, "weighted_sum")])
def test_what_a_card_of_24_gb_needs_is_counted(column, variant):
    experiment = load_experiment(ROOT / "configs" / "24gb.yaml")
    price = cost(experiment.variants[variant], experiment.data.vocab_size, experiment.data.seq_len)
    assert experiment.train.batch_size * experiment.data.seq_len == 16_384

    def told(line):
        cells = re.search(rf"^\| {line}[^|]*\|(.*)\|$", PAGE, flags=re.M).group(1).split("|")
        return float(re.sub("[^0-9.]", "", cells[column]) or 0)

    assert told("parameters, two moments") == round(16 * price.parameters / 2**30, 1)
    assert told("the table's gradient") == pytest.approx(4 * price.memory_parameters / 2**30, abs=0.01)
    parts = told("parameters, two moments") + told("the table's gradient") + told("activations")
    assert told(r"\*\*peak counted") == pytest.approx(parts, abs=0.06)
    assert told(r"\*\*peak counted") + 1.5 < 22, "selection in plain torch takes 1.5 more"
