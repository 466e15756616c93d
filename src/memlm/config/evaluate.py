"""The `evaluate` section: how much text, and what is generated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from memlm.config.base import Config, Count


class EvaluateConfig(Config):
    """Evaluation at the end of a run; while training, a tenth of the tokens is used and nothing is generated."""

    split: Literal["validation", "test"] = "validation"
    """The text of the evaluation at the end; `test` opens the test split, which the record tells. While training it is
    validation text either way."""
    tokens: Count = Field(default=200_000, gt=0)
    """Held-out tokens; all there are if there are fewer."""
    train_tokens: Count = Field(default=50_000, gt=0)
    """Tokens of a fixed subset of the training text, evaluated in eval mode too."""
    batch_size: int = Field(default=16, ge=1)
    """Sequences in a batch of evaluation."""
    samples: int = Field(default=32, ge=0)
    """Continuations to generate for the quality metrics; 0 turns generation off."""
    prompt_tokens: int = Field(default=16, ge=1)
    """Tokens of held-out text that each continuation starts from."""
    new_tokens: int = Field(default=64, ge=8)
    """Tokens to generate for each prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; 1 samples from the model as it is."""
    questions: Count = Field(default=2000, ge=0)
    """Questions of each kind to ask where the data have some (`corpus: facts`, `question_file`); 0 asks none."""
    question_file: str | None = None
    """JSON Lines to ask as well, with `text` and `answer`: the model is given the text before the answer."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yields what the fields cannot see alone."""
        if self.question_file is not None and not self.questions:
            yield "question_file", "has no effect, because questions is 0"
