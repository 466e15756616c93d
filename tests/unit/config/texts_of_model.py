"""What is told of a wrong field of a model, its memory, bank and fusion: the field, what is told of it, and why."""

from tests.unit.config.texts import FINITE, FUSIONS, MEMORIES, REPLACED, SPLIT, WIRED, above, at_least

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
        "VectorsConfig has no such field. Known: type, dtype.",
    ),
    (
        memory("bank: {type: vectors, dtype: float16}"),
        "memory.bank.dtype = 'float16'",
        "unknown value 'float16'. Did you mean 'bfloat16'? Known: bfloat16, float32.",
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
    (
        memory("n_rows: 1", "ngram_hash"),
        "memory.n_rows = 1",
        "must be a whole number from 2 to 10**9, or one for each of orders",
    ),
    (memory("n_rows: [31]", "ngram_hash"), "memory.n_rows", "has 1 numbers, orders has 2"),
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
