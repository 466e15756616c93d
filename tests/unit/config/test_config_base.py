"""`base:` once: what is merged, what is replaced, and where an error in either file is told."""

import pytest

from memlm.config.load import read
from memlm.experiment.config import load_experiment

BASE = "data: {corpus: x, seq_len: 64}\ntrain: {steps: 4, betas: [0.5, 0.6]}\nmodel:\n  n_layers: 2\n  d_model: 64\n"
UPPER = "base: base.yaml\nvariants: {a: {}}\n"


def test_mappings_merge_and_everything_else_is_replaced(load):
    config = load(
        f"{UPPER}train: {{betas: [0.1, 0.2]}}\nmodel: {{n_layers: 3}}\nseeds: [7]\n", base=f"{BASE}seeds: [1, 2]\n"
    )
    assert (config.data.corpus, config.data.seq_len, config.train.steps) == ("x", 64, 4)
    assert (config.train.betas, config.seeds) == ((0.1, 0.2), [7])
    assert (config.model.n_layers, config.model.d_model) == (3, 64)
    assert (config.variants["a"].n_layers, config.variants["a"].d_model) == (3, 64)
    assert config.name == "c"


def test_null_takes_a_value_back(load):
    assert load(f"{UPPER}train: {{steps: null, epochs: 2}}\n", base=BASE).train.epochs == 2


def test_another_type_replaces_the_mapping_whole(load):
    base = f"{BASE}  memory: {{type: product_key, n_keys: 32}}\n  fusion: {{type: cross_attention, n_heads: 4}}\n"
    same = load(f"{UPPER}model: {{memory: {{top_k: 4}}, fusion: {{type: cross_attention}}}}\n", base=base).model
    assert (same.memory.n_keys, same.memory.top_k, same.fusion.n_heads) == (32, 4, 4)
    other = load(f"{UPPER}model: {{fusion: {{type: gated_mlp, d_hidden: 8}}}}\n", base=base).model
    assert other.fusion.model_dump() == {"type": "gated_mlp", "d_hidden": 8}


def test_a_variant_may_have_another_type_than_the_model(load):
    wiring = "model: {memory: {type: product_key}, fusion: {type: cross_attention, n_heads: 4}}"
    config = load(f"{UPPER.replace('{}', '{fusion: {type: gated_mlp}}')}{wiring}\n", base=BASE)
    assert config.variants["a"].fusion.model_dump() == {"type": "gated_mlp", "d_hidden": None}


def test_the_places_of_a_replaced_mapping_are_forgotten(tmp_path):
    (tmp_path / "base.yaml").write_text("m:\n  type: one\n  size: 1\nk:\n  size: 2\nl: [1, 2]\n", encoding="utf-8")
    upper = tmp_path / "c.yaml"
    upper.write_text("base: base.yaml\nm: {type: two}\nk: {n: 3}\nl: none\n", encoding="utf-8")
    tree = read(upper)
    assert tree.data == {"m": {"type": "two"}, "k": {"size": 2, "n": 3}, "l": "none"}
    assert str(tree.where(("m", "size"))) == f"{upper}:2"
    assert str(tree.where(("k", "size"))) == f"{tmp_path}/base.yaml:5"
    assert str(tree.where(("l", "1"))) == f"{upper}:4"


def test_an_error_is_told_where_it_was_written(problems_of):
    base = f"{BASE}evaluate: {{samples: -1, tokens: 0}}\n"
    assert problems_of(f"{UPPER}evaluate: {{tokens: -5}}\n", base=base) == [
        "base.yaml:6  evaluate.samples = -1  Input should be greater than or equal to 0",
        "c.yaml:3  evaluate.tokens = -5  Input should be greater than 0",
    ]


def test_duplicates_in_the_base_are_told(problems_of):
    assert problems_of(UPPER, base=f"{BASE}data: {{}}\n") == ["base.yaml:6  data  is given twice; first at base.yaml:1"]


@pytest.mark.parametrize(
    ("upper", "base", "line"),
    [
        ("base: none.yaml", None, "c.yaml:1  base = 'none.yaml'  there is no such file"),
        ("base: .", None, "c.yaml:1  base = '.'  cannot be read: Is a directory"),
        ("base: ''", None, "c.yaml:1  base = ''  cannot be read: Is a directory"),
        ('base: "a\\0b"', None, r"c.yaml:1  base = 'a\x00b'  cannot be read: embedded null byte"),
        (
            "base: [base.yaml]",
            BASE,
            "c.yaml:1  base = ['base.yaml']  must be the path of one YAML file beside this one",
        ),
        ("base: 3", BASE, "c.yaml:1  base = 3  must be the path of one YAML file beside this one"),
        (
            "base: !!bool x",
            BASE,
            "c.yaml:1  base = 'x'  cannot be read as the YAML type 'bool'; quote it if it is text",
        ),
        ("base: base.yaml", "", "base.yaml:1  must be a mapping of sections (data, model, train, ...)"),
        (
            "base: base.yaml",
            "data: [\n",
            "base.yaml:2  is not valid YAML: while parsing a flow node, expected the node content, but found"
            " '<stream end>'",
        ),
    ],
)
def test_a_base_that_cannot_be_read_is_told_alone(problems_of, upper, base, line):
    assert problems_of(f"{upper}\nvariants: {{a: {{}}}}\n", base=base) == [line]


def test_a_base_has_no_base(problems_of):
    line = "c.yaml:1  base = 'base.yaml'  has a base itself; one level is all there is"
    assert problems_of(UPPER, base=f"{BASE}base: other.yaml\n") == [line]
    assert problems_of("base: c.yaml\ndata: {corpus: x}\ntrain: {steps: 4}\nvariants: {a: {}}\n") == [
        "c.yaml:1  base = 'c.yaml'  has a base itself; one level is all there is"
    ]


def test_a_base_that_is_not_utf_8(problems_of, tmp_path):
    (tmp_path / "base.yaml").write_bytes(b"\xff")
    assert problems_of(UPPER) == ["c.yaml:1  base = 'base.yaml'  is not UTF-8 (byte 0)"]


def test_a_base_lies_beside_the_file_whatever_the_working_folder(tmp_path, load):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.yaml").write_text("base: ../base.yaml\nvariants: {a: {}}\n", encoding="utf-8")
    load(UPPER, base=BASE)
    assert load_experiment("sub/d.yaml").train.steps == 4
