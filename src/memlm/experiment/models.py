"""Building the model of a variant."""

from __future__ import annotations

from memlm.experiment.config import ExperimentConfig
from memlm.hf import MemlmConfig, MemlmForCausalLM


def new_model(config: ExperimentConfig, variant: str) -> MemlmForCausalLM:
    """Returns an untrained model of ``variant``; torch's random state decides its weights."""
    shape = config.variants[variant].model_dump(mode="json", exclude_unset=True)
    return MemlmForCausalLM(
        MemlmConfig(
            model=shape,
            vocab_size=config.data.vocab_size,
            max_position_embeddings=config.data.seq_len,
            # The tokenizer's end mark also begins a text; see memlm.data.tokenizer.
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=1,
        )
    )
