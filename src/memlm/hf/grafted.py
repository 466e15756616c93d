"""A causal model of somebody else's with a memory beside the feed-forward layers of some of its blocks.

The update of each memory passes a gate, a number for each channel that begins at zero: the model begins as it was.
(Gates at zero: Flamingo, arXiv:2204.14198; ReZero, arXiv:2003.04887.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedConfig, PreTrainedModel

from memlm.bank.base import Bank
from memlm.fusion.base import Fusion
from memlm.memory.base import Memory
from memlm.model.graft import GraftConfig

STD = 0.02
"""Standard deviation of a new fusion's matrices."""


class GraftedConfig(PreTrainedConfig):
    """The configuration of the model that was there, and of what was added.

    Args:
        dense: Of the model that was there, as its own ``config.json`` has it.
        graft: Fields of the `GraftConfig`.
        **kwargs: Passed on to `PreTrainedConfig`.
    """

    model_type = "memlm-grafted"
    sub_configs = {"dense": AutoConfig}  # noqa: RUF012  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(
        self,
        dense: dict[str, Any] | PreTrainedConfig | None = None,
        graft: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(dense, PreTrainedConfig):
            dense = dense.to_dict()
        dense = dict(dense or {"model_type": "llama"})
        self.dense = AutoConfig.for_model(dense.pop("model_type"), **dense)
        self.graft = graft or {}
        kwargs["tie_word_embeddings"] = getattr(self.dense, "tie_word_embeddings", False)
        super().__init__(**kwargs)

    def get_text_config(self, *_: Any, **__: Any) -> PreTrainedConfig:
        """Returns the dense model's configuration, by which caches are made."""
        return self.dense


class WithMemory(nn.Module):
    """A feed-forward layer with a memory beside it: ``mlp(u) + gate * fusion(u, memory(u))``.

    Args:
        mlp: The layer that was there.
        memory: Selects slots.
        fusion: Joins what is read.
        bank: What the memory reads.
        d_model: Width of the residual stream, D.
    """

    def __init__(self, mlp: nn.Module, memory: Memory, fusion: Fusion, bank: Bank, d_model: int) -> None:
        super().__init__()
        self.mlp, self.memory, self.fusion = mlp, memory, fusion
        self.bank = [bank]  # in a list, because the model owns it: layers may share it
        self.gate = nn.Parameter(torch.zeros(d_model))

    def forward(self, hidden: Tensor) -> Tensor:
        """Returns the update [B, T, D] for ``hidden`` [B, T, D]."""
        return self.mlp(hidden) + self.gate * self.fusion(hidden, self.memory(hidden, self.bank[0]))


class GraftedForCausalLM(PreTrainedModel, GenerationMixin):
    """The model; what it takes and returns is the dense model's.

    Args:
        config: Its configuration.
    """

    config_class = GraftedConfig
    base_model_prefix = "dense"
    _supports_sdpa = True

    def __init__(self, config: GraftedConfig) -> None:
        super().__init__(config)
        self.dense = AutoModelForCausalLM.from_config(config.dense)
        self.banks = add_memory(self.dense, GraftConfig.model_validate(config.graft))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (Memory, Bank, Fusion)):
            module.reset_parameters()
        elif isinstance(module, WithMemory):
            nn.init.zeros_(module.gate)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=STD)

    @classmethod
    def onto(cls, dense: PreTrainedModel, graft: GraftConfig) -> GraftedForCausalLM:
        """Returns ``dense`` with new memories; the model itself is taken, not copied.

        Raises:
            ValueError: as `add_memory`.
        """
        settings = graft.model_dump(mode="json", exclude_unset=True)
        with torch.device("meta"):  # nothing of this first one stays
            model = cls(GraftedConfig(dense=dense.config, graft=settings))
        model.dense, model.banks = dense, add_memory(dense, graft)
        model.generation_config = dense.generation_config
        return model

    def get_input_embeddings(self) -> nn.Module:
        """Returns the token embedding."""
        return self.dense.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Returns the output matrix."""
        return self.dense.get_output_embeddings()

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Returns what `forward` is given in a step of generation, as the dense model asks for it."""
        return self.dense.prepare_inputs_for_generation(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """Runs the dense model, memories and all; every argument is its own (generation asks for three by name)."""
        return self.dense(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **kwargs)

    def added(self) -> list[nn.Parameter]:
        """Returns what was added: all parameters but those of the dense model."""
        layers = [module for module in self.modules() if isinstance(module, WithMemory)]
        parts = [self.banks, *(part for layer in layers for part in (layer.memory, layer.fusion))]
        return [p for part in parts for p in part.parameters()] + [layer.gate for layer in layers]


def add_memory(dense: Any, config: GraftConfig) -> nn.ModuleList:
    """Puts memories beside feed-forward layers of a model of Llama's or Qwen's form, and returns their banks.

    Raises:
        ValueError: the model has another form, fewer layers, or a width that the fusion does not suit.
    """
    blocks = getattr(getattr(dense, "model", None), "layers", None)
    if blocks is None or not all(hasattr(block, "mlp") for block in blocks):
        raise ValueError(f"{type(dense).__name__} has no model.layers[i].mlp; models of Llama's and Qwen's form do")
    d_model = dense.config.hidden_size
    chosen = config.chosen(len(blocks))
    for field, reason in config.problems_in(d_model):
        raise ValueError(f"{field}: {reason}")
    banks = nn.ModuleList()
    for layer in chosen:
        if not banks or not config.shared_bank:
            banks.append(config.memory.build_bank(dense.get_input_embeddings()))
        memory = config.memory.build(d_model)
        fusion = config.fusion.build(d_model, config.memory.n_reads, config.memory.value_width)
        for part in fusion.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=STD)
        fusion.reset_parameters()
        blocks[layer].mlp = WithMemory(blocks[layer].mlp, memory, fusion, banks[-1], d_model)  # pyright: ignore[reportArgumentType]
    return banks
