"""The sizes that are measured. Free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

PLAIN = "plain torch"
"""Ends the name of what runs without fast kernels."""
PARTS = ("stages", "layers", "steps", "growth", "decode")
"""What can be measured, in this order; `growth` and `decode`, which have shapes of their own, only if asked for."""


@dataclass(frozen=True)
class Models:
    """Whole models whose training steps are timed.

    Attributes:
        model: What they have in common, as the `model` section of a YAML file has it.
        variants: What each changes.
        vocab_size: Size of the vocabulary, V.
        seq_len: Tokens of a sequence, T.
        batch_size: Sequences of a step, B.
    """

    model: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    vocab_size: int
    seq_len: int
    batch_size: int

    def described(self) -> str:
        """Returns the sizes in one line."""
        sizes = f"{self.model['n_layers']} layers x {self.model['d_model']}, {self.model['n_heads']} attention heads"
        return f"{sizes}, vocabulary {self.vocab_size:,}, steps of {self.batch_size} x {self.seq_len} tokens"


@dataclass(frozen=True)
class Growth:
    """How the cost of a weighted sum grows, at the other sizes of the shape.

    Attributes:
        n_keys: Keys of a half, M, at the reads of the shape; M * M slots.
        top_k: Reads of a head, K, at the slots of `fixed_keys`.
        fixed_keys: M of the second series.
    """

    n_keys: tuple[int, ...]
    top_k: tuple[int, ...]
    fixed_keys: int


@dataclass(frozen=True)
class Decoding:
    """A whole model that writes, with the memory of its shape.

    Attributes:
        model: The rest of the model, as the `model` section of a YAML file has it.
        vocab_size: Size of the vocabulary, V.
        context: Tokens so far.
        batches: Sequences that are written at once.
    """

    model: Mapping[str, Any]
    vocab_size: int
    context: int
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Shape:
    """The sizes of a memory layer and of the dense layer that it is compared with.

    Attributes:
        name: What it is called on the command line and in records.
        tokens: Tokens of a call, N.
        d_model: Width of the residual stream, D.
        d_ff: Hidden width of the dense SwiGLU layer.
        n_keys: Keys of a half, M.
        n_heads: Heads of the memory, H.
        top_k: Reads of a head, K.
        d_key: Width of a query.
        d_value: Width of a value.
        fusions: The fusions whose layer is timed, each with its settings.
        models: Whole models to train, if any.
        growth: How far slots and reads are driven, if at all.
        decoding: A whole model to write with, if any.
    """

    name: str
    tokens: int
    d_model: int
    d_ff: int
    n_keys: int
    n_heads: int
    top_k: int
    d_key: int
    d_value: int
    fusions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    models: Models | None = None
    growth: Growth | None = None
    decoding: Decoding | None = None

    @property
    def n_slots(self) -> int:
        """Rows of the bank, S."""
        return self.n_keys**2

    @property
    def n_reads(self) -> int:
        """Reads of a token, R."""
        return self.n_heads * self.top_k

    @property
    def memory(self) -> dict[str, Any]:
        """The memory, as a YAML file has it."""
        sizes = {name: getattr(self, name) for name in ("n_keys", "n_heads", "top_k", "d_key", "d_value")}
        return {"type": "product_key", **sizes}

    def described(self, part: str) -> str:
        """Returns the sizes that matter to a part, in one line."""
        if part == "steps":
            assert self.models is not None, "only a shape with models has steps"
            return self.models.described()
        if part == "decode":
            assert self.decoding is not None, "only a shape with decoding decodes"
            model = self.decoding.model
            return (
                f"{model['n_layers']} layers x {model['d_model']}, {len(model['layers'])} of them with a memory of "
                f"{self.n_keys} x {self.n_keys} slots, {self.n_heads} heads x {self.top_k} reads, values "
                f"{self.d_value} wide; vocabulary {self.decoding.vocab_size:,}, {self.decoding.context} tokens so far"
            )
        slots = f"{self.n_keys} x {self.n_keys} slots, {self.n_heads} heads x {self.top_k} reads"
        if part == "growth":
            slots = f"{self.n_heads} heads"
        return (
            f"{self.tokens:,} tokens, width {self.d_model}, {slots}, key width {self.d_key}, values {self.d_value} "
            f"wide; dense FFN {self.d_model} -> {self.d_ff}"
        )


def _models(
    memory: Mapping[str, Any], plus_memory: Mapping[str, Any], plus_layers: list[int], kv_heads: int
) -> dict[str, Any]:
    gated_mlp = {"memory": memory, "fusion": {"type": "gated_mlp"}, "placement": "replace", "layers": "all"}
    plus = {"memory": plus_memory, "fusion": {"type": "weighted_sum"}, "placement": "parallel", "layers": plus_layers}
    lineage = {**gated_mlp, "n_heads": 4 * kv_heads, "n_kv_heads": kv_heads}
    return {
        "dense": {},
        "gated_mlp in every layer": gated_mlp,
        f"gated_mlp in every layer, {PLAIN}": gated_mlp,
        f"weighted_sum in layers {', '.join(map(str, plus_layers))}": plus,
        f"gated_mlp, {4 * kv_heads} attention heads": lineage,
    }


def _models_that_pay() -> dict[str, Any]:
    """Returns the models of ``configs/pays.yaml``, and that of product keys with values of 16 bits."""
    keys = {**_PLUS, "memory": _memory(1024, 4, 32, 256, 512), "layers": [2]}
    narrow = {**keys, "memory": {**keys["memory"], "bank": {"type": "vectors", "dtype": "bfloat16"}}}
    rows = {"type": "ngram_embedding", "orders": [1, 2, 3], "n_heads": 2, "n_rows": 175_200, "d_value": 512}
    return {
        "dense": {},
        "product keys in layer 2": keys,
        "product keys in layer 2, 16-bit values": narrow,
        "n-grams in layer 1": {**_PLUS, "memory": rows, "layers": [1]},
    }


def _memory(n_keys: int, n_heads: int, top_k: int, d_key: int, d_value: int) -> dict[str, Any]:
    sizes = {"n_keys": n_keys, "n_heads": n_heads, "top_k": top_k, "d_key": d_key, "d_value": d_value}
    return {"type": "product_key", **sizes}


_EVERY_FUSION: dict[str, dict[str, Any]] = {"gated_mlp": {}, "cross_attention": {"n_heads": 8}, "weighted_sum": {}}

_PLUS: dict[str, Any] = {"fusion": {"type": "weighted_sum"}, "placement": "parallel"}

TINY = Shape(
    "tiny", 256, 64, 192, 32, 2, 4, 32, 32,
    fusions=_EVERY_FUSION,
    models=Models(
        {"d_model": 64, "n_layers": 2, "n_heads": 4},
        _models(_memory(16, 1, 4, 32, 32), _memory(16, 2, 4, 32, 64), [1], 2),
        vocab_size=320, seq_len=32, batch_size=4,
    ),
    growth=Growth((16, 32, 64), (2, 4, 8), 32),
    decoding=Decoding({"d_model": 64, "n_layers": 2, "n_heads": 4, "layers": [1], **_PLUS}, 320, 16, (1, 8)),
)  # fmt: skip
S = Shape(
    "S", 32_768, 512, 1408, 256, 1, 8, 128, 128,
    fusions=_EVERY_FUSION,
    models=Models(
        {"d_model": 512, "n_layers": 8, "n_heads": 8},
        _models(_memory(256, 1, 8, 128, 128), _memory(256, 4, 8, 128, 512), [2, 5], 8),
        vocab_size=6400, seq_len=512, batch_size=128,
    ),
)  # fmt: skip
P32K = Shape(
    "P32k", 32_768, 512, 1408, 1024, 4, 32, 256, 512,
    fusions={"weighted_sum": {}},
    models=Models(
        {"d_model": 512, "n_layers": 8, "n_heads": 8}, _models_that_pay(), vocab_size=6400, seq_len=512, batch_size=64
    ),
)  # fmt: skip
M8K = Shape("M8k", 8192, 1024, 4096, 1024, 4, 32, 512, 1024, fusions={"weighted_sum": {}})
GROWN = Shape(
    "grown", 8192, 512, 1408, 1024, 4, 8, 128, 128,
    growth=Growth((128, 256, 512, 1024, 2048, 4096), (2, 4, 8, 16, 32, 64), 1024),
)  # fmt: skip
DECODED = replace(
    M8K, name="decoded", tokens=1,
    decoding=Decoding(
        {"d_model": 1024, "n_layers": 20, "n_heads": 16, "d_ff": 4096, "layers": [3, 11, 19], **_PLUS},
        vocab_size=32_000, context=256, batches=(1, 16, 64, 256),
    ),
)  # fmt: skip

SHAPES: dict[str, Shape] = {
    shape.name: shape
    for shape in (
        TINY,
        S,
        P32K,
        M8K,
        replace(M8K, name="M32k", tokens=32_768),
        replace(M8K, name="L8k", n_keys=2048),
        replace(M8K, name="L32k", n_keys=2048, tokens=32_768),
    )
}
"""S is the recipe of the lineage, P32k that of ``configs/pays.yaml``, M the 373M model of Memory+ (arXiv:2412.09764), L
that with four times the slots."""
