"""An experiment on a generated world: what its records, tables and verdicts say of what the models know."""

import json
from typing import get_args

import pytest

from memlm.config.checks import Check
from memlm.experiment.compare import compare
from memlm.experiment.config import load_experiment
from memlm.experiment.reading import read_experiment
from memlm.experiment.run import run_experiment
from memlm.report import knowledge
from memlm.report.content import content
from memlm.report.tables import NOTHING

YAML = """\
data:
  corpus: facts
  facts: {wording: tuples, entities: 12, attributes: 2, values: 8, hops: 1, exposures: 40, untold_share: 0.2}
  vocab_size: 330
  seq_len: 16
model: {d_model: 32, n_layers: 2, n_heads: 2}
train: {steps: 120, batch_size: 16, lr: 5.0e-3, skip_checks: [SKIPPED], alarms: {train_eval_gap: null}}
evaluate: {tokens: 1k, train_tokens: 500, samples: 0, questions: 15, question_file: ASKED}
variants:
  dense: {}
  memory: {memory: {type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3}, fusion: {type: gated_mlp}}
hypotheses:
  - {name: recall, claim: dense < memory, metric: recall.seen.exact_match}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    asked = folder / "asked.jsonl"
    asked.write_text('{"text": "The sky is blue.", "answer": "blue"}\n', encoding="utf-8")
    skipped = ", ".join(set(get_args(Check)) - {"causality"})
    (folder / "world.yaml").write_text(YAML.replace("SKIPPED", skipped).replace("ASKED", str(asked)), encoding="utf-8")
    return run_experiment(load_experiment(folder / "world.yaml"), folder / "runs", progress=False)


def test_a_record_says_what_the_model_knows(folder):
    records = {run: json.loads((folder / f"{run}-s0" / "record.json").read_text()) for run in ("dense", "memory")}
    for record in records.values():
        recall, bits = record["results"]["recall"], record["results"]["learned_bits"]
        assert recall.keys() == {"seen", "paraphrase", "reversed", "unknown_entity", "unknown_attribute", "file"}
        assert recall["seen"]["n"] == bits["n"] == 15 and recall["seen"]["exact_match"] > 0.4
        assert 0 < bits["total"] <= bits["possible"] == pytest.approx(3 * round(bits["possible"] / 3))
        assert bits["per_parameter"] == pytest.approx(bits["total"] / record["cost"]["parameters"])
        assert len(record["data"]["questions"]) == 64
    assert "recall_memory_off" not in records["dense"]["results"]
    results = records["memory"]["results"]
    for control in ("off", "shuffled"):
        without = results[f"recall_memory_{control}"]
        assert without.keys() == {"seen", "file"} and without["seen"]["nll"] > results["recall"]["seen"]["nll"]


def test_tables_show_it(folder):
    comparison = compare(read_experiment(folder))
    recall, bits = knowledge.recall(comparison, knowledge.RIGHT), knowledge.bits(comparison)
    nats = knowledge.recall(comparison, knowledge.NATS)
    for table in (recall, nats, bits):
        assert [row[0].text for row in table.rows] == ["dense", "memory"]
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert {"Seen", "Seen, memory off", "Unknown entity"} <= set(recall.columns) == set(nats.columns)
    off = recall.columns.index("Seen, memory off")
    assert recall.rows[0][off].text == NOTHING and recall.rows[1][off].text.endswith("%")
    assert float(nats.rows[1][off].text) > 0
    assert {"What it knows", "What it knows, in nats", "Learned bits"} <= {
        section.title for section in content(comparison).sections
    }
    (judgement,) = comparison.judgements
    assert judgement.difference is not None and judgement.notes == []
