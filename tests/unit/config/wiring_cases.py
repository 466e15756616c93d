"""Error texts of the fields of a memory and its fusion, for `test_config_fields`."""

from tests.unit.config.texts import (
    FUSIONS,
    MEMORIES,
    at_least,
)


def memory(fields, name="product_key"):
    return f"memory: {{type: {name}, {fields}}}, fusion: {{type: gated_mlp}}"


def fusion(fields):
    return f"memory: {{type: product_key}}, fusion: {{{fields}}}"


WIRING = [
    ("memory: product_key", "memory = 'product_key'", "must be a mapping with a type, such as {type: ngram_hash}"),
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
