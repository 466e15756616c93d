"""The Hugging Face side of a model's configuration."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

from memlm.model.config import ModelConfig


class MemlmConfig(PreTrainedConfig):
    """A `ModelConfig` with what Hugging Face needs beside it.

    Args:
        model: Fields of the `ModelConfig`, as the `model` section of a YAML file has them.
        vocab_size: Size of the vocabulary, V.
        max_position_embeddings: The sequence length that the model was trained on.
        use_cache: Keep keys and values while generating.
        **kwargs: Passed on to `PreTrainedConfig`.
    """

    model_type = "memlm"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        vocab_size: int = 6400,
        max_position_embeddings: int = 512,
        use_cache: bool = True,
        **kwargs: Any,
    ) -> None:
        shape = ModelConfig.model_validate(model or {})
        self.model = shape.model_dump(mode="json", exclude_none=True, exclude_unset=True)
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.use_cache = use_cache
        self.hidden_size = shape.d_model
        self.num_hidden_layers = shape.n_layers
        self.num_attention_heads = shape.n_heads
        self.num_key_value_heads = shape.n_kv_heads or shape.n_heads
        self.head_dim = shape.d_model // shape.n_heads
        # The decoder itself ties its embeddings (or does not); Hugging Face has nothing to tie.
        kwargs["tie_word_embeddings"] = False
        super().__init__(**kwargs)

    @property
    def shape(self) -> ModelConfig:
        """The model's configuration."""
        return ModelConfig.model_validate(self.model)
