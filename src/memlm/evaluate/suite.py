"""The whole evaluation of a trained model."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from memlm.config.evaluate import EvaluateConfig
from memlm.data.cache import TokenData
from memlm.data.packing import Tokens
from memlm.data.questions import FROM_FILE, SEEN, QuestionSet
from memlm.data.tokenizer import END
from memlm.errors import DataError
from memlm.evaluate.controls import memory_off, memory_shuffled
from memlm.evaluate.documents import Coverage
from memlm.evaluate.generation import evaluate_generation, passages
from memlm.evaluate.loss import mean_loss, spread_sequences, spread_starts, token_losses
from memlm.evaluate.ngram import NgramModel
from memlm.evaluate.quality import Quality, fit_judge
from memlm.evaluate.recall import Encoded, answer, by_kind, encode, learned_bits
from memlm.evaluate.usage import UsageCounter
from memlm.hf import MemlmForCausalLM
from memlm.model.decoder import Decoder

QUICK_SHARE = 10
"""While training, one part in this many of the held-out tokens is evaluated."""

QUESTIONS_PER_SEQUENCE = 4
"""Questions in a batch for each sequence in one; they are that much shorter."""
SOUGHT, SEARCHED = 16, 50_000_000
"""Held-out sequences that are looked for in the training text, and the tokens of it that are searched."""


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation of a model found.

    Attributes:
        results: The results as a record has them.
        samples: Prompts, how the model continues them, and how the held-out text does.
        documents: The losses of each document, as `Coverage.as_record` returns them.
    """

    results: dict[str, Any]
    samples: list[dict[str, str]]
    documents: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Suite:
    """What all runs of an experiment are evaluated on.

    Attributes:
        config: How to evaluate.
        held_out: The text of the evaluation at the end, of the split that the config names.
        sequences: Held-out sequences, [N, T + 1].
        coverage: The documents that those lie in.
        quick: The validation sequences that are evaluated while training.
        train_subset: Sequences of the training text.
        judge: The n-gram model that generated text is scored by; None if nothing is generated.
        tokenizer: Turns tokens into text.
        asked: The questions, if there are any.
        encoded: The same as tokens.
    """

    config: EvaluateConfig
    held_out: Tokens
    sequences: np.ndarray
    coverage: Coverage
    quick: np.ndarray
    train_subset: np.ndarray
    judge: NgramModel | None
    tokenizer: Tokenizer
    asked: QuestionSet
    encoded: list[Encoded]

    @classmethod
    def of(cls, config: EvaluateConfig, data: TokenData, seq_len: int, asked: QuestionSet | None = None) -> Suite:
        """Returns the suite for ``data``, cut into sequences of ``seq_len`` tokens, and the questions to ask."""
        asked = asked or QuestionSet()
        tokenizer = Tokenizer.from_file(str(data.tokenizer))
        held_out: Tokens = getattr(data, config.split)
        if config.samples:  # what generation cannot do without must show before training, not after it
            passages(held_out.ids, config)
            if not len(data.judge.ids):
                raise DataError(
                    "no document fell to the judge of generated text; give more documents, raise data.judge_share or "
                    "set evaluate.samples: 0"
                )
        sequences = spread_sequences(held_out.ids, seq_len, config.tokens)
        _refuse_trained_text(sequences, data.train.ids)
        end = tokenizer.token_to_id(END)
        assert end is not None  # no tokenizer without it makes tokens
        starts = spread_starts(len(held_out.ids), seq_len, config.tokens)
        return cls(
            config=config,
            held_out=held_out,
            sequences=sequences,
            coverage=Coverage.of(held_out.ids, end, starts, seq_len),
            quick=spread_sequences(data.validation.ids, seq_len, config.tokens // QUICK_SHARE),
            train_subset=spread_sequences(data.train.ids, seq_len, config.train_tokens),
            judge=fit_judge(data.judge.ids, tokenizer.get_vocab_size()) if config.samples else None,
            tokenizer=tokenizer,
            asked=asked,
            encoded=encode(asked.questions, tokenizer, seq_len),
        )

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of held-out text for each token."""
        return self.held_out.n_bytes / len(self.held_out.ids)

    def evaluate_quick(self, model: MemlmForCausalLM) -> dict[str, float]:
        """Returns held-out loss and usage under the names of the metrics log."""
        usage = UsageCounter()
        loss = mean_loss(model.decoder, self.quick, self.config.batch_size, usage)
        metrics: dict[str, float] = {"evaluate/validation_loss": loss}
        for layer, used in usage.result().items():
            metrics |= {f"memory/{layer}/{name}": value for name, value in used.as_dict().items()}
        return metrics

    def evaluate(self, model: MemlmForCausalLM, seed: int) -> Evaluation:
        """Evaluates a trained model: losses with and without its memory, usage, generated text.

        Args:
            model: The model, on the device to use.
            seed: Seed of what is sampled.
        """
        start = time.perf_counter()
        usage = UsageCounter()
        losses = {"validation_loss": token_losses(model.decoder, self.sequences, self.config.batch_size, usage)}
        used = usage.result()
        if used:
            with memory_off(model.decoder):
                losses["memory_off_loss"] = token_losses(model.decoder, self.sequences, self.config.batch_size)
            with memory_shuffled(model.decoder):
                losses["memory_shuffled_loss"] = token_losses(model.decoder, self.sequences, self.config.batch_size)
        means = {name: float(values.mean(dtype=np.float64)) for name, values in losses.items()}
        loss = means["validation_loss"]
        results: dict[str, Any] = {
            **means,
            "validation_perplexity": math.exp(min(loss, 700.0)),
            "bits_per_byte": loss / math.log(2) / self.bytes_per_token,
            "train_subset_loss": mean_loss(model.decoder, self.train_subset, self.config.batch_size),
        }
        if used:
            results["usage"] = {str(layer): layer_usage.as_dict() for layer, layer_usage in used.items()}
        results |= self._recall(model.decoder, has_memory=bool(used))
        samples: list[dict[str, str]] = []
        if self.judge is not None:
            quality, drawn = evaluate_generation(model, self.held_out.ids, self.judge, self.config, seed)
            results["quality"] = _as_record(quality)
            rows = zip(drawn.prompts, drawn.continuations, drawn.real, strict=True)
            samples = [
                {"prompt": self._text(prompt), "model": self._text(written), "real": self._text(real)}
                for prompt, written, real in rows
            ]
        results["evaluate_time_s"] = time.perf_counter() - start
        return Evaluation(results, samples, self.coverage.as_record(losses))

    def _recall(self, decoder: Decoder, has_memory: bool) -> dict[str, Any]:
        """Returns recall by kind and learned bits; of a memory model also how it recalls under the two controls."""
        if not self.asked:
            return {}
        batch_size = self.config.batch_size * QUESTIONS_PER_SEQUENCE
        answers = answer(decoder, self.encoded, batch_size)
        results: dict[str, Any] = {"recall": by_kind(self.asked.questions, answers)}
        bits = learned_bits(self.asked, answers)
        if bits is not None:
            results["learned_bits"] = bits
        plain = [i for i, question in enumerate(self.asked.questions) if question.kind in (SEEN, FROM_FILE)]
        for name, control in (("off", memory_off), ("shuffled", memory_shuffled)):
            if has_memory and plain:
                with control(decoder):
                    without = answer(decoder, [self.encoded[i] for i in plain], batch_size)
                results[f"recall_memory_{name}"] = by_kind([self.asked.questions[i] for i in plain], without)
        return results

    def _text(self, ids: np.ndarray) -> str:
        return self.tokenizer.decode(ids.tolist(), skip_special_tokens=False)


def _refuse_trained_text(sequences: np.ndarray, train_ids: np.ndarray) -> None:
    """Looks for a few held-out sequences, word for word, in the training text, or in its beginning if it is long.

    One may be there by chance (a licence, a table of contents); half of them are not.
    """
    chosen = sequences[:: -(-len(sequences) // SOUGHT)]
    text = train_ids[:SEARCHED]
    found = sum(text.tobytes().find(sequence.astype(text.dtype).tobytes()) >= 0 for sequence in chosen)
    if 2 * found > len(chosen):
        raise DataError(
            f"{found} of {len(chosen)} held-out sequences stand word for word in the training text, so their loss says "
            "nothing; hold out other text (data.validation), or remove the repetitions"
        )


def _as_record(quality: Quality) -> dict[str, Any]:
    """Turns metric -> group -> value into group -> metric -> value, as records have it."""
    groups = ("model", "real", "unigram")
    metrics = {group: {name: values[group] for name, values in quality.metrics.items()} for group in groups}
    return {"score": quality.score, "metrics": metrics}
