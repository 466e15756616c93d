"""docs/memories.md and configs/memories.yaml leave no type out, and the YAML in the document is right."""

import re
from pathlib import Path

import pytest
import yaml

from memlm.experiment.config import load_experiment
from memlm.model.config import ModelConfig
from memlm.registry import FUSIONS, MEMORIES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "memories.md").read_text(encoding="utf-8")
SNIPPETS = [yaml.safe_load(code) for code in re.findall(r"```yaml\n(.*?)```", TEXT, flags=re.S)]
VARIANTS = {
    name: snippet.get("model", {}) | fields
    for snippet in SNIPPETS
    for name, fields in snippet.get("variants", {}).items()
}


@pytest.mark.parametrize(("part", "registry"), [("Memories", MEMORIES), ("Fusions", FUSIONS)])
def test_every_type_has_its_section(part, registry):
    section = TEXT.split(f"## {part}\n")[1].split("\n## ")[0]
    headings = re.findall(r"^### (.*)$", section, flags=re.M)
    assert sorted(name for heading in headings for name in heading.split(", ")) == registry.names()


@pytest.mark.parametrize("name", VARIANTS)
def test_a_wiring_in_the_document_is_valid(name):
    ModelConfig.model_validate(VARIANTS[name])


def test_the_experiment_names_every_type():
    models = load_experiment(ROOT / "configs" / "memories.yaml").variants.values()
    assert {model.memory.type for model in models if model.memory} == set(MEMORIES.names())
    assert {model.fusion.type for model in models if model.fusion} == set(FUSIONS.names())
