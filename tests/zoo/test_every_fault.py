"""What the zoo's first rank leaves out: every fault that a check can name is shown to it, by that check alone."""

import pkgutil
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import memlm.hf.modeling
import memlm.kernels.rowwise_adamw
import memlm.kernels.weighted_lookup
import memlm.memory.product_key
import memlm.model.attention
import memlm.train.loop
import memlm.train.optimizer
import memlm.train.preflight.looping
import memlm.train.schedule
from memlm.bank.vectors import VectorBank
from memlm.config.checks import Check, FaultName
from memlm.fusion.base import scaled_values
from memlm.fusion.gated_mlp import GatedMlp
from memlm.hf import MemlmForCausalLM
from memlm.memory.base import MemoryRead
from memlm.memory.product_key import ProductKeyMemory
from memlm.model.attention import Attention
from memlm.model.block import Block
from memlm.model.config import ModelConfig
from memlm.model.decoder import Decoder
from memlm.model.loss import TokenLoss, summed_loss
from memlm.model.norm import RMSNorm
from memlm.train.preflight import CHECKS, Fault
from memlm.train.preflight.operations import CASES
from memlm.train.preflight.runner import guarded
from memlm.train.preflight.shrink import shrunken
from memlm.train.preflight.subject import Subject
from memlm.train.schedule import Plan
from tests.zoo.faults import FAULTS, GATED, evaluate


def after(owner, name, change):
    """Plants a change of what ``owner.name`` returns."""

    def plant(patch):
        sound = getattr(owner, name)
        patch.setattr(owner, name, lambda self, *args, **kwargs: change(self, sound(self, *args, **kwargs)))

    return plant


def before(owner, name, change):
    """Plants a change of the first argument of ``owner.name``."""

    def plant(patch):
        sound = getattr(owner, name)
        patch.setattr(owner, name, lambda self, first, *args, **kwargs: sound(self, change(first), *args, **kwargs))

    return plant


def reads(**changed):
    """Plants a change of what memories return."""
    return after(
        ProductKeyMemory,
        "forward",
        lambda _self, read: MemoryRead(
            changed.get("slots", lambda x: x)(read.slots), changed.get("weights", lambda x: x)(read.weights), read.bank
        ),
    )


def padding_read_as_text(patch):
    sound = memlm.hf.modeling.create_causal_mask
    patch.setattr(
        memlm.hf.modeling,
        "create_causal_mask",
        lambda config, embeds, _mask, cache, positions: sound(config, embeds, None, cache, positions),
    )


def positions_start_again(patch):
    sound = Decoder.forward

    def forward(self, ids, positions=None, *rest):
        return sound(self, ids, positions - positions[:, :1], *rest)

    patch.setattr(Decoder, "forward", forward)


def memory_in_the_first_layer_only(patch):
    sound = Decoder.__init__
    patch.setattr(
        Decoder,
        "__init__",
        lambda self, config, size: sound(self, config.model_copy(update={"layers": [0]}), size),
    )


def kernel_without_gradient(patch):
    sound = memlm.kernels.weighted_lookup.weighted_lookup
    patch.setattr(
        memlm.kernels.weighted_lookup,
        "weighted_lookup",
        lambda values, slots, weights: sound(values, slots, weights.detach() + 0 * weights),
    )


def kernel_without_a_number(patch):
    sound = memlm.kernels.weighted_lookup.weighted_lookup
    patch.setattr(memlm.kernels.weighted_lookup, "weighted_lookup", lambda *arguments: sound(*arguments) * torch.nan)


def kernel_that_corrects_no_bias(patch):
    sound = memlm.kernels.rowwise_adamw.rowwise_adamw

    def update(values, exp_avg, exp_avg_sq, gradient, step, factor, settings):
        sound(values, exp_avg, exp_avg_sq, gradient, torch.full_like(step, torch.inf), factor, settings)

    patch.setattr(memlm.kernels.rowwise_adamw, "rowwise_adamw", update)


def labels_not_shifted(patch):
    def forward(self, sequences):
        inputs = sequences[:, :-1]
        return summed_loss(self.decoder(inputs).hidden, self.decoder.output_weight, inputs), torch.zeros(())

    patch.setattr(TokenLoss, "forward", forward)


def gate_detached(patch):
    def forward(self, hidden, read):
        joined = torch.cat([hidden, scaled_values(read).flatten(-2)], dim=-1)
        return self.down(F.silu(self.gate(joined)).detach() * self.up(joined))

    patch.setattr(GatedMlp, "forward", forward)


def smoothed_labels(patch):
    def forward(self, sequences):
        logits = self.decoder.logits(self.decoder(sequences[:, :-1]).hidden)
        targets = sequences[:, 1:].flatten()
        smooth = nn.functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum", label_smoothing=0.1)
        return smooth, logits.new_zeros(())

    patch.setattr(TokenLoss, "forward", forward)


def left_out_labels_counted(patch):
    sound = memlm.hf.modeling._loss
    patch.setattr(memlm.hf.modeling, "_loss", lambda logits, labels, n: sound(logits, labels.clamp_min(0), n))


def queries_detached(patch):
    sound = ProductKeyMemory.reset_parameters

    def reset(self):
        sound(self)
        self.query.register_forward_hook(lambda _module, _args, query: query.detach())

    patch.setattr(ProductKeyMemory, "reset_parameters", reset)


def second_half_of_the_keys_detached(patch):
    sound = memlm.memory.product_key.product_key_select

    def half(query, keys, top_k):
        return sound(query, torch.cat([keys[:, :1], keys[:, 1:].detach()], dim=1), top_k)

    patch.setattr(memlm.memory.product_key, "product_key_select", half)


def update_dropped(patch):
    def forward(self, hidden, rope, mask=None, cache=None, bank=None, tokens=None):
        hidden = hidden + self.attention(self.attention_norm(hidden), rope, mask, cache)
        normed = self.update_norm(hidden)
        read = self.memory(normed, bank)
        self.fusion(normed, read)
        return memlm.model.block.BlockOutput(hidden, hidden.new_zeros(()), read)

    patch.setattr(Block, "forward", forward)


def last_read_forgotten(patch):
    def forward(self, hidden, read):
        values = scaled_values(read)
        values[:, :, -1] = 0
        joined = torch.cat([hidden, values.flatten(-2)], dim=-1)
        return self.down(F.silu(self.gate(joined)) * self.up(joined))

    patch.setattr(GatedMlp, "forward", forward)


def every_batch_twice(patch):
    sound = memlm.train.preflight.looping.train

    def train(model, sampler, *rest):
        batch = sampler.batch
        sampler.batch = lambda index: batch(index // 2)
        return sound(model, sampler, *rest)

    patch.setattr(memlm.train.preflight.looping, "train", train)


def half_of_the_tokens_counted(patch):
    sound = Plan.of

    def of(*args):
        plan = sound(*args)
        return Plan(plan.steps, plan.tokens_per_step // 2, plan.freeze_values_at)

    patch.setattr(Plan, "of", of)


def state_outside_parameters(patch):
    reset, addresses = ProductKeyMemory.reset_parameters, ProductKeyMemory.addresses

    def drawn(self):
        reset(self)
        self.offset = np.random.default_rng().normal(size=self.keys.shape).astype("float32")

    def shifted(self, hidden):
        query, keys = addresses(self, hidden)
        return query, keys + torch.from_numpy(self.offset)

    patch.setattr(ProductKeyMemory, "reset_parameters", drawn)
    patch.setattr(ProductKeyMemory, "addresses", shifted)


def norm_left_out_of_the_file(patch):
    save = MemlmForCausalLM.save_pretrained

    def some(self, folder):
        weights = {name: weight for name, weight in self.state_dict().items() if name != "decoder.norm.weight"}
        save(self, folder, state_dict=weights)

    patch.setattr(MemlmForCausalLM, "save_pretrained", some)


def key_of_attention_frozen(patch):
    sound = Attention.__init__

    def frozen(self, *args):
        sound(self, *args)
        self.key.weight.requires_grad_(False)

    patch.setattr(Attention, "__init__", frozen)


def error(patch):
    def forward(self, hidden, read):
        raise ValueError("seven is not\n eight")

    patch.setattr(GatedMlp, "forward", forward)


def queries_not_rotated(patch):
    sound, calls = memlm.model.attention.rotate, []

    def every_second(x, cosine, sine):
        calls.append(x)
        return x if len(calls) % 2 else sound(x, cosine, sine)

    patch.setattr(memlm.model.attention, "rotate", every_second)


def keys_rotated_backwards(patch):
    sound, calls = memlm.model.attention.rotate, []

    def every_second(x, cosine, sine):
        calls.append(x)
        return sound(x, cosine, sine if len(calls) % 2 else -sine)

    patch.setattr(memlm.model.attention, "rotate", every_second)


def one_rate_for_all(patch):
    def level(optimizer, config, step, steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * memlm.train.schedule.lr_factor(step, steps, config)

    patch.setattr(memlm.train.loop, "set_learning_rates", level)


def schedule_by_micro_step(patch):
    sound = memlm.train.optimizer.lr_factor
    patch.setattr(
        memlm.train.optimizer, "lr_factor", lambda step, steps, c, low: sound(step * c.accumulation, steps, c, low)
    )


def gradient_scaled_by_frequency(patch):
    def scaled(self, hidden, slots, scales):
        rows = F.embedding(slots, self.values, scale_grad_by_freq=True) * scales[..., None]
        return torch.cat([hidden, rows.flatten(-2)], dim=-1)

    patch.setattr(VectorBank, "gather_joined", scaled)


def first_half_asked_twice(patch):
    sound = ProductKeyMemory.addresses

    def twice(self, hidden):
        query, keys = sound(self, hidden)
        return query[:, :, :1].expand_as(query), keys

    patch.setattr(ProductKeyMemory, "addresses", twice)


MEMORY_0, FUSION_0, ATTENTION_0 = (f"decoder.blocks.0.{part}" for part in ("memory", "fusion", "attention"))
SHOWN = [
    ("determinism", "not_finite", f"{ATTENTION_0}_norm", after(RMSNorm, "forward", lambda _self, x: x / 0)),
    ("determinism", "broken", "GatedMlp", error),
    ("batch_invariance", "batch_dependence", MEMORY_0, before(ProductKeyMemory, "forward", lambda h: h + h.mean(0))),
    ("padding", "padding_counts", ATTENTION_0, padding_read_as_text),
    ("cached_generation", "cache_mismatch", ATTENTION_0, positions_start_again),
    ("reads", "wrong_wiring", "decoder.blocks", memory_in_the_first_layer_only),
    ("reads", "wrong_reads", MEMORY_0, reads(weights=lambda weights: 2 * weights)),
    ("reads", "wrong_reads", MEMORY_0, reads(slots=lambda slots: slots + 60)),
    ("reads", "wrong_reads", MEMORY_0, reads(slots=lambda slots: slots[..., :1].expand_as(slots))),
    ("reads", "wrong_reads", MEMORY_0, reads(slots=lambda slots: slots.int())),
    ("top_k", "wrong_top_k", MEMORY_0, reads(weights=lambda weights: weights.roll(1, -1))),
    ("kernels", "wrong_kernel", "memlm.kernels.weighted_lookup", kernel_without_gradient),
    ("kernels", "wrong_kernel", "memlm.kernels.weighted_lookup", kernel_without_a_number),
    ("kernels", "wrong_kernel", "memlm.kernels.rowwise_adamw", kernel_that_corrects_no_bias),
    ("loss", "loss_not_summed", "model.loss", after(TokenLoss, "forward", lambda _s, out: (out[0] / 36, out[1]))),
    ("loss", "shifted_labels", "model.loss", labels_not_shifted),
    ("loss", "wrong_loss", "model.loss", smoothed_labels),
    ("loss", "wrong_loss", "model", left_out_labels_counted),
    ("memory_effect", "memory_ignored", "decoder.blocks.0", update_dropped),
    ("memory_effect", "memory_ignored", FUSION_0, last_read_forgotten),
    ("gradients", "queries_without_gradient", MEMORY_0, queries_detached),
    ("gradients", "keys_without_gradient", MEMORY_0, second_half_of_the_keys_detached),
    ("gradients", "no_gradient", f"{FUSION_0}.gate", gate_detached),
    ("gradients", "frozen_parameters", f"{ATTENTION_0}.key", key_of_attention_frozen),
    ("gradients", "queries_without_gradient", MEMORY_0, first_half_asked_twice),
    ("positions", "absolute_positions", ATTENTION_0, queries_not_rotated),
    ("positions", "absolute_positions", ATTENTION_0, keys_rotated_backwards),
    ("learning_rates", "wrong_learning_rate", "train.optimizer", one_rate_for_all),
    ("learning_rates", "wrong_learning_rate", "train.optimizer", schedule_by_micro_step),
    ("accumulation", "wrong_gradient", "decoder.banks.0", gradient_scaled_by_frequency),
    ("accumulation", "duplicated_data_order", "train.loop", every_batch_twice),
    ("accumulation", "loss_not_summed", "train.loop", half_of_the_tokens_counted),
    ("reload", "lost_on_reload", MEMORY_0, state_outside_parameters),
    ("reload", "lost_on_reload", "model", norm_left_out_of_the_file),
]


def run(check) -> list[Fault]:
    subject = Subject(shrunken(ModelConfig.model_validate(GATED)), 0, torch.device("cpu"), evaluate)
    return guarded(CHECKS[check].run, subject)


@pytest.mark.parametrize(
    ("check", "fault", "module", "plant"), SHOWN, ids=lambda value: getattr(value, "__name__", value)
)
def test_a_check_names_what_it_is_shown(check, fault, module, plant, monkeypatch):
    plant(monkeypatch)
    first = run(check)[0]
    assert (first.fault, first.module) == (fault, module)


@pytest.mark.parametrize("check", sorted({check for check, *_ in SHOWN}))
def test_the_same_check_is_silent_without_it(check):
    assert run(check) == []


def test_every_fault_has_been_shown():
    shown = {fault for _, fault, _, _ in SHOWN} | {
        name for planted in FAULTS for name in (planted.fault, *planted.also)
    }
    assert shown - {"usage_collapse"} == set(get_args(FaultName))  # usage shows after the first step only


def test_every_check_is_carried_out():
    assert [*CHECKS, "data_order"] == list(get_args(Check))


def test_every_kernel_has_a_case():
    operations = {module.name for module in pkgutil.iter_modules(memlm.kernels.__path__) if module.ispkg}
    assert set(CASES) == operations
