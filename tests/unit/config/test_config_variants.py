"""Variants are merged over `model`, and an error that they share is told once, where it was written."""

from tests.unit.config.texts import FUSIONS

HEAD = "data: {corpus: x}\ntrain: {steps: 4}\n"
WIRED = "memory: {type: product_key}, fusion: {type: gated_mlp}"
EVEN = "d_model / n_heads must be an even whole number, and d_model is"


def test_variants_merge_over_the_model(load):
    config = load(f"{HEAD}model: {{n_layers: 3, n_heads: 4, experts: {{n_experts: 4}}}}\n"
                  "variants: {a: , b: {n_layers: 5}, c: {experts: {top_k: 1}}, d: {experts: null}}\n")  # fmt: skip
    a, b, c, d = config.variants.values()
    assert (a.n_layers, a.n_heads, a.experts) == (3, 4, config.model.experts)
    assert (b.n_layers, b.n_heads) == (5, 4)
    assert (c.experts.n_experts, c.experts.top_k) == (4, 1)
    assert d.experts is None


def test_variants_without_a_model(load):
    config = load(f"{HEAD}variants: {{1: {{}}, v1.5: {{d_model: 64}}}}\n")
    assert {name: variant.d_model for name, variant in config.variants.items()} == {"1": 512, "v1.5": 64}


def test_an_anchor_is_as_good_as_a_copy(load):
    config = load(f"{HEAD}variants:\n  a: &a {{{WIRED}, n_layers: 2}}\n  b: *a\n  c: {{memory: {{type: product_key}}, "
                  "fusion: {type: weighted_sum}, n_layers: 2}\n", "variants.b.n_layers=3")  # fmt: skip
    assert [variant.n_layers for variant in config.variants.values()] == [2, 3, 2]
    assert config.variants["b"].memory == config.variants["a"].memory


def test_an_inherited_error_is_told_once_at_its_own_line(problems_of):
    text = f"{HEAD}model:\n  n_heads: 3\n  d_modl: 4\nvariants: {{a: {{}}, b: {{n_layers: 2}}}}\n"
    assert problems_of(text) == ["c.yaml:5  model.d_modl = 4  ModelConfig has no such field. Did you mean 'd_model'?"]
    assert problems_of(text.replace("  d_modl: 4\n", "")) == [f"c.yaml:4  model.n_heads = 3  {EVEN} 512"]


def test_an_inherited_error_of_a_default_is_told_once(problems_of):
    text = f"{HEAD}model: {{d_model: 24}}\nvariants: {{a: {{}}, b: {{n_layers: 2}}}}\n"
    assert problems_of(text) == [f"c.yaml:3  model.n_heads = 8  {EVEN} 24"]


def test_a_variant_that_repeats_the_error_is_told_too(problems_of):
    text = f"{HEAD}model: {{n_heads: 3}}\nvariants:\n  a: {{}}\n  b: {{n_heads: 3}}\n"
    assert problems_of(text) == [
        f"c.yaml:3  model.n_heads = 3  {EVEN} 512",
        f"c.yaml:6  variants.b.n_heads = 3  {EVEN} 512",
    ]


def test_an_error_that_arises_by_the_merge_points_at_the_line_of_the_value(problems_of):
    text = f"{HEAD}model:\n  n_heads: 8\nvariants:\n  a: {{d_model: 24}}\n  b: {{}}\n"
    assert problems_of(text) == [f"c.yaml:4  variants.a.n_heads = 8  {EVEN} 24"]


def test_an_inherited_override_is_told_once(problems_of):
    text = f"{HEAD}variants: {{a: {{}}, b: {{}}}}\n"
    assert problems_of(text, "model.n_layers=0") == [
        "-o model.n_layers=0  model.n_layers = 0  Input should be greater than or equal to 1"
    ]


def test_an_error_behind_an_anchor_is_told_once_at_the_anchor(problems_of):
    memory = "memory: &m {type: product_key, n_kyes: 4}\n    fusion: {type: gated_mlp}"
    text = f"{HEAD}variants:\n  a:\n    {memory}\n  b:\n    memory: *m\n    fusion: {{type: gated_mlp}}\n"
    assert problems_of(text) == [
        "c.yaml:5  variants.a.memory.n_kyes = 4  ProductKeyConfig has no such field. Did you mean 'n_keys'?"
    ]


def test_equal_errors_of_two_variants_are_both_told(problems_of):
    needs = f"fusion = None  is required with a memory. Known: {FUSIONS}"
    memory = "{memory: {type: product_key}}"
    assert problems_of(f"{HEAD}variants:\n  a: {memory}\n  b: {memory}\n  c: {{}}\n") == [
        f"c.yaml:4  variants.a.{needs}",
        f"c.yaml:5  variants.b.{needs}",
    ]
