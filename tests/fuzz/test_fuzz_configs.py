"""Experiments near sound ones: every file ends in a configuration or in a list of problems, each with its place."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import strategies as st

from memlm.errors import ConfigError
from memlm.experiment.config import ExperimentConfig, load_experiment
from tests.told import one_line

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CONFIGS.rglob("*.yaml"))]
TEXTS = [path.read_bytes() for path in sorted(CONFIGS.rglob("*.yaml"))]
BASE = (CONFIGS / "lineage" / "base.yaml").read_bytes()
WORDS = sorted({*ExperimentConfig.model_fields, "type", "product_key", "gated_mlp", "all", "replace", "400k", "1e999"})


def one_of(values):
    """`sampled_from` for values whose text would flood a failure's report."""
    return st.integers(0, len(values) - 1).map(lambda n: values[n])


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1, 2**31, 2**63, 10**400, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"), -0.0]),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(WORDS), st.text(max_size=12), st.dates())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.one_of(LEAVES), inner, max_size=3)),
    max_leaves=8,
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["drop", "rename", "set", "nest", "copy"]), st.integers(0, 10**6), VALUES), max_size=4
)

NINE = ", ".join(9 * ["*a{0}"])
BOMB = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{NINE.format(n - 1)}]" for n in range(1, 10))]).encode()
# What a YAML file can hold besides plain values.
ODDITIES = [
    b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"\x85", b"\t", b"\r", b"&a ", b"*a", b"<<: *a\n", b"? ", b"!!binary ",
    b"!!python/object/apply:os.system [true] ", b"!!set {", b"%YAML 9.9\n---\n", b"---\n", b"...\n", b"|\n", b">-\n",
    b"base: c.yaml\n", b"base: base.yaml\n", b"base: [base.yaml]\n", b"base: .\n", b"base: /dev/null\n",
    b"seeds: [010, 0x_, 1:30, 1:90, 2001-99-99]\n", b"name: \"\\ud800\"\n", b"[" * 200, b"{a: " * 200, b"- " * 200,
    b"variants: &a {a: *a}\n", BOMB,
]  # fmt: skip
EDITS = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 20), st.one_of(one_of(ODDITIES), st.binary(max_size=8))),
    min_size=1,
    max_size=4,
)

SOURCE = r"(c\.yaml(:\d+)?|base\.yaml(:\d+)?|-o .*)"
LINE = re.compile(rf"  ({SOURCE}  )?\S.*")


def places(tree, path=()):
    """All paths of a tree that lead to a value inside a mapping or a list."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(tree, changes):
    """A copy of ``tree`` with each change made at some place of it."""
    tree = copy.deepcopy(tree)
    for kind, where, value in changes:
        paths = list(places(tree))
        if not paths:
            return tree
        *above, key = paths[where % len(paths)]
        node = tree
        for step in above:
            node = node[step]
        if kind == "drop":
            del node[key]
        elif kind == "rename" and isinstance(node, dict):
            node[value if isinstance(value, str) else str(key)[:-1]] = node.pop(key)
        elif kind == "nest":
            node[key] = {key: node[key]}
        elif kind == "copy":
            node[key] = copy.deepcopy(node)
        else:
            node[key] = value
    return tree


def edited(text, edits):
    """``text`` with bytes cut out and put in at some places."""
    for where, length, new in edits:
        at = where % (len(text) + 1)
        text = text[:at] + new + text[at + length :]
    return text


def dumped(tree):
    return yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


FILES = st.one_of(
    st.builds(changed, one_of(SHIPPED), CHANGES).map(dumped),
    st.builds(edited, one_of(TEXTS), EDITS),
    VALUES.map(dumped),
    st.binary(max_size=60),
)
PATHS = st.one_of(
    one_of([".".join(map(str, path)) for tree in SHIPPED for path in places(tree)]),
    st.text("abc.=: \x00", max_size=8),
)
OVERRIDES = st.lists(
    st.builds("{}={}".format, PATHS, st.one_of(VALUES.map(lambda value: yaml.dump(value).strip()), st.text())),
    max_size=2,
)
CASES = st.tuples(FILES, st.one_of(st.just(BASE), FILES), OVERRIDES)


@pytest.fixture
def check(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check(case):
        upper, base, overrides = case
        Path("c.yaml").write_bytes(upper)
        Path("base.yaml").write_bytes(base)
        try:
            config = load_experiment("c.yaml", overrides)
        except ConfigError as error:
            head, *lines = str(error).split("\n")
            count = re.fullmatch(r"c\.yaml: (\d+) problems?, nothing was run", head)
            assert count and int(count[1]) == len(lines) > 0, str(error)
            for line in lines:
                assert LINE.fullmatch(one_line(line)), line
            return "refused"
        assert ExperimentConfig.model_validate(config.model_dump(mode="json")) == config
        return "read"

    return check


def test_configs(fuzz, check):
    fuzz("configs and overrides", CASES, check, compact=150, torture=6000)
