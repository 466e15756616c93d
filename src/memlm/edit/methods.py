"""Ways to teach a model a fact: sparse memory finetuning, and what it is compared with, on the same model.

Those that train have the same texts, the same background text that must stay as it is, and the same end. Rows spare it
by the coordinates in which they are trained; what trains other weights has its divergence in the loss.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from memlm.data.questions import Question
from memlm.edit.background import Background, Progress, untold
from memlm.edit.finetune import Tuning, learn_rows, rows_of, train_until_sure, training
from memlm.edit.rows import VectorRows, apply
from memlm.evaluate.recall import Encoded
from memlm.extras import optional
from memlm.model.decoder import Decoder

RATE = 3e-5
"""Of Adam, for full finetuning."""
LORA_RATE = 3e-4
LORA_RANK = 8


@dataclass(frozen=True)
class Lesson:
    """Facts to be taught at once.

    Attributes:
        texts: Each in several wordings, as tokens.
        statements: Each as a sentence.
    """

    texts: Sequence[Encoded]
    statements: Sequence[str]


class Method(ABC):
    """A way to teach facts, with a model of its own.

    Args:
        decoder: The model, in eval mode; it is copied.
        background: Sequences that must stay as they are.
        tuning: How it is trained.
        progress: Is told how much of the background is read.
    """

    name: ClassVar[str]
    package: ClassVar[str | None] = None
    """What it needs beside memlm's own packages."""
    is_trained: ClassVar[bool] = True
    """Whether facts go into the weights; a model that is handed facts as text stays as it is."""

    def __init__(
        self, decoder: Decoder, background: Sequence[Sequence[int]], tuning: Tuning, progress: Progress = untold
    ) -> None:
        self.decoder = deepcopy(decoder)
        self.tuning = tuning
        self.background = Background(self.decoder, background, progress)

    @abstractmethod
    def learn(self, lesson: Lesson) -> None:
        """Teaches facts."""

    def asked(self, question: Question) -> Question:
        """Returns a question as the model is given it."""
        return question


class Sparse(Method):
    """Sparse memory finetuning."""

    name = "sparse memory"

    def learn(self, lesson: Lesson) -> None:
        """Trains the facts' own rows."""
        apply(learn_rows(self.decoder, lesson.texts, self.background, self.tuning), VectorRows(self.decoder))
        self.background.add([text.ids for text in lesson.texts], self.tuning.earlier)


class Full(Method):
    """Finetuning of every parameter."""

    name = "full finetuning"
    rate: ClassVar[float] = RATE

    def parameters(self) -> list[nn.Parameter]:
        """Returns what is trained."""
        return list(self.decoder.parameters())

    def learn(self, lesson: Lesson) -> None:
        """Trains all parameters, with a fresh Adam for each lesson."""
        parameters = self.parameters()
        optimizer = torch.optim.Adam(parameters, lr=self.rate)

        def update(loss: Tensor) -> None:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        own = rows_of(self.decoder, lesson.texts, self.background, self.tuning)
        with training(self.decoder, parameters):
            near = self.background.nearest(own, self.tuning.near)
            train_until_sure(self.decoder, lesson.texts, near, self.tuning, update)
        self.background.add([text.ids for text in lesson.texts])


class Lora(Full):
    """Finetuning of low-rank adapters of the attention and feed-forward layers (Hu et al. 2021, arXiv:2106.09685)."""

    name = "LoRA"
    package = "peft"
    rate = LORA_RATE

    def __init__(
        self, decoder: Decoder, background: Sequence[Sequence[int]], tuning: Tuning, progress: Progress = untold
    ) -> None:
        super().__init__(decoder, background, tuning, progress)
        peft = optional("peft", "edit", "the LoRA baseline")
        layers = [
            name
            for name, module in self.decoder.named_modules()
            if isinstance(module, nn.Linear) and re.search(r"\.(attention|feed_forward)\.", name)
        ]
        config = peft.LoraConfig(r=LORA_RANK, lora_alpha=2 * LORA_RANK, target_modules=layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            peft.inject_adapter_in_model(config, self.decoder)
        self.decoder.eval()

    def parameters(self) -> list[nn.Parameter]:
        """Returns the adapters."""
        return [parameter for name, parameter in self.decoder.named_parameters() if "lora_" in name]


class InContext(Method):
    """The last facts that fit stand before the question; nothing is trained."""

    name = "in context"
    is_trained = False

    def __init__(
        self, decoder: Decoder, background: Sequence[Sequence[int]], tuning: Tuning, progress: Progress = untold
    ) -> None:
        self.decoder = decoder
        self.statements: list[str] = []

    def learn(self, lesson: Lesson) -> None:
        """Keeps the sentences."""
        self.statements += lesson.statements

    def asked(self, question: Question) -> Question:
        """Puts every sentence before the question; encoding cuts off the beginning of what is too long."""
        return _after(self.statements, question)


class Retrieval(InContext):
    """The fact that BM25 finds for the question stands before it; nothing is trained."""

    name = "retrieval"
    package = "rank_bm25"

    def __init__(
        self, decoder: Decoder, background: Sequence[Sequence[int]], tuning: Tuning, progress: Progress = untold
    ) -> None:
        super().__init__(decoder, background, tuning, progress)
        self._kind = optional("rank_bm25", "edit", "the retrieval baseline").BM25Plus
        self._index: Any = None

    def learn(self, lesson: Lesson) -> None:
        """Keeps the sentences."""
        super().learn(lesson)
        self._index = None

    def asked(self, question: Question) -> Question:
        """Puts the best sentence before the question."""
        if self._index is None:
            self._index = self._kind([_words(statement) for statement in self.statements])
        best = int(self._index.get_scores(_words(question.prompt)).argmax())
        return _after([self.statements[best]], question)


def require_packages(methods: Sequence[type[Method]]) -> None:
    """Asks for what ways need, before any of them has run.

    Raises:
        MissingDependencyError: a package is not installed.
    """
    for method in methods:
        if method.package is not None:
            optional(method.package, "edit", f"the {method.name} baseline")


METHODS: tuple[type[Method], ...] = (Sparse, Full, Lora, Retrieval, InContext)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _after(statements: Sequence[str], question: Question) -> Question:
    return Question(" ".join([*statements, question.prompt]), question.answer, question.kind)
