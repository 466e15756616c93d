"""Every error text of a field, as a full line: place, dotted path, value, reason."""

import pytest

from memlm.experiment.config import ExperimentConfig
from tests.unit.config.texts import BUDGET, COUNT, FINITE, INTERVAL, LINE, NUMBER, WHOLE, above, at_least, text_with
from tests.unit.config.texts_of_model import MODEL, WIRING

DATA = [
    ("text_field: a", "corpus", "is required"),
    ("corpus: []", "corpus", "names no text"),
    ("corpus: ''", "corpus = ''", "names no text"),
    ("corpus: 3", "corpus = 3", "must be text or a list of texts"),
    ("corpus: [3]", "corpus", "must be text or a list of texts"),
    ("corpus: x, validation: {a: b}", "validation", "must be text or a list of texts"),
    ("corpus: x, text_field: 3", "text_field = 3", "Input should be a valid string"),
    ("corpus: x, tokenizer: [a]", "tokenizer", "Input should be a valid string"),
    ("corpus: x, vocab_size: 271", "vocab_size = 271", at_least(272)),
    ("corpus: x, seq_len: 7", "seq_len = 7", at_least(8)),
    ("corpus: x, validation_share: 0", "validation_share = 0", above(0)),
    ("corpus: x, validation_share: 0.5", "validation_share = 0.5", "Input should be less than 0.5"),
    ("corpus: x, judge_share: 0", "judge_share = 0", above(0)),
    ("corpus: x, judge_share: 0.5", "judge_share = 0.5", "Input should be less than 0.5"),
    ("corpus: x, max_bytes: 0", "max_bytes = 0", above(0)),
    (
        "corpus: x, on_bad_input: skp",
        "on_bad_input = 'skp'",
        "unknown value 'skp'. Did you mean 'skip'? Known: error, skip.",
    ),
    (
        "corpus: x, validation: y, validation_share: 0.1",
        "validation_share = 0.1",
        "has no effect, because validation names the held-out text",
    ),
    ("corpus: x, facts: 3", "facts = 3", "must be a mapping of fields"),
    ("corpus: x, facts: {seed: 1}", "facts", "has no effect, because corpus does not name facts"),
    (
        "corpus: facts, facts: {entites: 9}",
        "facts.entites = 9",
        "FactsConfig has no such field. Did you mean 'entities'?",
    ),
    (
        "corpus: x, validation: [y, facts]",
        "validation",
        "cannot be facts; corpus: facts brings held-out text of its world by itself",
    ),
    (
        "corpus: [facts], max_bytes: 1M",
        "max_bytes = 1000000",
        "has no effect, because the corpus is generated; see facts",
    ),
    *(
        (f"corpus: facts, {name}: 0.1", f"{name} = 0.1", "has no effect, because the corpus is generated; see facts")
        for name in ("judge_share", "test_share")
    ),
    (
        "corpus: facts, tune_share: 0.1",
        "tune_share = 0.1",
        "has no effect, because the corpus is generated; memlm tune makes another world of its own",
    ),
    (
        "corpus: facts, validation: y",
        "validation = 'y'",
        "would be mixed with the held-out text that corpus: facts brings; leave it out",
    ),
    ("corpus: x, tune_share: -0.1", "tune_share = -0.1", at_least(0)),
    ("corpus: x, tune_share: 0.5", "tune_share = 0.5", "Input should be less than 0.5"),
    ("corpus: x, test: 3", "test = 3", "must be text or a list of texts"),
    ("corpus: x, test_share: -0.1", "test_share = -0.1", at_least(0)),
    ("corpus: x, test_share: 0.5", "test_share = 0.5", "Input should be less than 0.5"),
    (
        "corpus: x, test: y, test_share: 0.1",
        "test_share = 0.1",
        "has no effect, because test names the held-out text",
    ),
    ("corpus: x, tune: 3", "tune = 3", "must be text or a list of texts"),
    (
        "corpus: x, tune: y, tune_share: 0.1",
        "tune_share = 0.1",
        "has no effect, because tune names the held-out text",
    ),
    ("corpus: x, seq_length: 8", "seq_length = 8", "DataConfig has no such field. Did you mean 'seq_len'?"),
]

TRAIN = [
    ("lr: 1.0", "tokens = None", BUDGET),
    ("tokens: 1k, epochs: 2", "epochs = 2.0", BUDGET),
    ("tokens: 1k, steps: 4", "steps = 4", BUDGET),
    ("tokens: 1k, epochs: 2, steps: 4", "epochs = 2.0", BUDGET),
    ("tokens: 0", "tokens = 0", above(0)),
    ("epochs: 0", "epochs = 0", above(0)),
    ("epochs: .inf", "epochs = inf", FINITE),
    ("steps: 0", "steps = 0", above(0)),
    ("steps: 400x", "steps = '400x'", COUNT),
    ("steps: -3k", "steps = '-3k'", COUNT),
    ("steps: _", "steps = '_'", COUNT),
    ("steps: 1e400", "steps = '1e400'", COUNT),
    ("steps: ''", "steps = ''", COUNT),
    ("steps: 1.0001k", "steps = '1.0001k'", "must be a whole number"),
    ("steps: '1.5'", "steps = '1.5'", "must be a whole number"),
    ("steps: 1.5", "steps = 1.5", f"{WHOLE}, got a number with a fractional part"),
    ("steps: .inf", "steps = inf", FINITE),
    ("steps: []", "steps", WHOLE),
    ("steps: 2000000G", "steps = '2000000G'", "Input should be less than or equal to 1000000000000000"),
    ("steps: true", "steps = True", NUMBER),
    ("steps: 4, batch_size: 0", "batch_size = 0", at_least(1)),
    ("steps: 4, batch_size: 1.5", "batch_size = 1.5", f"{WHOLE}, got a number with a fractional part"),
    ("steps: 4, accumulation: 0", "accumulation = 0", at_least(1)),
    ("steps: 4, lr: 0", "lr = 0", above(0)),
    ("steps: 4, lr: .inf", "lr = inf", FINITE),
    ("steps: 4, lr: .nan", "lr = nan", FINITE),
    ("steps: 4, lr: nan", "lr = 'nan'", FINITE),
    ("steps: 4, lr: true", "lr = True", NUMBER),
    ("steps: 4, lr: fast", "lr = 'fast'", "Input should be a valid number, unable to parse string as a number"),
    ("steps: 4, lr:", "lr = None", "Input should be a valid number"),
    ("steps: 4, value_lr: 0", "value_lr = 0", above(0)),
    ("steps: 4, betas: [0.9]", "betas.1", "is required"),
    ("steps: 4, betas: [0.1, 0.2, 0.3]", "betas", "Tuple should have at most 2 items after validation, not 3"),
    ("steps: 4, betas: 0.9", "betas = 0.9", "Input should be a valid tuple"),
    ("steps: 4, betas: [0.9, 1.0]", "betas.1 = 1.0", "Input should be less than 1"),
    ("steps: 4, betas: [-0.1, 0.9]", "betas.0 = -0.1", at_least(0)),
    ("steps: 4, weight_decay: -1", "weight_decay = -1", at_least(0)),
    ("steps: 4, warmup: -0.1", "warmup = -0.1", at_least(0)),
    ("steps: 4, warmup: 1", "warmup = 1", "Input should be less than 1"),
    (
        "steps: 4, schedule: cosin",
        "schedule = 'cosin'",
        "unknown value 'cosin'. Did you mean 'cosine'? Known: constant, cosine.",
    ),
    ("steps: 4, min_lr_share: -1", "min_lr_share = -1", at_least(0)),
    ("steps: 4, min_lr_share: 2", "min_lr_share = 2", "Input should be less than or equal to 1"),
    ("steps: 4, keep_last: 0", "keep_last = 0", at_least(1)),
    ("steps: 4, keep_best: -1", "keep_best = -1", at_least(0)),
    ("steps: 4, keep_best: 1, save_every: 0", "keep_best = 1", "has no effect, because save_every is 0"),
    ("steps: 4, keep_best: 1, evaluate_every: 0", "keep_best = 1", "has no effect, because evaluate_every is 0"),
    (
        "steps: 4, schedule: constant, min_lr_share: 0.5",
        "min_lr_share = 0.5",
        "has no effect with a constant schedule",
    ),
    (
        "steps: 4, schedule: constant, min_value_lr_share: 0.5",
        "min_value_lr_share = 0.5",
        "has no effect with a constant schedule",
    ),
    ("steps: 4, min_value_lr_share: -0.1", "min_value_lr_share = -0.1", at_least(0)),
    ("steps: 4, router_lr: -1.0e-4", "router_lr = -0.0001", at_least(0)),
    ("steps: 4, clip: -1", "clip = -1", at_least(0)),
    ("steps: 4, alarms:", "alarms = None", "must be a mapping of fields"),
    ("steps: 4, alarms: {usage_collapse: 0}", "alarms.usage_collapse = 0", above(0)),
    ("steps: 4, alarms: {usage_collapse: 1}", "alarms.usage_collapse = 1", "Input should be less than 1"),
    ("steps: 4, alarms: {dead_slots: 90}", "alarms.dead_slots = 90", "Input should be less than 1"),
    ("steps: 4, alarms: {gate_shut: false}", "alarms.gate_shut = False", NUMBER),
    ("steps: 4, alarms: {loss_spike: -6}", "alarms.loss_spike = -6", above(0)),
    ("steps: 4, alarms: {non_finite:}", "alarms.non_finite = None", WHOLE),
    ("steps: 4, alarms: {non_finite: -1}", "alarms.non_finite = -1", at_least(0)),
    ("steps: 4, alarms: {train_eval_gap: .inf}", "alarms.train_eval_gap = inf", FINITE),
    (
        "steps: 4, alarms: {dead_slot: 0.5}",
        "alarms.dead_slot = 0.5",
        "AlarmsConfig has no such field. Did you mean 'dead_slots'?",
    ),
    ("steps: 4, train_values_epochs: 0", "train_values_epochs = 0", at_least(1)),
    (
        "steps: 4, precision: fp16",
        "precision = 'fp16'",
        "unknown value 'fp16'. Did you mean 'bf16'? Known: auto, bf16, fp32.",
    ),
    (
        "steps: 4, precision: bf16, device: cpu",
        "precision = 'bf16'",
        "bf16 on a CPU is some 20 times slower than fp32; use fp32 or auto",
    ),
    (
        "steps: 4, device: tpu",
        "device = 'tpu'",
        "unknown value 'tpu'. Did you mean 'cpu'? Known: auto, cpu, cuda, mps.",
    ),
    ("steps: 4, record_writers: 3", "record_writers = 3", "Input should be a valid boolean, unable to interpret input"),
    (
        "steps: 4, shard: banks",
        "shard = 'banks'",
        "unknown value 'banks'. Did you mean 'bank'? Known: bank, model, none.",
    ),
    (
        "steps: 4, shard: model, revive_every: 2",
        "shard = 'model'",
        "model does not go with revive_every; leave that out, or shard the bank alone: shard: bank",
    ),
    (
        "steps: 4, record_writers: true, compile: true",
        "record_writers = True",
        "cannot look into a compiled model; set compile: false",
    ),
    ("steps: 4, compile: maybe", "compile = 'maybe'", "Input should be a valid boolean, unable to interpret input"),
    (
        "steps: 4, values_on: hots",
        "values_on = 'hots'",
        "unknown value 'hots'. Did you mean 'host'? Known: device, host.",
    ),
    *[
        (
            f"steps: 4, values_on: host, {name}: {text}",
            "values_on = 'host'",
            f"values on the host do not go with {name}; leave one of them out",
        )
        for name, text in (("compile", "true"), ("revive_every", "2"), ("record_writers", "true"))
    ],
    ("steps: 4, deterministic: 3", "deterministic = 3", "Input should be a valid boolean, unable to interpret input"),
    *[
        (f"steps: 4, {name}_every: {text}", f"{name}_every = {value}", reason)
        for name in ("log", "evaluate", "save", "profile", "memory", "revive")
        for text, value, reason in [
            ("1.5", "1.5", INTERVAL),
            ("-1", "-1", INTERVAL),
            ("often", "'often'", INTERVAL),
            (".nan", "nan", INTERVAL),
            (".inf", "inf", INTERVAL),
            ("true", "True", NUMBER),
        ]
    ],
    (
        "steps: 4, skip_checks: [causal]",
        "skip_checks.0 = 'causal'",
        "unknown value 'causal'. Did you mean 'causality'? Known: accumulation, batch_invariance,"
        " batch_invariance_in_training, cached_generation, causality, causality_in_training, context, data_order,"
        " determinism, evaluation, gradients, initial_loss, kernels, learning_rates, loss, memory_effect, overfit,"
        " padding, positions, reads, reload, top_k, train_eval_parity, untouched_rows.",
    ),
    ("steps: 4, trackers: swanlab", "trackers = 'swanlab'", "Input should be a valid list"),
    (
        "steps: 4, trackers: [swanlap]",
        "trackers.0 = 'swanlap'",
        "unknown value 'swanlap'. Did you mean 'swanlab'? Known: swanlab, tensorboard, wandb.",
    ),
]

EVALUATE = [
    ("split: tset", "split = 'tset'", "unknown value 'tset'. Did you mean 'test'? Known: test, validation."),
    ("tokens: 0", "tokens = 0", above(0)),
    ("train_tokens: 0", "train_tokens = 0", above(0)),
    ("batch_size: 0", "batch_size = 0", at_least(1)),
    ("samples: -1", "samples = -1", at_least(0)),
    ("prompt_tokens: 0", "prompt_tokens = 0", at_least(1)),
    ("new_tokens: 7", "new_tokens = 7", at_least(8)),
    ("temperature: 0", "temperature = 0", above(0)),
    ("questions: -1", "questions = -1", at_least(0)),
    ("question_file: 3", "question_file = 3", "Input should be a valid string"),
    ("question_file: a, questions: 0", "question_file = 'a'", "has no effect, because questions is 0"),
    ("temprature: 1", "temprature = 1", "EvaluateConfig has no such field. Did you mean 'temperature'?"),
    (
        "xyzzy: 1",
        "xyzzy = 1",
        "EvaluateConfig has no such field. Known: split, tokens, train_tokens, batch_size, samples, prompt_tokens,"
        " new_tokens, temperature, questions, question_file.",
    ),
]


@pytest.mark.parametrize(
    ("section", "fields", "subject", "reason"),
    [
        (section, *case)
        for section, cases in {"data": DATA, "train": TRAIN, "evaluate": EVALUATE, "model": MODEL + WIRING}.items()
        for case in cases
    ],
)
def test_a_field_that_is_wrong_is_told_in_one_line(problems_of, section, fields, subject, reason):
    line = LINE.get(section, 4)
    assert problems_of(text_with(section, fields)) == [f"c.yaml:{line}  {section}.{subject}  {reason}"]


@pytest.mark.parametrize("section", ["data", "train", "evaluate", "model"])
def test_no_field_is_without_a_test(section):
    schema = ExperimentConfig.model_fields[section].annotation
    tested = {"data": DATA, "train": TRAIN, "evaluate": EVALUATE, "model": MODEL + WIRING}[section]
    subjects = " ".join(subject for _, subject, _ in tested)
    assert [name for name in schema.model_fields if name not in subjects] == []
