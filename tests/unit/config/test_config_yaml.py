"""Files that are no configuration: broken YAML, odd keys and types, and what no file should hold."""

import pytest

from memlm.errors import ConfigError
from memlm.experiment.config import load_experiment
from memlm.model.config import ModelConfig

SOUND = "data: {corpus: x}\ntrain: {steps: 4}\nvariants: {a: {}}\n"  # a line added to it is line 4
MAPPING = "must be a mapping of sections (data, model, train, ...)"
QUOTE = "which has no use here; quote it if it is text"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", f"c.yaml:1  {MAPPING}"),
        ("# only a comment\n", f"c.yaml:1  {MAPPING}"),
        ("hello", f"c.yaml:1  {MAPPING}"),
        ("- data\n", f"c.yaml:1  {MAPPING}"),
        (
            "data:\n\tcorpus: x\n",
            "c.yaml:2  is not valid YAML: while scanning for the next token, found character '\\t' that cannot start"
            " any token",
        ),
        (
            "data: {corpus: [x\n",
            "c.yaml:2  is not valid YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'",
        ),
        (
            "data: x: y\n",
            "c.yaml:1  is not valid YAML: mapping values are not allowed here",
        ),
        (
            f"{SOUND}---\nname: x\n",
            "c.yaml:4  is not valid YAML: expected a single document in the stream, but found another document",
        ),
        (f"{SOUND}name: *none\n", "c.yaml:4  is not valid YAML: found undefined alias 'none'"),
        (f"{SOUND}name: a\x00b\n", "c.yaml:4  is not valid YAML: the character '\\x00' is not allowed"),
        (f"{SOUND}name: a\x1b[2Jb\n", "c.yaml:4  is not valid YAML: the character '\\x1b' is not allowed"),
        (b"\xff\xfedata: x\n", "is not UTF-8 (byte 0)"),
        ("data: {corpus: caf\xe9}\n".encode("latin-1"), "is not UTF-8 (byte 18)"),
        (f"{SOUND}x: {'[' * 1000}{']' * 1000}\n", "is not valid YAML: nests more than 32 levels deep"),
        (f"{SOUND}x: {'{a: ' * 1000}1{'}' * 1000}\n", "is not valid YAML: nests more than 32 levels deep"),
        (f"{SOUND}x: {'[' * 40}{']' * 40}\n", "c.yaml:4  is not valid YAML: nests more than 32 levels deep"),
        ("data: &loop\n  corpus: *loop\n", "c.yaml:1  is not valid YAML: nests more than 32 levels deep"),
        (
            f"{SOUND}a: &a [0{',0' * 999}]\nb: [*a{',*a' * 999}]\n",
            "c.yaml:4  is not valid YAML: holds more than 100,000 values",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_told_in_one_line(problems_of, text, line):
    assert problems_of(text, "train.lr=-1") == [line]


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_experiment(tmp_path / "none.yaml")
    assert str(caught.value) == f"{tmp_path}/none.yaml: 1 problem, nothing was run\n  there is no such file"
    with pytest.raises(ConfigError) as caught:
        load_experiment(tmp_path)
    assert str(caught.value) == f"{tmp_path}: 1 problem, nothing was run\n  cannot be read: Is a directory"


@pytest.mark.parametrize(
    ("added", "lines"),
    [
        ("data: {corpus: y}", ["c.yaml:4  data  is given twice; first at c.yaml:1"]),
        (
            "data: 1\ndata: 2",
            ["c.yaml:4  data  is given twice; first at c.yaml:1", "c.yaml:5  data  is given twice; first at c.yaml:1"],
        ),
        (
            "model:\n  n_heads: 8\n  d_model: 64\n  n_heads: 4",
            ["c.yaml:7  model.n_heads  is given twice; first at c.yaml:5"],
        ),
        (
            "model: {1: 2, '1': 3, n_layers: 0}",
            [
                f"c.yaml:4  model.1 = 2  ModelConfig has no such field. Known: {', '.join(ModelConfig.model_fields)}.",
                "c.yaml:4  model.1  is given twice; first at c.yaml:4",
                "c.yaml:4  model.n_layers = 0  Input should be greater than or equal to 1",
            ],
        ),
        ("? [a, b]\n: 1", ["c.yaml:4  has a key that is not text"]),
        ('"\\ud800": 1', ["c.yaml:4  has a key that is not text"]),
        ("model:\n  ? {a: b}\n  : 1", ["c.yaml:5  model  has a key that is not text"]),
        (
            "shared: &m {n_layers: 2}\nmodel:\n  <<: *m",
            [
                "c.yaml:4  shared  ExperimentConfig has no such field. Did you mean 'seeds'?",
                "c.yaml:6  model.<<  merge keys are not read; use base:, put shared fields under model: or repeat them",
            ],
        ),
    ],
)
def test_keys(problems_of, added, lines):
    assert problems_of(f"{SOUND}{added}\n") == lines


@pytest.mark.parametrize(
    ("text", "subject", "reason"),
    [
        ("name: 2001-01-01", "name = '2001-01-01'", f"has the YAML type 'timestamp', {QUOTE}"),
        ("name: =", "name = '='", f"has the YAML type 'value', {QUOTE}"),
        ("name: !!python/object:os.system x", "name = 'x'", f"has the YAML type 'python/object:os.system', {QUOTE}"),
        ("name: !mine x", "name = 'x'", f"has the YAML type '!mine', {QUOTE}"),
        ("name: !!binary eA==", "name = 'eA=='", f"has the YAML type 'binary', {QUOTE}"),
        ("seeds: !mine [1]", "seeds", f"has the YAML type '!mine', {QUOTE}"),
        ("seeds: !!set {1}", "seeds", f"has the YAML type 'set', {QUOTE}"),
        ("seeds: !!seq x", "seeds = 'x'", f"has the YAML type 'seq', {QUOTE}"),
        ("seeds: [010]", "seeds.0 = '010'", "is 8 to YAML; write that number, or quote it if it is text"),
        ("seeds: [1:30]", "seeds.0 = '1:30'", "is 90 to YAML; write that number, or quote it if it is text"),
        ("seeds: [-1:30.5]", "seeds.0 = '-1:30.5'", "is -90.5 to YAML; write that number, or quote it if it is text"),
        ('name: "\\ud800"', r"name = '\ud800'", "holds half a character (a lone surrogate)"),
        ("seeds: [!!int x]", "seeds.0 = 'x'", "cannot be read as the YAML type 'int'; quote it if it is text"),
        ("seeds: [!!float x]", "seeds.0 = 'x'", "cannot be read as the YAML type 'float'; quote it if it is text"),
        ("seeds: [!!bool x]", "seeds.0 = 'x'", "cannot be read as the YAML type 'bool'; quote it if it is text"),
    ],
)
def test_yaml_types_are_told_once(problems_of, text, subject, reason):
    assert problems_of(f"{SOUND}{text}\n") == [f"c.yaml:4  {subject}  {reason}"]


def test_a_list_of_which_a_part_is_unreadable_is_told_in_words(problems_of):
    assert problems_of(f"base: [2001-01-01]\n{SOUND}") == [
        "c.yaml:1  base = [unreadable]  must be the path of one YAML file beside this one",
        f"c.yaml:1  base.0 = '2001-01-01'  has the YAML type 'timestamp', {QUOTE}",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("name: 'X'", "c.yaml:4  name = 'XXX"),
        ("model: {d_model: X}", "c.yaml:4  model.d_model = 'XXX"),
        ("seeds: [9X]", "c.yaml:4  seeds.0 = '9XXX"),
        ("? X\n: 1", "c.yaml:4  XXX"),
        ("hypotheses: [{name: h, claim: X}]", "c.yaml:4  hypotheses.0.claim = 'XXX"),
        ("model: {placement: X}", "c.yaml:4  model.placement = 'XXX"),
    ],
)
def test_a_megabyte_of_text_is_told_briefly(problems_of, text, line):
    [told] = problems_of(f"{SOUND}{text.replace('X', 'X' * 1_000_000)}\n")
    assert told.startswith(line) and "..." in told and len(told) < 1500


def test_a_number_of_5000_digits_is_no_traceback(problems_of):
    [line] = problems_of(f"{SOUND}seeds: [{'9' * 5000}]\n")
    assert line.endswith("999...  cannot be read as the YAML type 'int'; quote it if it is text")


def test_line_breaks_and_control_characters_stay_on_the_line(problems_of):
    assert problems_of(f'{SOUND}model: {{"d\\n\\e[1m_model": 1}}\n') == [
        "c.yaml:4  model.d\\n\\x1b[1m_model = 1  ModelConfig has no such field. Did you mean 'd_model'?"
    ]


@pytest.mark.parametrize("text", ["\ufeff" + SOUND, SOUND.replace("\n", "\r\n"), SOUND.rstrip(), f"---\n{SOUND}..."])
def test_a_byte_order_mark_line_ends_and_document_marks_do_no_harm(load, text):
    assert load(text).train.steps == 4
