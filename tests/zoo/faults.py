"""The fault zoo: planted faults, each with who must catch it and under which name.

A fault is planted into real code with a monkeypatch, or is a small faulty type. Its sound twin is the same
configuration without it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import memlm.fusion.gated_mlp
import memlm.hf.modeling
import memlm.memory.product_key
import memlm.train.optimizer
from memlm.bank.vectors import VectorBank
from memlm.data.sampler import Sampler
from memlm.evaluate.controls import memory_off
from memlm.evaluate.loss import mean_loss
from memlm.fusion.base import FusionConfig
from memlm.fusion.gated_mlp import GatedMlp
from memlm.hf import MemlmForCausalLM
from memlm.kernels.gather_joined import gather_joined
from memlm.memory.product_key import ProductKeyMemory
from memlm.model.attention import Attention
from memlm.model.decoder import Decoder
from memlm.model.loss import TokenLoss, summed_loss
from memlm.registry import FUSIONS

MEMORY = {"type": "product_key", "n_keys": 64, "d_key": 64, "d_value": 64, "top_k": 4, "n_heads": 2}
SHAPE = {"d_model": 128, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2}
GATED = SHAPE | {"memory": MEMORY, "fusion": {"type": "gated_mlp"}}
SUMMED = SHAPE | {"memory": MEMORY, "fusion": {"type": "weighted_sum"}, "placement": "parallel", "layers": [1, 3]}

Patch = pytest.MonkeyPatch


def evaluate(model: MemlmForCausalLM, sequences: np.ndarray) -> float:
    """The run's own evaluation."""
    return mean_loss(model.decoder, sequences, 2)


@dataclass(frozen=True)
class Planted:
    """A fault.

    Attributes:
        name: What it is.
        detector: Who must catch it.
        fault: Under which name.
        module: Where; the name that is reported starts with it.
        plant: Puts it into the code.
        config: The model that it is planted into.
        evaluate: The run's evaluation.
        also: What is true of it besides.
    """

    name: str
    detector: Literal["preflight", "alarm", "data", "reload"]
    fault: str
    module: str
    plant: Callable[[Patch], None]
    config: dict[str, Any] = field(default_factory=lambda: GATED)
    evaluate: Callable[[MemlmForCausalLM, np.ndarray], float] = evaluate
    also: tuple[str, ...] = ()


def pooled_query(patch: Patch) -> None:
    sound = ProductKeyMemory.forward
    patch.setattr(ProductKeyMemory, "forward", lambda self, h, bank: sound(self, h.mean(1, True).expand_as(h), bank))


def discarded_scores(patch: Patch) -> None:
    def unweighted(hidden, read):
        return torch.cat([hidden, read.bank.gather(read.slots.flatten(2)).flatten(2)], dim=-1)

    patch.setattr(memlm.fusion.gated_mlp, "joined_values", unweighted)


def noise_in_eval(patch: Patch) -> None:
    sound = ProductKeyMemory.addresses

    def noisy(self, hidden):
        query, keys = sound(self, hidden)
        return query + 0.1 * torch.randn_like(query), keys

    patch.setattr(ProductKeyMemory, "addresses", noisy)


def frozen_values(patch: Patch) -> None:
    def frozen(self, hidden, slots, scales):
        return gather_joined(hidden, self.values.detach(), slots, scales)

    patch.setattr(VectorBank, "gather_joined", frozen)


def detached_keys(patch: Patch) -> None:
    sound = memlm.memory.product_key.product_key_select
    patch.setattr(memlm.memory.product_key, "product_key_select", lambda q, keys, k: sound(q, keys.detach(), k))


def decay_on_values(patch: Patch) -> None:
    sound = memlm.train.optimizer.parameter_groups

    def groups(model, config):
        return [group | {"weight_decay": config.weight_decay} for group in sound(model, config)]

    patch.setattr(memlm.train.optimizer, "parameter_groups", groups)


def cache_ignored(patch: Patch) -> None:
    sound = MemlmForCausalLM.forward

    def forward(self, *args, cache=None, **kwargs):
        return sound(self, *args, **kwargs)

    patch.setattr(MemlmForCausalLM, "forward", forward)


def averaged_by_micro_batches(patch: Patch) -> None:
    sound = memlm.hf.modeling._loss
    patch.setattr(memlm.hf.modeling, "_loss", lambda logits, labels, _n_items: sound(logits, labels, None))


def same_order_every_epoch(patch: Patch) -> None:
    def sequence(self, position):
        return int(np.random.default_rng(self.seed).permutation(self.n_sequences)[position % self.n_sequences])

    patch.setattr(Sampler, "sequence", sequence)


def untied_on_reload(patch: Patch) -> None:
    sound = Decoder.__init__

    def tie_by_reference(self, config, vocab_size):
        sound(self, config, vocab_size)
        self.output = nn.Linear(config.d_model, vocab_size, bias=False)
        self.output.weight = self.embedding.weight

    patch.setattr(Decoder, "__init__", tie_by_reference)
    save = MemlmForCausalLM.save_pretrained

    def save_both(self, folder):
        save(self, folder, state_dict={name: weight.clone() for name, weight in self.state_dict().items()})

    patch.setattr(MemlmForCausalLM, "save_pretrained", save_both)


class DeafConfig(FusionConfig):
    """A fusion that forgets what was read."""

    type: Literal["deaf"]

    def build(self, d_model, n_reads, d_value):
        return Deaf(d_model, d_model, d_model)


class Deaf(GatedMlp):
    def forward(self, hidden, read):
        return self.down(F.silu(self.gate(hidden)) * self.up(hidden))


def deaf_fusion(patch: Patch) -> None:
    patch.setitem(FUSIONS._classes, "deaf", DeafConfig)


def evaluate_without_memory(model, sequences):
    with memory_off(model.decoder):
        return mean_loss(model.decoder, sequences, 2)


def dropout_left_on(patch: Patch) -> None:
    sound = GatedMlp.forward
    patch.setattr(GatedMlp, "forward", lambda self, *args: F.dropout(sound(self, *args), 0.1, self.training))


def labels_shifted_twice(patch: Patch) -> None:
    def forward(self, sequences):
        output = self.decoder(sequences[:, :-2])
        return summed_loss(output.hidden, self.decoder.output_weight, sequences[:, 2:]), output.balance_loss

    patch.setattr(TokenLoss, "forward", forward)


def attention_sees_the_future(patch: Patch) -> None:
    sound = F.scaled_dot_product_attention

    def attend(query, key, value, attn_mask=None, is_causal=False, enable_gqa=False):
        return sound(query, key, value, enable_gqa=enable_gqa)

    patch.setattr(F, "scaled_dot_product_attention", attend)


def attention_sees_nothing(patch: Patch) -> None:
    sound = Attention.forward
    patch.setattr(Attention, "forward", lambda self, hidden, *rest: 0.0 * sound(self, hidden, *rest) + hidden)


def halves_swapped(patch: Patch) -> None:
    sound = memlm.memory.product_key.product_key_select

    def swapped(query, keys, top_k):
        slots, best = sound(query, keys, top_k)
        n_keys = keys.shape[2]
        return slots % n_keys * n_keys + slots // n_keys, best

    patch.setattr(memlm.memory.product_key, "product_key_select", swapped)


def batch_normed_query(patch: Patch) -> None:
    sound = ProductKeyMemory.addresses

    def normed(self, hidden):
        if self.training:
            hidden = F.batch_norm(hidden.flatten(0, 1), None, None, training=True).view_as(hidden)
        return sound(self, hidden)

    patch.setattr(ProductKeyMemory, "addresses", normed)


def keys_left_out_of_the_optimizer(patch: Patch) -> None:
    sound = memlm.train.optimizer.parameter_groups
    patch.setattr(
        memlm.train.optimizer,
        "parameter_groups",
        lambda model, config: [group for group in sound(model, config) if group["name"] != "no_decay"],
    )


def wide_embedding(patch: Patch) -> None:
    sound = Decoder.reset_parameters

    def reset(self):
        sound(self)
        nn.init.normal_(self.embedding.weight)

    patch.setattr(Decoder, "reset_parameters", reset)


def uphill(patch: Patch) -> None:
    sound = torch.optim.AdamW
    patch.setattr(torch.optim, "AdamW", lambda *args, **kwargs: sound(*args, **kwargs, maximize=True))


def a_bank_for_each_layer(patch: Patch) -> None:
    sound = Decoder.__init__

    def separate(self, config, vocab_size):
        sound(self, config.model_copy(update={"shared_bank": False}), vocab_size)

    patch.setattr(Decoder, "__init__", separate)


def norms_left_out(_patch: Patch) -> None:
    """No change of code: the norms that keep usage even are left out of the configuration."""


FAULTS = [
    Planted("future leak through a pooled query", "preflight", "future_leak", "decoder.blocks.0.memory", pooled_query),
    Planted("discarded scores", "preflight", "dead_router", "decoder.blocks.0.memory", discarded_scores),
    Planted("noise left on in evaluation", "preflight", "noise_in_eval", "decoder.blocks.0.memory", noise_in_eval),
    Planted("frozen values", "preflight", "frozen_values", "decoder.banks.0", frozen_values),
    Planted("keys without gradient", "preflight", "keys_without_gradient", "decoder.blocks.0.memory", detached_keys),
    Planted(
        "missing norm that collapses usage",
        "alarm",
        "usage_collapse",
        "",
        norms_left_out,
        GATED | {"memory": MEMORY | {"query_norm": False, "key_norm": False}},
    ),
    Planted("decay on values", "preflight", "decay_on_values", "decoder.banks.0", decay_on_values),
    Planted("a cache that is ignored", "preflight", "cache_ignored", "decoder.blocks.0.attention", cache_ignored),
    Planted("loss averaged by micro-batches", "preflight", "loss_not_summed", "model", averaged_by_micro_batches),
    Planted("a duplicated data order", "data", "duplicated_data_order", "data.sampler", same_order_every_epoch),
    Planted("a tied weight untied on reload", "reload", "untied_on_reload", "decoder.embedding", untied_on_reload),
    Planted(
        "a fusion that ignores the memory",
        "preflight",
        "memory_ignored",
        "decoder.blocks.0.fusion",
        deaf_fusion,
        GATED | {"fusion": {"type": "deaf"}},
    ),
    Planted(
        "an evaluation without the memory",
        "preflight",
        "train_eval_mismatch",
        "evaluate",
        lambda _patch: None,
        evaluate=evaluate_without_memory,
    ),
    Planted("undeclared dropout", "preflight", "train_eval_mismatch", "decoder.blocks.0.fusion", dropout_left_on),
    Planted("labels shifted twice", "preflight", "shifted_labels", "model.loss", labels_shifted_twice),
    Planted(
        "attention without a mask", "preflight", "future_leak", "decoder.blocks.0.attention", attention_sees_the_future
    ),
    Planted("attention that sees nothing", "preflight", "context_ignored", "decoder.blocks", attention_sees_nothing),
    Planted("halves of a slot swapped", "preflight", "wrong_top_k", "decoder.blocks.1.memory", halves_swapped, SUMMED),
    Planted(
        "batch statistics in the query",
        "preflight",
        "future_leak_in_training",
        "decoder.blocks.0.memory",
        batch_normed_query,
        also=("train_eval_mismatch", "batch_dependence_in_training"),
    ),
    Planted(
        "keys left out of the optimizer",
        "preflight",
        "not_optimized",
        "decoder.embedding",
        keys_left_out_of_the_optimizer,
    ),
    Planted("an embedding drawn too wide", "preflight", "initial_loss", "decoder", wide_embedding),
    Planted("an optimizer that climbs", "preflight", "cannot_overfit", "train.loop", uphill),
    Planted(
        "a bank for each layer that should share", "preflight", "wrong_wiring", "decoder.banks", a_bank_for_each_layer
    ),
]
