"""`MemlmForCausalLM`: the decoder with Hugging Face's loading, saving and generation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicLayer, StaticLayer
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import CausalLMOutputWithPast

from memlm.bank.base import Bank
from memlm.hf.configuration import MemlmConfig
from memlm.model.decoder import Decoder

# transformers 5.24 renamed the argument and the output field; both versions of the name are accepted below.
CACHE_FIELD = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"


class MemlmForCausalLM(PreTrainedModel, GenerationMixin):
    """A memory-augmented (or dense) language model.

    Args:
        config: The model's configuration.
    """

    config_class = MemlmConfig
    base_model_prefix = "decoder"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _can_compile_fullgraph = True

    def __init__(self, config: MemlmConfig) -> None:
        super().__init__(config)
        self.decoder = Decoder(config.shape, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Decoder):
            module.reset_parameters()

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embedding."""
        return self.decoder.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the token embedding."""
        assert isinstance(value, nn.Embedding), "tokens need an nn.Embedding"
        self.decoder.embedding = value
        for bank in self.decoder.banks:
            assert isinstance(bank, Bank), "the decoder's banks are banks"
            bank.attach(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """Returns the output matrix, None where it is the token embedding."""
        return self.decoder.output

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replaces the output matrix."""
        assert isinstance(new_embeddings, nn.Linear), "logits need an nn.Linear"
        self.decoder.output = new_embeddings

    def forward(  # noqa: PLR0913, PLR0917 (the signature is Hugging Face's)
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple[Tensor | None, ...]:
        """Returns logits, and the loss if labels are given.

        Args:
            input_ids: Tokens, [B, T].
            attention_mask: 1 for tokens and 0 for padding, [B, S], or a ready mask [B, 1, T, S].
            position_ids: Position of each token, [B, T].
            cache: Keys and values of earlier tokens (transformers >= 5.24).
            past_key_values: The same under its older name.
            inputs_embeds: Embeddings instead of tokens, [B, T, D]; a memory that reads by tokens needs both.
            labels: Tokens to predict, [B, T], not shifted; -100 is left out.
            use_cache: Return a cache; starts one if none is given.
            logits_to_keep: Compute logits of the last this many tokens, or of these positions; 0 = all.
            num_items_in_batch: Divide the summed loss by this instead of by the number of labels.
            return_dict: False returns a tuple.
            **kwargs: Ignored; generation passes what other models need.
        """
        cache = cache if cache is not None else past_key_values
        embeds = self.decoder.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache is None:
            use_cache = self.config.use_cache if not self.training and labels is None else False
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            past = cache.get_seq_length() if cache is not None else 0
            position_ids = torch.arange(embeds.shape[1], device=embeds.device)[None] + past
        mask = create_causal_mask(self.config, embeds, attention_mask, cache, position_ids)
        memory = self.decoder.config.memory
        if cache is not None and memory is not None and memory.n_tokens:
            _make_room(cache, len(self.decoder.blocks))
        output = self.decoder(input_ids, position_ids, mask, cache, embeds)
        hidden = output.hidden
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits = self.decoder.logits(hidden)
        loss = None if labels is None else _loss(logits, labels, num_items_in_batch)
        if loss is not None and self.training:
            loss = loss + output.balance_loss
        result = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE_FIELD: cache})
        return result.to_tuple() if return_dict is False else result


def _make_room(cache: Any, n_layers: int) -> None:
    """Gives a cache that was made for ``n_layers`` layers one more, in which the decoder keeps token ids.

    So they are reordered, cropped and reset with keys and values.
    """
    if cache.layer_class_to_replicate is None and len(cache.layers) == n_layers:  # otherwise it grows by itself
        first = cache.layers[0]
        cache.layers.append(StaticLayer(first.max_cache_len) if isinstance(first, StaticLayer) else DynamicLayer())


def _loss(logits: Tensor, labels: Tensor, num_items: Tensor | int | None) -> Tensor:
    """Returns the cross-entropy of each token's logits with the next token's label."""
    flat = logits[:, :-1].flatten(0, 1).float()
    shifted = labels[:, 1:].flatten()
    if num_items is None:
        return F.cross_entropy(flat, shifted)
    return F.cross_entropy(flat, shifted, reduction="sum") / num_items
