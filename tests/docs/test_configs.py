"""Every YAML in configs/ loads, and the lineage's recipe holds the figures it is known by."""

from pathlib import Path

import pytest
import yaml

from memlm.experiment.config import ExperimentConfig, load_experiment

CONFIGS = Path(__file__).parents[2] / "configs"
WRITTEN = {path: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CONFIGS.rglob("*.yaml"))}
EXPERIMENTS = [path for path, content in WRITTEN.items() if "variants" in content]
BASES = [path for path, content in WRITTEN.items() if "variants" not in content]
LINEAGE = [path for path in EXPERIMENTS if path.parent.name == "lineage"]


def name(path):
    return str(path.relative_to(CONFIGS))


def test_the_walk_finds_the_files():
    assert len(EXPERIMENTS) >= 5
    assert {"demo.yaml", "lineage/connection.yaml", "lineage/dense.yaml"} <= {name(path) for path in EXPERIMENTS}
    assert {"lineage/base.yaml"} <= {name(path) for path in BASES}
    assert not list(CONFIGS.rglob("*.yml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_loads(path):
    config = load_experiment(path)
    assert config.name == path.stem
    assert list(config.variants) == list(WRITTEN[path]["variants"])
    assert ExperimentConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("path", BASES, ids=name)
def test_a_file_without_variants_is_the_base_of_another(path):
    users = [user for user in EXPERIMENTS if "base" in WRITTEN[user] and user.parent / WRITTEN[user]["base"] == path]
    assert users
    for user in users:
        assert load_experiment(user).data.corpus == WRITTEN[path]["data"]["corpus"]


@pytest.mark.parametrize("path", LINEAGE, ids=name)
def test_the_recipe_of_the_lineage(path):
    config = load_experiment(path)
    train, data = config.train, config.data
    assert data.seq_len == 512
    assert (train.batch_size, train.accumulation) == (64, 8)
    assert train.lr == 2e-4
    assert train.value_lr is None
    assert train.warmup == 0.0
    assert train.clip == 1.0
    assert train.epochs == 3
    assert train.train_values_epochs == 2
    assert train.precision == "bf16"
    assert train.log_every == 1
    assert train.save_every == 10_000
    assert (train.profile_every, train.memory_every) == (10, 10)
    assert train.trackers == ["swanlab"]
    for model in config.variants.values():
        assert (model.d_model, model.n_layers, model.n_heads) == (512, 8, 32)


@pytest.mark.parametrize(
    ("file", "variants"),
    [
        ("connection.yaml", {"dense": None, "cross_attention": "cross_attention", "gated_mlp": "gated_mlp"}),
        ("cross_attention.yaml", {"cross_attention": "cross_attention"}),
        ("gated_mlp.yaml", {"gated_mlp": "gated_mlp"}),
        ("dense.yaml", {"dense": None}),
        ("readable.yaml", {"vectors": "gated_mlp", "readable": "gated_mlp"}),
    ],
)
def test_the_memory_of_the_lineage(file, variants):
    config = load_experiment(CONFIGS / "lineage" / file)
    assert {key: model.fusion and model.fusion.type for key, model in config.variants.items()} == variants
    for model in config.variants.values():
        if model.memory is None:
            assert model.memory_layers == []
        else:
            assert model.memory.type == "product_key"
            assert model.memory.n_slots == 65_536
            assert model.memory.n_reads == 8
            assert model.memory.value_width == 128
            assert (model.placement, model.shared_bank) == ("replace", True)
            assert model.memory_layers == [0, 1, 2, 3, 4, 5, 6, 7]


def test_the_single_files_are_the_variants_of_the_comparison():
    together = load_experiment(CONFIGS / "lineage" / "connection.yaml")
    for variant, model in together.variants.items():
        alone = load_experiment(CONFIGS / "lineage" / f"{variant}.yaml")
        assert alone.variants == {variant: model}
        assert (alone.data, alone.train, alone.evaluate) == (together.data, together.train, together.evaluate)


def test_the_readable_bank_of_the_lineage_has_entries_of_32_tokens():
    bank = load_experiment(CONFIGS / "lineage" / "readable.yaml").variants["readable"].memory.bank
    assert (bank.type, bank.entry_length, bank.encoder.type) == ("tokens", 32, "embedding_mean")
