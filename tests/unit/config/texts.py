"""Sound sections to put one wrong thing into, and the reasons that many tables share."""

SOUND = {"data": "corpus: x", "train": "steps: 4", "variants": "a: {}"}
LINE = {"data": 1, "train": 2, "variants": 3}  # any other section is on line 4
WIRED = "memory: {type: product_key}, fusion: {type: gated_mlp}"

MEMORIES = "ngram_embedding, ngram_hash, product_key, product_key_batch_norm, product_key_relu, product_key_sigmoid."
FUSIONS = "cross_attention, gated_mlp, one_neuron_experts, weighted_sum."

FINITE = "Input should be a finite number"
WHOLE = "Input should be a valid integer"
NUMBER = "must be a number, not true or false"
INTERVAL = "must be a whole number of steps, or a share of the run below 1"
COUNT = "must be a whole number, with k, M or G if you like (400k)"
FOLDER = "names a folder: use at most 60 letters, digits, '_', '-', '+' and '.', and no '.' first"
BUDGET = "give exactly one of tokens, epochs, steps"
REPLACED = "has no effect, because the memory replaces every feed-forward layer"
SPLIT = "d_model / n_heads must be an even whole number, and d_model is"


def at_least(n):
    return f"Input should be greater than or equal to {n}"


def above(n):
    return f"Input should be greater than {n}"


def text_with(section, fields):
    """A sound experiment in which one section holds ``fields``; a section's mapping is written on one line."""
    sections = SOUND | {section: fields}
    return "".join(f"{name}: {{{value}}}\n" for name, value in sections.items())
