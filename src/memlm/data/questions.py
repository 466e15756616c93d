"""Questions whose answers are known: of a generated world, or from a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from memlm.errors import DataError
from memlm.storage import is_writable

SEEN, FROM_FILE = "seen", "file"
"""The kind of questions that the text answers word for word, and of those from a file."""
KINDS = (SEEN, "paraphrase", "reversed", "two_hop", "three_hop", "unknown_entity", "unknown_attribute", FROM_FILE)
"""What can be tried; see `memlm.data.asking.ask` and `read_questions`."""


@dataclass(frozen=True, slots=True)
class Question:
    """A text, and how it goes on if the model knows.

    Attributes:
        prompt: What the model is given.
        answer: What follows, word for word, with the space before it.
        kind: What is tried, one of `KINDS`; `neighbour` beside an edit.
        subject: Whom it is about.
        relation: What is asked about it.
        n_values: Answers that are possible and alike likely; None if nobody knows.
    """

    prompt: str
    answer: str
    kind: str
    subject: str = ""
    relation: str = ""
    n_values: int | None = None


@dataclass(frozen=True)
class QuestionSet:
    """What a model is asked.

    Attributes:
        questions: The questions.
        n_facts: Facts in the training text, of which the questions of the kind seen are a fair sample.
    """

    questions: Sequence[Question] = ()
    n_facts: int = 0

    def __len__(self) -> int:
        """Returns the number of questions."""
        return len(self.questions)

    def fingerprint(self) -> str:
        """Returns a hash of the questions and answers."""
        text = json.dumps([astuple(question) for question in self.questions])
        return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def read_questions(path: Path, limit: int) -> list[Question]:
    """Reads questions from JSON Lines with ``text`` and ``answer``, and if known ``subject`` and ``relation``.

    The prompt is the text before the last place where the answer stands. If there are more than ``limit`` lines, as
    many are taken, spread evenly over the file.

    Raises:
        DataError: the file or a line of it cannot be used; it says which and why.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); mend evaluate.question_file") from None
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: is not UTF-8 (byte {error.start} of the file); mend it") from None
    # Not str.splitlines, which also splits at characters that may stand in a JSON text.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path}: has no question; mend evaluate.question_file")
    n = min(limit, len(lines))
    chosen = [lines[index * len(lines) // n] for index in range(n)]
    return [_question(line, f"{path}:{number}") for number, line in chosen]


def _question(line: str, where: str) -> Question:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: is not JSON ({error}); mend it") from None
    given = fields if isinstance(fields, dict) else {}
    text, answer = given.get("text"), given.get("answer")
    if not isinstance(text, str) or not isinstance(answer, str) or not answer.strip():
        raise DataError(f"{where}: a question needs the texts 'text' and 'answer'; mend it")
    if not is_writable(text + answer):
        raise DataError(f"{where}: has a lone surrogate, which UTF-8 cannot hold; mend it")
    before, found, _ = text.rpartition(answer)
    prompt = before.rstrip()
    if not found or not prompt:
        raise DataError(f"{where}: no text goes before the answer {answer[:40]!r} in it; mend it")
    subject, relation = (str(given.get(name, "")) for name in ("subject", "relation"))
    return Question(prompt, before[len(prompt) :] + answer, FROM_FILE, subject, relation)
