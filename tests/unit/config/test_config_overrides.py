"""`-o dotted.path=value`: its types, where it may go, and that errors name it."""

import pytest

SOUND = "data: {corpus: x}\ntrain: {steps: 4}\nvariants:\n  a:\n  b: {n_layers: 2}\nseeds: [0, 1]\n"
FORM = "must read dotted.path=value, such as train.lr=1e-3"


@pytest.mark.parametrize(
    ("override", "value_of", "value"),
    [
        ("train.lr=1e-3", lambda c: c.train.lr, 0.001),
        ("train.lr=2", lambda c: c.train.lr, 2.0),
        ("train.steps=4k", lambda c: c.train.steps, 4000),
        ("train.compile=true", lambda c: c.train.compile, True),
        ("train.value_lr=null", lambda c: c.train.value_lr, None),
        ("train.value_lr=", lambda c: c.train.value_lr, None),
        ("train.alarms.dead_slots=null", lambda c: c.train.alarms.dead_slots, None),
        ("train.alarms.dead_slots=0.5", lambda c: c.train.alarms.dead_slots, 0.5),
        ("train.trackers=[swanlab, wandb]", lambda c: c.train.trackers, ["swanlab", "wandb"]),
        ("seeds=[7]", lambda c: c.seeds, [7]),
        ("name=other", lambda c: c.name, "other"),
        ("name='1.5'", lambda c: c.name, "1.5"),
        (" name = spaced ", lambda c: c.name, "spaced"),
        ("data.corpus=hub:a/b=c", lambda c: c.data.corpus, "hub:a/b=c"),
        ("data.corpus='text/train-*.jsonl.xz'", lambda c: c.data.corpus, "text/train-*.jsonl.xz"),
        ("evaluate={samples: 0}", lambda c: c.evaluate.samples, 0),
        ("evaluate.samples=0", lambda c: c.evaluate.samples, 0),  # a new section
        ("model.experts.n_experts=4", lambda c: c.variants["a"].experts.n_experts, 4),
        ("model.n_layers=5", lambda c: [v.n_layers for v in c.variants.values()], [5, 2]),
        ("variants.a.n_layers=5", lambda c: [v.n_layers for v in c.variants.values()], [5, 2]),
        ("variants.b=null", lambda c: [v.n_layers for v in c.variants.values()], [8, 8]),
        ("variants.c={}", lambda c: list(c.variants), ["a", "b", "c"]),
        ("hypotheses=[{name: h, claim: a < b}]", lambda c: c.hypotheses[0].claim, "a < b"),
    ],
)
def test_an_override_wins_over_the_file(load, override, value_of, value):
    got = value_of(load(SOUND, override))
    assert got == value and type(got) is type(value)


def test_an_override_wins_over_the_base_and_a_later_one_over_an_earlier_one(load):
    base = "data: {corpus: x}\ntrain: {steps: 4, lr: 0.1}\n"
    config = load("base: base.yaml\nvariants: {a: {}}\n", "train.lr=0.2", "train.lr=0.3", base=base)
    assert (config.train.lr, config.train.steps) == (0.3, 4)


def test_a_section_as_a_whole_replaces_the_one_in_the_file(load):
    assert load(SOUND.replace("steps: 4", "steps: 4, lr: 0.5"), "train={steps: 9}").train.lr == 1e-3


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.lr", FORM),
        ("", FORM),
        ("=3", FORM),
        ("train.=3", FORM),
        (".lr=3", FORM),
        ("train..lr=3", FORM),
        ("seeds.0=3", "seeds.0 = 3  seeds is a value, not a section"),
        ("train.steps.x=3", "train.steps.x = 3  train.steps is a value, not a section"),
        ("variants.b.n_layers.x.y=[1]", "variants.b.n_layers.x.y = [1]  variants.b.n_layers is a value, not a section"),
        ("train.lr=-1", "train.lr = -1  Input should be greater than 0"),
        ("train.lr=.nan", "train.lr = nan  Input should be a finite number"),
        ("train={steps: 4, lr: -1}", "train.lr = -1  Input should be greater than 0"),
        ("trian.lr=1", "trian  ExperimentConfig has no such field. Did you mean 'train'?"),
        ("train.lrr=1", "train.lrr = 1  TrainConfig has no such field. Did you mean 'lr'?"),
        ("model.n_heads=3", "model.n_heads = 3  d_model / n_heads must be an even whole number, and d_model is 512"),
        ("base=x.yaml", "base = 'x.yaml'  ExperimentConfig has no such field. Did you mean 'name'?"),
        (
            "train.lr=[",
            "train.lr = '['  is not valid YAML: while parsing a flow node, expected the node content, but found"
            " '<stream end>'",
        ),
        ("train.lr=!!bool x", "train.lr = 'x'  cannot be read as the YAML type 'bool'; quote it if it is text"),
        (
            "seeds=[2001-13-45]",
            "seeds.0 = '2001-13-45'  has the YAML type 'timestamp', which has no use here; quote it if it is text",
        ),
        (
            "train={steps: 4, steps: 5}",
            "train.steps = '{steps: 4, steps: 5}'  is given twice; first at -o train={steps: 4, steps: 5}:1",
        ),
    ],
)
def test_an_override_that_is_wrong_is_told_by_its_own_text(problems_of, override, line):
    assert problems_of(SOUND, override) == [f"-o {override}  {line}"]


def test_a_deep_override_is_told_briefly(problems_of):
    [told] = problems_of(SOUND, "name=" + "[" * 1000)
    assert told.startswith("-o name=[[[") and len(told) < 600
    assert told.endswith("...  is not valid YAML: nests more than 32 levels deep")


def test_a_path_of_a_thousand_keys_is_no_traceback(problems_of):
    [told] = problems_of(SOUND, "train.lr" + ".x" * 1000 + "=1")
    assert told.startswith("-o train.lr.x.x.x") and told.endswith("...  train.lr  Input should be a valid number")


def test_a_line_break_or_an_undecoded_byte_of_an_override_stays_on_the_line(problems_of):
    assert problems_of(SOUND, "\udcff=3") == [rf"-o \udcff=3  {FORM}"]
    assert problems_of(SOUND, "train.lr=\n-1") == [r"-o train.lr=\n-1  train.lr = -1  Input should be greater than 0"]


def test_every_wrong_override_is_told_with_what_is_wrong_in_the_file(problems_of):
    assert problems_of(SOUND.replace("steps: 4", "steps: 0"), "nonsense", "train.lr=-1") == [
        "c.yaml:2  train.steps = 0  Input should be greater than 0",
        "-o nonsense  must read dotted.path=value, such as train.lr=1e-3",
        "-o train.lr=-1  train.lr = -1  Input should be greater than 0",
    ]


def test_two_equal_errors_in_one_override_are_both_told(problems_of):
    override = "variants={a: {n_layers: 0}, b: {n_layers: 0}}"
    assert problems_of(SOUND, override) == [
        f"-o {override}  variants.{name}.n_layers = 0  Input should be greater than or equal to 1" for name in "ab"
    ]
