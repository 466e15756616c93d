"""Variants that train in their own way, and those that are matched to another."""

import pytest

from tests.unit.config.texts import WIRED

HEAD = "data: {corpus: x}\ntrain: {tokens: 400k, lr: 1.0e-3, clip: 0.5}\n"
SHARED = "is the same for all variants; set it under train"


def test_own_settings_are_merged_over_the_shared_ones(load):
    config = load(f"{HEAD}variants: {{a: {{train: {{lr: 2.0e-3}}}}, b: {{}}}}\n", "train.clip=0.25")
    a, b = config.train_of("a"), config.train_of("b")
    assert (a.lr, a.clip, a.tokens) == (2e-3, 0.25, 400_000)
    assert b == config.train and b.lr == 1e-3


def test_a_budget_of_its_own_replaces_the_shared_one(load):
    config = load(f"{HEAD}variants: {{a: {{train: {{steps: 7}}}}}}\n", "variants.a.train.lr=0.5")
    own = config.train_of("a")
    assert (own.steps, own.tokens, own.epochs, own.lr) == (7, None, None, 0.5)


def test_a_runs_settings_are_resolved_and_hold_the_model_alone(load):
    config = load(f"{HEAD}variants: {{a: {{d_ff: 8, train: {{lr: 2.0e-3}}}}, b: {{match: {{to: a}}}}}}\n")
    run = config.run_config("a", 3)
    assert run["train"]["lr"] == 2e-3 and run["train"]["tokens"] == 400_000
    assert run["model"]["d_ff"] == 8 and not {"train", "match"} & run["model"].keys()
    assert run.keys() == config.run_config("b", 3).keys()


@pytest.mark.parametrize(
    ("variants", "subject", "reason"),
    [
        ("v1.5: {train: {device: cpu}}", "v1.5.train.device = 'cpu'", SHARED),
        ("a: {train: {batch_size: 4}}", "a.train.batch_size = 4", SHARED),
        ("a: {train: {lr: 0}}", "a.train.lr = 0", "Input should be greater than 0"),
        ("a: {train: {lrr: 1}}", "a.train.lrr = 1", "TrainConfig has no such field. Did you mean 'lr'?"),
        ("a: {train: 3}", "a.train = 3", "must be a mapping of fields"),
        ("a: {train: {steps: 3, tokens: 4}}", "a.train.steps = 3", "give exactly one of tokens, epochs, steps"),
        ("a: {match: {to: bb}}, b: {}", "a.match.to = 'bb'", "unknown variant 'bb'. Did you mean 'b'? Known: a, b."),
        ("a: {match: {to: a}}", "a.match.to = 'a'", "is this variant itself"),
        (
            "a: {match: {to: b}}, b: {match: {to: c}}, c: {}",
            "a.match.to = 'b'",
            "b is matched itself; match to a variant that is not",
        ),
        (
            "a: {match: {to: b, by: flop}}, b: {}",
            "a.match.by = 'flop'",
            "unknown value 'flop'. Did you mean 'flops'? Known:"
            " active_parameters, flops, total_parameters, wall_clock.",
        ),
        (
            "a: {match: {to: b}, d_ff: 64}, b: {}",
            "a.d_ff = 64",
            "has no effect, because the match by flops solves it",
        ),
        (
            f"a: {{match: {{to: b}}, {WIRED}}}, b: {{}}",
            "a.match.by = 'flops'",
            "solves d_ff, and the memory replaces every feed-forward layer; match the other to this",
        ),
        (
            "a: {match: {to: b, by: wall_clock}, train: {steps: 9}}, b: {}",
            "a.train.steps = 9",
            "has no effect, because the match by wall_clock solves the steps",
        ),
        ("a: {mach: {to: b}}, b: {}", "a.mach", "ModelConfig has no such field. Did you mean 'match'?"),
    ],
)
def test_every_problem_of_a_variant(variants, subject, reason, problems_of):
    assert problems_of(f"{HEAD}variants: {{{variants}}}\n") == [f"c.yaml:3  variants.{subject}  {reason}"]


@pytest.mark.parametrize("setting", ["shard: bank", "shard: model", "device: mps"])
def test_values_of_16_bits_and_what_they_do_not_go_with(setting, load, problems_of):
    text = f"data: {{corpus: x}}\ntrain: {{steps: 4, {setting}}}\nvariants:\n  a: {{{WIRED}}}\n  b: {{}}\n"
    load(text)
    narrow = text.replace("product_key", "product_key, bank: {type: vectors, dtype: bfloat16}")
    reason = f"does not go with train.{setting}; leave one of the two out"
    assert problems_of(narrow) == [f"c.yaml:4  variants.a.memory.bank.dtype = 'bfloat16'  {reason}"]
    assert load(narrow.replace(setting, "values_on: host")).variants["a"].memory.bank.dtype == "bfloat16"


def test_a_circle_is_told_of_both(problems_of):
    found = problems_of(f"{HEAD}variants:\n  a: {{match: {{to: b}}}}\n  b: {{match: {{to: a}}}}\n")
    assert [line.split("  ")[1] for line in found] == ["variants.a.match.to = 'b'", "variants.b.match.to = 'a'"]


def test_a_field_that_nobody_knows_is_told_once_where_it_was_shared(problems_of):
    text = f"{HEAD}model: {{zzzzz: 1}}\nvariants: {{a: {{}}, b: {{}}}}\n"
    (line,) = problems_of(text)
    assert line.startswith("c.yaml:3  model.zzzzz = 1  ModelConfig has no such field. Known: d_model, ")
    assert "match" not in line


def test_a_shared_mistake_in_training_is_told_once(problems_of):
    text = "data: {corpus: x}\ntrain: {steps: 4, lr: -1.0}\nvariants: {a: {train: {clip: 2.0}}}\n"
    assert problems_of(text) == ["c.yaml:2  train.lr = -1.0  Input should be greater than 0"]


@pytest.mark.parametrize("name", ["lr", "value_lr"])
def test_the_range_of_a_rate_has_an_order(name, problems_of):
    told = problems_of(f"{HEAD}variants: {{a: {{}}}}\ntune: {{{name}: [1.0e-2, 1.0e-3]}}\n")
    assert told == [f"c.yaml:4  tune.{name} = (0.01, 0.001)  must be the lowest and the highest rate, in this order"]
