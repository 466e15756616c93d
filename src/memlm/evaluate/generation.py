"""Lets a model continue held-out text and scores what it writes; see `memlm.evaluate.quality`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from memlm.config.evaluate import EvaluateConfig
from memlm.errors import DataError
from memlm.evaluate.ngram import NgramModel
from memlm.evaluate.quality import Quality, quality


@dataclass(frozen=True, eq=False)
class Samples:
    """Token ids of what was generated, row by row beside what really follows each prompt."""

    prompts: np.ndarray
    """[N, P]"""
    continuations: np.ndarray
    """By the model, [N, T]."""
    real: np.ndarray
    """Of the held-out text, [N, T]."""


def continuations(
    model: PreTrainedModel, prompts: torch.Tensor, new_tokens: int, temperature: float, seed: int
) -> torch.Tensor:
    """Samples a continuation of each prompt from the model's full distribution.

    An end-of-text token ends nothing: as in the packed training text, the next text follows it, so all continuations
    have one length. The global random state and the model's mode are left as they were.

    Args:
        model: A causal language model; it runs in eval mode.
        prompts: Token ids, of shape [N, P].
        new_tokens: T, the length of each continuation.
        temperature: What the logits are divided by; 1 samples from the model as it is.
        seed: The same seed draws the same tokens, on one kind of device.

    Returns:
        Token ids on the CPU, of shape [N, T].
    """
    prompts = prompts.to(model.device)
    was_training = model.training
    model.eval()
    try:
        # manual_seed reaches every GPU, so every GPU's state has to be kept.
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            output = model.generate(  # pyright: ignore[reportCallIssue]  (transformers types it for no real class)
                prompts,
                attention_mask=torch.ones_like(prompts),
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                max_new_tokens=new_tokens,
                eos_token_id=None,
            )
    finally:
        model.train(was_training)
    return output[:, prompts.shape[1] :].cpu()


def evaluate_generation(
    model: PreTrainedModel, validation_ids: np.ndarray, judge: NgramModel, config: EvaluateConfig, seed: int
) -> tuple[Quality, Samples]:
    """Scores the model's continuations of held-out text.

    Prompts, real continuations and unigram draws depend on the text and the config alone, so every variant and seed is
    measured with the same scale.

    Args:
        model: A causal language model.
        validation_ids: Held-out tokens, of shape [T]; a memory map will do.
        judge: As `memlm.evaluate.quality.fit_judge` returns it; one serves all runs of an experiment.
        config: How many samples, and their length and temperature.
        seed: Seed of the model's draws.

    Raises:
        DataError: the held-out text is shorter than a prompt with its continuation.
        ValueError: the config asks for no samples, or the text cannot be scored (see `quality`).
    """
    prompts, real = passages(validation_ids, config)
    written = continuations(model, torch.from_numpy(prompts), config.new_tokens, config.temperature, seed).numpy()
    places = np.random.default_rng(0).integers(len(validation_ids), size=real.shape)
    unigram = validation_ids[places]
    return quality(list(written), list(real), list(unigram), judge), Samples(prompts, written, real)


def passages(ids: np.ndarray, config: EvaluateConfig) -> tuple[np.ndarray, np.ndarray]:
    """Returns prompts [N, P] and what follows them [N, T], spread evenly over the text."""
    length = config.prompt_tokens + config.new_tokens
    if len(ids) < length:
        raise DataError(
            f"the held-out text has {len(ids)} tokens, but a prompt and its continuation need {length}: "
            "hold out more text, or lower evaluate.prompt_tokens or evaluate.new_tokens"
        )
    starts = np.linspace(0, len(ids) - length, config.samples).astype(np.int64)
    passages = ids[starts[:, None] + np.arange(length)].astype(np.int64)
    return passages[:, : config.prompt_tokens], passages[:, config.prompt_tokens :]
