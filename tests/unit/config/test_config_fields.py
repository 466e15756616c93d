"""Every error text of a field, as a full line: place, dotted path, value, reason."""

import pytest

from memlm.experiment.config import ExperimentConfig
from tests.unit.config.texts import (
    BUDGET,
    COUNT,
    FINITE,
    FUSIONS,
    INTERVAL,
    LINE,
    MEMORIES,
    NUMBER,
    REPLACED,
    SPLIT,
    WHOLE,
    WIRED,
    above,
    at_least,
    text_with,
)

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
        for name in ("judge_share", "tune_share", "test_share")
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
        "model does not go with revive_every; leave that out, or share the bank alone: shard: bank",
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

MODEL = [
    ("d_model: 7", "d_model = 7", at_least(8)),
    ("n_layers: 0", "n_layers = 0", at_least(1)),
    ("n_heads: 0", "n_heads = 0", at_least(1)),
    ("n_heads: 3", "n_heads = 3", f"{SPLIT} 512"),
    ("d_model: 24", "n_heads = 8", f"{SPLIT} 24"),
    ("n_kv_heads: 0", "n_kv_heads = 0", at_least(1)),
    ("n_kv_heads: 3", "n_kv_heads = 3", "must divide n_heads, which is 8"),
    ("d_ff: 0", "d_ff = 0", at_least(1)),
    ("experts: 4", "experts = 4", "must be a mapping of fields"),
    ("experts: {}", "experts.n_experts", "is required"),
    ("experts: {n_experts: 1}", "experts.n_experts = 1", at_least(2)),
    ("experts: {n_experts: 2, top_k: 0}", "experts.top_k = 0", at_least(1)),
    ("experts: {n_experts: 2, top_k: 3}", "experts.top_k = 3", "is more than the 2 experts there are (n_experts)"),
    ("experts: {n_experts: 2, balance_weight: -1}", "experts.balance_weight = -1", at_least(0)),
    ("rope_theta: 0", "rope_theta = 0", above(0)),
    ("norm_eps: 0", "norm_eps = 0", above(0)),
    ("init_std: .nan", "init_std = nan", FINITE),
    ("tie_embeddings: 3", "tie_embeddings = 3", "Input should be a valid boolean, unable to interpret input"),
    (
        "placement: parralel",
        "placement = 'parralel'",
        "unknown value 'parralel'. Did you mean 'parallel'? Known: parallel, replace.",
    ),
    ("fusion: {type: gated_mlp}", "fusion", "has no effect without a memory"),
    ("placement: parallel", "placement = 'parallel'", "has no effect without a memory"),
    ("layers: [0]", "layers", "has no effect without a memory"),
    ("shared_bank: false", "shared_bank = False", "has no effect without a memory"),
    ("layers: al", "layers = 'al'", "must be all, or a list of blocks counted from 0"),
    ("layers: 3", "layers = 3", "must be all, or a list of blocks counted from 0"),
    ("layers: [true]", "layers", "must be all, or a list of blocks counted from 0"),
    (f"{WIRED}, layers: []", "layers", "names no layer; leave the memory out instead"),
    (f"{WIRED}, layers: [0, 0]", "layers", "names a layer twice"),
    (f"{WIRED}, layers: [-1, 3, 8]", "layers", "[-1, 8] lie outside 0..7 (n_layers is 8)"),
    (f"{WIRED}, d_ff: 64", "d_ff = 64", REPLACED),
    (f"{WIRED}, experts: {{n_experts: 2}}", "experts", REPLACED),
    (f"{WIRED}, n_layers: 2, layers: [1, 0], d_ff: 64", "d_ff = 64", REPLACED),
    (
        "memory: {type: product_key}",
        "fusion = None",
        f"is required with a memory. Known: {FUSIONS}",
    ),
    ("n_layer: 2", "n_layer = 2", "ModelConfig has no such field. Did you mean 'n_layers'?"),
]


def memory(fields, name="product_key"):
    return f"memory: {{type: {name}, {fields}}}, fusion: {{type: gated_mlp}}"


def fusion(fields):
    return f"memory: {{type: product_key}}, fusion: {{{fields}}}"


WIRING = [
    ("memory: product_key", "memory = 'product_key'", "must be a mapping with a type, such as {type: ngram_embedding}"),
    ("memory: {n_keys: 4}", "memory", f"needs a type. Known: {MEMORIES}"),
    (
        "memory: {type: prodct_key}",
        "memory.type = 'prodct_key'",
        f"unknown memory 'prodct_key'. Did you mean 'product_key'? Known: {MEMORIES}",
    ),
    ("memory: {type: base}", "memory.type = 'base'", f"unknown memory 'base'. Known: {MEMORIES}"),
    ("memory: {type: 3}", "memory.type = 3", f"must be a name. Known: {MEMORIES}"),
    ("memory: {type: [a]}", "memory.type", f"must be a name. Known: {MEMORIES}"),
    (memory("n_kyes: 4"), "memory.n_kyes = 4", "ProductKeyConfig has no such field. Did you mean 'n_keys'?"),
    (memory("n_keys: 1"), "memory.n_keys = 1", at_least(2)),
    (memory("n_heads: 0"), "memory.n_heads = 0", at_least(1)),
    (memory("top_k: 0"), "memory.top_k = 0", at_least(1)),
    (
        memory("top_k: 1"),
        "memory.top_k = 1",
        "softmax over one slot is always 1 and gives the keys no gradient; read at least 2",
    ),
    (memory("n_keys: 4, top_k: 5"), "memory.top_k = 5", "is more than the 4 keys of a half (n_keys)"),
    (memory("d_key: 1"), "memory.d_key = 1", at_least(2)),
    (memory("d_key: 5"), "memory.d_key = 5", "must be even: the query is split in two halves"),
    (memory("d_value: 0"), "memory.d_value = 0", at_least(1)),
    (memory("query_norm: 3"), "memory.query_norm = 3", "Input should be a valid boolean, unable to interpret input"),
    (
        memory("query_norm: true", "product_key_batch_norm"),
        "memory.query_norm = True",
        "has no effect, because BatchNorm takes its place",
    ),
    (
        memory("orders: [2, 2]", "ngram_hash"),
        "memory.orders",
        "must name at least one length, and none twice",
    ),
    (memory("orders: [9]", "ngram_hash"), "memory.orders.0 = 9", "Input should be less than or equal to 8"),
    (memory("bank: tokens"), "memory.bank = 'tokens'", "must be a mapping with a type, such as {type: tokens}"),
    (
        memory("bank: {type: token}"),
        "memory.bank.type = 'token'",
        "unknown bank 'token'. Did you mean 'tokens'? Known: tokens, vectors.",
    ),
    (
        memory("bank: {type: vectors, entry_length: 4}"),
        "memory.bank.entry_length = 4",
        "VectorsConfig has no such field. Known: type.",
    ),
    (memory("bank: {type: tokens, entry_length: 0}"), "memory.bank.entry_length = 0", at_least(1)),
    (memory("bank: {type: tokens, learned_share: -1}"), "memory.bank.learned_share = -1", at_least(0)),
    (
        memory("bank: {type: tokens, learned_share: 1}", "ngram_hash"),
        "memory.bank.learned_share = 1",
        "Input should be less than 1",
    ),
    (
        memory("bank: {type: tokens, database: ''}"),
        "memory.bank.database = ''",
        "String should have at least 1 character",
    ),
    (
        memory("bank: {type: tokens, database: a.jsonl}", "ngram_hash"),
        "memory.bank.database = 'a.jsonl'",
        "needs a memory with product keys, which lead to the entries; leave it out",
    ),
    (
        memory("bank: {type: tokens, facts: true}"),
        "memory.bank.facts = True",
        "needs a memory that reads by the tokens alone (ngram_hash); leave it out",
    ),
    (
        memory("bank: {type: tokens, facts: true, database: a.jsonl}"),
        "memory.bank.facts = True",
        "there is a database already; leave one of the two out",
    ),
    (
        memory("bank: {type: tokens, encoder: {type: mean}}"),
        "memory.bank.encoder.type = 'mean'",
        "unknown encoder 'mean'. Known: embedding_mean, gru.",
    ),
    (memory("n_rows: 1", "ngram_hash"), "memory.n_rows = 1", at_least(2)),
    (
        "memory: {type: product_key}, fusion: [a]",
        "fusion",
        "must be a mapping with a type, such as {type: cross_attention}",
    ),
    (fusion("n_heads: 8"), "fusion", f"needs a type. Known: {FUSIONS}"),
    (
        fusion("type: gate_mlp"),
        "fusion.type = 'gate_mlp'",
        f"unknown fusion 'gate_mlp'. Did you mean 'gated_mlp'? Known: {FUSIONS}",
    ),
    (fusion("type: cross_attention, n_heads: 0"), "fusion.n_heads = 0", at_least(1)),
    (fusion("type: cross_attention, n_heads: 7"), "fusion.n_heads = 7", "must divide d_model, which is 512"),
    (
        fusion("type: one_neuron_experts"),
        "fusion.type = 'one_neuron_experts'",
        "needs values 1024 wide where d_model is 512, not 128 (d_value)",
    ),
    (fusion("type: gated_mlp, d_hidden: 0"), "fusion.d_hidden = 0", at_least(1)),
    (
        fusion("type: weighted_sum, d_hidden: 4"),
        "fusion.d_hidden = 4",
        "WeightedSumConfig has no such field. Known: type.",
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
