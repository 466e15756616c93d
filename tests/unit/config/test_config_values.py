"""What a sound configuration becomes: numbers, intervals, frozen objects, and dumps that validate again."""

import pytest
from pydantic import ValidationError

from memlm.config.data import DataConfig
from memlm.config.evaluate import EvaluateConfig
from memlm.config.train import TrainConfig, interval
from memlm.experiment.config import ExperimentConfig
from memlm.fusion.base import FusionConfig
from memlm.memory.base import MemoryConfig
from memlm.memory.product_key import ProductKeyConfig
from memlm.model.config import ExpertsConfig, ModelConfig

MEMORY = {"type": "product_key", "n_keys": 16}
FUSION = {"type": "gated_mlp"}
SOUND = "data: {corpus: x}\ntrain: {steps: 4}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("400k", 400_000),
        ("1.5M", 1_500_000),
        ("2G", 2_000_000_000),
        ("2b", 2_000_000_000),
        ("2.3M", 2_300_000),
        ("0.0001M", 100),
        ("'7'", 7),
        ("' 4 k '", 4000),
        ("1_000", 1000),
        ("'1_000k'", 1_000_000),
        ("123456789.012k", 123_456_789_012),
        ("4.0", 4),
        ("1000000G", 10**15),
    ],
)
def test_counts(load, text, value):
    config = load(f"data: {{corpus: x}}\ntrain: {{tokens: {text}}}\nvariants: {{a: {{}}}}\n")
    assert config.train.tokens == value and type(config.train.tokens) is int


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "'1e-4'", "0.0001", "1E-4"])
def test_a_number_with_an_exponent_is_a_number(load, text):
    assert load(f"data: {{corpus: x}}\ntrain: {{steps: 4, lr: {text}}}\nvariants: {{a: {{}}}}\n").train.lr == 1e-4


@pytest.mark.parametrize(
    ("every", "total", "steps"),
    [
        (0, 100, 0),
        (0.0, 100, 0),
        (10, 100, 10),
        (1, 100, 1),
        (1.0, 100, 1),
        (0.1, 100, 10),
        (0.001, 100, 1),
        (2.0, 9, 2),
    ],
)
def test_intervals(every, total, steps):
    config = TrainConfig(steps=total, evaluate_every=every)
    assert interval(config.evaluate_every, total) == steps
    assert type(interval(config.evaluate_every, total)) is int


def test_defaults_that_a_reader_of_the_yaml_relies_on(load):
    config = load(f"{SOUND}variants: {{a: }}\n")
    assert (config.name, config.seeds, config.hypotheses) == ("c", [0], [])
    assert config.evaluate == EvaluateConfig() and config.model == ModelConfig() == config.variants["a"].model


@pytest.mark.parametrize(("fields", "width"), [({}, 1408), ({"d_ff": 96}, 96), ({"d_model": 24, "n_heads": 4}, 64)])
def test_feed_forward_width(fields, width):
    assert ModelConfig(**fields).feed_forward_width == width


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({}, []),
        ({"memory": MEMORY, "fusion": FUSION, "n_layers": 3}, [0, 1, 2]),
        ({"memory": MEMORY, "fusion": FUSION, "layers": [5, 1]}, [1, 5]),
    ],
)
def test_memory_layers(fields, layers):
    assert ModelConfig(**fields).memory_layers == layers


def test_a_billion_layers_are_judged_in_no_time():
    with pytest.raises(ValidationError, match="has no effect, because the memory replaces every feed-forward layer"):
        ModelConfig(memory=MEMORY, fusion=FUSION, n_layers=10**12, d_ff=8)


def test_sizes_of_a_product_key_memory():
    config = ProductKeyConfig(type="product_key", n_keys=16, n_heads=2, top_k=3, d_value=5)
    assert (config.n_slots, config.n_reads, config.value_width) == (256, 6, 5)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (DataConfig(corpus="x"), "corpus"),
        (TrainConfig(steps=1), "lr"),
        (EvaluateConfig(), "tokens"),
        (ModelConfig(), "d_model"),
        (ExpertsConfig(n_experts=2), "top_k"),
        (ProductKeyConfig(type="product_key"), "n_keys"),
    ],
)
def test_configurations_are_frozen(config, field):
    before = getattr(config, field)
    with pytest.raises(ValidationError, match="Instance is frozen"):
        setattr(config, field, 3)
    with pytest.raises(ValidationError, match="Instance is frozen"):
        config.anything = 3
    assert getattr(config, field) == before and not hasattr(config, "anything")


@pytest.mark.parametrize(
    "text",
    [
        "variants: {a: {}}",
        "variants: {a: {experts: {n_experts: 4}, n_kv_heads: 2, tie_embeddings: false}}",
        "model: {memory: {type: product_key}, fusion: {type: cross_attention, n_heads: 4}, placement: parallel}\n"
        "variants: {a: {d_ff: 8}, b: {fusion: {type: weighted_sum}, layers: [0, 3], shared_bank: false}}\n"
        "seeds: [1, 4294967295]\nevaluate: {samples: 8}\n"
        "hypotheses: [{name: h, claim: a > b, metric: quality.score, margin: 0.5}]",
    ],
)
@pytest.mark.parametrize("train", ["steps: 4", "epochs: 2, schedule: constant, trackers: [wandb], save_every: 0.5"])
@pytest.mark.parametrize("data", ["corpus: x", "corpus: [x, y], validation: z, max_bytes: 2M"])
def test_a_full_dump_validates_to_the_same_configuration(load, text, train, data):
    config = load(f"data: {{{data}}}\ntrain: {{{train}}}\n{text}\n")
    again = ExperimentConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert ExperimentConfig.model_validate(again.model_dump(mode="json")) == config
    assert ExperimentConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"d_model": 64, "n_heads": 4},
        {"memory": MEMORY, "fusion": FUSION},
        {"memory": MEMORY, "fusion": {"type": "cross_attention"}, "layers": [0], "d_ff": 8, "placement": "replace"},
        {"experts": {"n_experts": 3}, "memory": None, "fusion": None},
    ],
)
def test_a_model_dumped_without_what_was_not_set_validates_again(fields):
    config = ModelConfig.model_validate(fields)
    dump = config.model_dump(mode="json", exclude_unset=True)
    assert dump == fields
    assert ModelConfig.model_validate(dump) == config
    without_none = config.model_dump(mode="json", exclude_unset=True, exclude_none=True)
    assert ModelConfig.model_validate(without_none) == config


def test_a_run_depends_on_its_own_variant_alone(load):
    config = load(f"{SOUND}variants: {{a: {{n_layers: 2}}, b: {{}}}}\n")
    run = config.run_config("a", 3)
    assert (run["experiment"], run["variant"], run["seed"], run["model"]["n_layers"]) == ("c", "a", 3, 2)
    assert sorted(run) == ["data", "evaluate", "experiment", "model", "seed", "train", "variant"]
    other = load(f"{SOUND}variants: {{a: {{n_layers: 2}}, b: {{n_layers: 7}}}}\n")
    assert other.run_config("a", 3) == run


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: MemoryConfig().n_slots, "MemoryConfig does not say how many slots it has"),
        (lambda: MemoryConfig().n_reads, "MemoryConfig does not say how many slots it reads"),
        (lambda: MemoryConfig().value_width, "MemoryConfig does not say how wide its values are"),
        (lambda: MemoryConfig().build(8), "MemoryConfig builds nothing"),
        (lambda: FusionConfig().build(8, 1, 8), "FusionConfig builds nothing"),
    ],
)
def test_an_unfinished_memory_or_fusion_says_what_it_lacks(call, reason):
    with pytest.raises(NotImplementedError, match=f"^{reason}$"):
        call()
