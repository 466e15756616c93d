"""Every error text of a section and of the experiment as a whole, alone and all at once."""

import pytest

from memlm.errors import ConfigError
from memlm.experiment.config import load_experiment
from tests.unit.config.texts import FOLDER, LINE, SOUND, SPLIT, WHOLE, above, at_least, text_with


def claims(claim, metric="time_s"):
    return f"hypotheses: [{{name: h, claim: {claim}, metric: {metric}}}]"


@pytest.mark.parametrize(
    ("text", "subject", "reason"),
    [
        ("name: a/b", "name = 'a/b'", FOLDER),
        ("name: ..", "name = '..'", FOLDER),
        ("name: ''", "name = ''", FOLDER),
        ('name: "a\\n"', r"name = 'a\n'", FOLDER),
        ('name: "a\\0b"', r"name = 'a\x00b'", FOLDER),
        (f"name: {'x' * 61}", f"name = '{'x' * 61}'", FOLDER),
        ("name: 3", "name = 3", "Input should be a valid string"),
        ("name: yes", "name = True", "Input should be a valid string"),
        ("seeds: []", "seeds", "List should have at least 1 item after validation, not 0"),
        ("seeds:", "seeds = None", "Input should be a valid list"),
        ("seeds: 3", "seeds = 3", "Input should be a valid list"),
        ("seeds: [1, 2, 1]", "seeds", "names a seed twice"),
        ("seeds: [-1]", "seeds.0 = -1", at_least(0)),
        ("seeds: [4294967296]", "seeds.0 = 4294967296", "Input should be less than 4294967296"),
        ("seeds: [0, true]", "seeds.1 = True", WHOLE),
        ("seeds: [1.0]", "seeds.0 = 1.0", WHOLE),
        ("seeds: ['3']", "seeds.0 = '3'", WHOLE),
        ("model:", "model = None", "must be a mapping of fields"),
        ("evaluate: 3", "evaluate = 3", "must be a mapping of fields"),
        ("hypotheses: a < b", "hypotheses = 'a < b'", "Input should be a valid list"),
        ("hypotheses: [3]", "hypotheses.0 = 3", "must be a mapping of fields"),
        ("hypotheses: [{name: h}]", "hypotheses.0.claim", "is required"),
        ("hypotheses: [{claim: a < a2}]", "hypotheses.0.name", "is required"),
        (
            "hypotheses: [{name: h, claim: a < b, margin: -1}]",
            "hypotheses.0.margin = -1",
            at_least(0),
        ),
        (
            claims("a beats b"),
            "hypotheses.0.claim = 'a beats b'",
            "a claim compares two variants or two differences, such as 'gated_mlp < dense', 'a - b < c - d' or"
            " '|a - b| > |c - d|', not 'a beats b'",
        ),
        (claims("a < a"), "hypotheses.0.claim = 'a < a'", "the claim 'a < a' compares a with itself"),
        (claims("a < bb"), "hypotheses.0.claim = 'a < bb'", "unknown variant 'bb'. Known: a."),
        (claims("aa > a"), "hypotheses.0.claim = 'aa > a'", "unknown variant 'aa'. Did you mean 'a'? Known: a."),
        (claims("a < a*"), "hypotheses.0.claim = 'a < a*'", "both sides fit the same variants; compare different ones"),
        (claims("a < b*"), "hypotheses.0.claim = 'a < b*'", "unknown variant 'b*'. Known: a."),
        (
            claims("a < b", metric="validation_los"),
            "hypotheses.0.metric = 'validation_los'",
            "unknown metric 'validation_los'. Did you mean 'validation_loss'? Known: bits_per_byte,"
            " learned_bits.share, learned_bits.total, memory_off_loss, memory_shuffled_loss, peak_memory_gib,"
            " quality.metrics.model.distinct_1, quality.metrics.model.distinct_2,"
            " quality.metrics.model.judge_nats, quality.metrics.model.repetition, quality.score,"
            " recall.<kind>.exact_match, recall.<kind>.nll, time_s, tokens_per_s, train_loss, train_subset_loss,"
            " usage.<layer>.dead_slots, usage.<layer>.effective_slots, usage.<layer>.kl_uniform,"
            " usage.<layer>.read_norm, usage.<layer>.share_read, usage.<layer>.update_share, validation_loss,"
            " validation_perplexity.",
        ),
        ("alpha: 0", "alpha = 0", above(0)),
        ("alpha: 0.6", "alpha = 0.6", "Input should be less than or equal to 0.5"),
        ("modle: {}", "modle", "ExperimentConfig has no such field. Did you mean 'model'?"),
        (
            "1: 2",
            "1 = 2",
            "ExperimentConfig has no such field. Known: name, data, model, train, evaluate, tune, variants, seeds,"
            " hypotheses, alpha.",
        ),
    ],
)
def test_a_section_that_is_wrong_is_told_in_one_line(problems_of, text, subject, reason):
    sound = text_with("train", SOUND["train"])
    assert problems_of(f"{sound}{text}\n") == [f"c.yaml:4  {subject}  {reason}"]


@pytest.mark.parametrize(
    ("section", "text", "line"),
    [
        ("variants", "variants: [a]", "variants  Input should be a valid dictionary"),
        ("variants", "variants: {}", "variants  Dictionary should have at least 1 item after validation, not 0"),
        ("variants", "variants: {a: 3}", "variants.a = 3  must be a mapping of fields"),
        ("variants", "variants: {a: 0}", "variants.a = 0  must be a mapping of fields"),
        ("variants", "variants: {a b: {}}", f"variants.a b = 'a b'  {FOLDER}"),
        ("variants", "variants: {..: {}}", f"variants... = '..'  {FOLDER}"),
        ("data", "data:", "data = None  must be a mapping of fields"),
        ("train", "train: 3", "train = 3  must be a mapping of fields"),
    ],
)
def test_a_section_of_the_wrong_kind_is_told(problems_of, section, text, line):
    sections = {name: f"{name}: {{{fields}}}" for name, fields in SOUND.items()} | {section: text}
    assert problems_of("\n".join(sections.values())) == [f"c.yaml:{LINE[section]}  {line}"]


def test_a_default_name_comes_from_the_file_and_is_checked(tmp_path):
    path = tmp_path / "my run.yaml"
    path.write_text(text_with("train", SOUND["train"]), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"my run\.yaml:1  name = 'my run'  names a folder"):
        load_experiment(path)


def test_all_problems_come_at_once_in_the_order_of_the_file(problems_of):
    text = """\
train:
  lr: -1
  value_lr: -1
variants: {a: {n_heads: 3}, b: {n_heads: 3}, a c: {}, a d: {}}
seeds: [-1]
data: {corpus: 3}
data: {}
xyzzy:
"""
    assert problems_of(text, "evaluate.samples=-1", "nonsense") == [
        f"c.yaml:2  train.lr = -1  {above(0)}",
        f"c.yaml:3  train.value_lr = -1  {above(0)}",
        f"c.yaml:4  variants.a.n_heads = 3  {SPLIT} 512",
        f"c.yaml:4  variants.b.n_heads = 3  {SPLIT} 512",
        f"c.yaml:4  variants.a c = 'a c'  {FOLDER}",
        f"c.yaml:4  variants.a d = 'a d'  {FOLDER}",
        f"c.yaml:5  seeds.0 = -1  {at_least(0)}",
        "c.yaml:6  data.corpus = 3  must be text or a list of texts",
        "c.yaml:7  data  is given twice; first at c.yaml:6",
        "c.yaml:8  xyzzy = None  ExperimentConfig has no such field. Known: name, data, model, train, evaluate,"
        " tune, variants, seeds, hypotheses, alpha.",
        f"-o evaluate.samples=-1  evaluate.samples = -1  {at_least(0)}",
        "-o nonsense  must read dotted.path=value, such as train.lr=1e-3",
    ]


def test_a_metric_must_be_one_that_both_sides_have(problems_of):
    wired = "variants.b={memory: {type: product_key}, fusion: {type: gated_mlp}}"
    told = "c.yaml:4  hypotheses.0.metric = '{0}'  a has no memory, and nothing of the kind to compare"
    sound = text_with("train", SOUND["train"])
    for metric in ("usage.1.share_read", "memory_off_loss"):
        assert problems_of(sound + claims("a < b", metric) + "\n", wired) == [told.format(metric)]
    for metric in ("usage.1.share", "usage.<layer>.share_read", "usage.x.share_read"):
        (problem,) = problems_of(sound + claims("a < b", f"'{metric}'") + "\n", wired)
        assert "unknown metric" in problem


def test_a_test_split_must_be_there_to_be_opened(problems_of):
    text = text_with("evaluate", "split: test")
    assert problems_of(text) == [
        "c.yaml:4  evaluate.split = 'test'  there is no test split; name its text in data.test, or set data.test_share"
    ]


def test_missing_sections_point_at_the_start_of_the_file(problems_of):
    assert problems_of("# nothing but a seed\nseeds: [1]\n") == [
        "c.yaml:2  data  is required",
        "c.yaml:2  train  is required",
        "c.yaml:2  variants  is required",
    ]


@pytest.mark.parametrize(("data", "evaluate"), [("corpus: x", "samples: 2"), ("corpus: facts", "questions: 0")])
def test_a_claim_on_answers_needs_questions(problems_of, load, data, evaluate):
    claim = claims("a < b", metric="recall.seen.nll")
    text = text_with("data", data) + text_with("evaluate", evaluate).splitlines()[-1] + "\n" + claim
    assert problems_of(text, "variants.b={}") == [
        "c.yaml:5  hypotheses.0.metric = 'recall.seen.nll'  needs questions, of corpus: facts or of"
        " evaluate.question_file"
    ]
    assert load(text, "variants.b={}", "data.corpus=facts", "evaluate.questions=5").has_questions


def test_a_claim_on_generated_text_needs_generated_text(problems_of):
    text = text_with("evaluate", "samples: 0") + claims("a < b", metric="quality.score") + "\n"
    assert problems_of(text, "variants.b={}") == [
        "c.yaml:5  hypotheses.0.metric = 'quality.score'  needs generated text, and evaluate.samples is 0"
    ]
