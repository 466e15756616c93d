"""Whatever a file and its overrides hold, `load_experiment` returns or raises a ConfigError of whole lines."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlm.errors import ConfigError
from memlm.experiment.config import ExperimentConfig, load_experiment
from tests.told import one_line

LINES = [
    "data: {corpus: x}",
    "data: {corpus: [x, y], validation: z, validation_share: .nan}",
    "train: {steps: 4}",
    "train: {tokens: 4k, lr: 1e-3, betas: [0.9, true]}",
    "train: &t {steps: !!bool x, log_every: 1e999}",
    "variants: {a: {}}",
    "variants: {a: , b: {n_layers: 0}, ..: 3}",
    "variants: [*t]",
    "variants:",
    "  a: &a {memory: {type: product_key, top_k: 1}, layers: [0, 99]}",
    "  b: *a",
    "  c: {<<: *a, fusion: {type: [gated_mlp]}}",
    "model: {memory: {type: 3}, fusion: {}}",
    "model: {layers: {a: 1}, experts: [], n_heads: 10000000000000000000000000}",
    "base: base.yaml",
    "base: c.yaml",
    'base: "\\0"',
    "seeds: [0, -1, 1:30, 2001-99-99]",
    "hypotheses: [{name: h, claim: a < b}, 3, {claim: [], metric: los}]",
    "evaluate: {tokens: -1, temperature: .inf}",
    "? [a, {b: c}]",
    ": 1",
    'name: "\\ud800\\n"',
    "name: \t|",
    "!!set {a, b}",
    "--- # next",
    "%TAG ! x",
    "\u2028\x85",
    "\x00",
]
NOISE = st.text("ab:-[]{}&*!<>|?,\t\n #'\"\\0.~%@`é=😀\x07", max_size=30)
TEXTS = st.lists(st.one_of(st.sampled_from(LINES), NOISE), max_size=6).map("\n".join)
PATHS = st.lists(
    st.sampled_from([*ExperimentConfig.model_fields, "a", "memory", "type", "0", "lr", "base", ""]), max_size=4
)
OVERRIDES = st.one_of(NOISE, st.builds("{}={}".format, PATHS.map(".".join), NOISE))

SOURCE = r"(c\.yaml:\d+|base\.yaml:\d+|-o .*)"
LINE = re.compile(rf"  ({SOURCE}  )?\S.*")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("never")


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(upper=TEXTS, base=TEXTS, overrides=st.lists(OVERRIDES, max_size=3))
def test_any_text(folder: Path, upper, base, overrides):
    (folder / "base.yaml").write_text(base, encoding="utf-8")
    (folder / "c.yaml").write_text(upper, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        try:
            config = load_experiment("c.yaml", overrides)
        except ConfigError as error:
            head, *lines = str(error).split("\n")
            count = re.fullmatch(r"c\.yaml: (\d+) problems?, nothing was run", head)
            assert count and int(count[1]) == len(lines) > 0, str(error)
            for line in lines:
                assert LINE.fullmatch(one_line(line)), line
        else:
            assert ExperimentConfig.model_validate(config.model_dump(mode="json")) == config
