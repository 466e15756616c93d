"""Building the model of a variant."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer

from memlm.config.train import TrainConfig
from memlm.data.tokenizer import END, PAD
from memlm.data.world import World
from memlm.errors import DataError
from memlm.experiment.config import ExperimentConfig
from memlm.fill.database import fingerprint_of
from memlm.fill.facts import fill_with_facts
from memlm.fill.model import fill_model
from memlm.hf import MemlmConfig, MemlmForCausalLM
from memlm.train.accelerator import build_accelerator


def new_model(config: ExperimentConfig, variant: str, tokenizer: Tokenizer) -> MemlmForCausalLM:
    """Returns an untrained model of ``variant``; torch's random state decides its weights.

    A bank of tokens is filled from its database or from the generated world, if its settings say so.

    Raises:
        DataError: the database or the world cannot be used.
    """
    end = tokenizer.token_to_id(END)
    pad = tokenizer.token_to_id(PAD)
    shape = config.variants[variant].model.model_dump(mode="json", exclude_unset=True)
    model = MemlmForCausalLM(
        MemlmConfig(
            model=shape,
            vocab_size=config.data.vocab_size,
            max_position_embeddings=config.data.seq_len,
            bos_token_id=end,  # the end of one text is the beginning of the next
            eos_token_id=end,
            pad_token_id=end if pad is None else pad,
        )
    )
    fill_model(model.decoder, tokenizer)
    if getattr(getattr(config.variants[variant].memory, "bank", None), "facts", False):
        if not config.data.has_facts:
            raise DataError("memory.bank.facts: needs a generated world (data.corpus: facts)")
        fill_with_facts(model.decoder, tokenizer, World(config.data.facts))
    return model


def starting_device(config: TrainConfig) -> torch.device:
    """Returns where a checkpoint is loaded to go on from: what no device is to hold alone may be too large for one."""
    return torch.device("cpu") if config.bank_is_apart else build_accelerator(config).device


def database_fingerprint(config: ExperimentConfig, variant: str) -> str | None:
    """Returns the hash of the file that a variant's bank is filled from, None if it is filled from none.

    Raises:
        DataError: the file cannot be read.
    """
    memory = config.variants[variant].memory
    path = None if memory is None else getattr(memory.bank, "database", None)
    return None if path is None else fingerprint_of(path)
