"""A model with its log of edits: make one, undo any, ask, compare with the base."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import torch
from tokenizers import Tokenizer

from memlm.data.questions import Question
from memlm.data.tokenizer import END
from memlm.edit.background import Background, Progress, untold
from memlm.edit.finetune import Tuning, learn_rows
from memlm.edit.lines import RESTORE, Edit
from memlm.edit.log import AGAIN, Log, read_pack
from memlm.edit.request import Replacement, Request, Wordings
from memlm.edit.rows import Change, EntryRows, Undoable, fingerprint, rows_to_edit
from memlm.encoder.base import NO_TOKEN
from memlm.errors import EditError, counted
from memlm.evaluate.recall import Encoded, encode
from memlm.hf import MemlmForCausalLM

LONGEST = 16
"""Tokens of an answer at most."""
ENDS = (".", ";", "\n", "。")
"""What ends an answer."""
SHOWN = 3
"""Entries that are told to whom asks for a fact."""


@dataclass(frozen=True)
class Made:
    """An edit that was just made.

    Attributes:
        edit: The edit.
        conflicts: What it has in common with earlier edits, in words.
    """

    edit: Edit
    conflicts: list[str]


@dataclass(frozen=True)
class Replaced:
    """Entries that had one text and have another."""

    slots: Sequence[int]
    before: str
    after: str


class Editor:
    """Edits a model; the model holds the base with the log applied at every moment.

    Args:
        model: The model as its checkpoint has it, in eval mode.
        tokenizer: Its tokenizer.
        background: Sequences of training tokens that edits must leave as they are.
        base: The hash of the checkpoint's weights.
        wordings: How to ask for a fact.
        tuning: How rows are trained.
    """

    def __init__(
        self,
        model: MemlmForCausalLM,
        tokenizer: Tokenizer,
        background: Sequence[Sequence[int]],
        base: str,
        wordings: Wordings,
        tuning: Tuning | None = None,
    ) -> None:
        self.model, self.tokenizer, self.base = model, tokenizer, base
        self.rows = rows_to_edit(model.decoder)
        self.edits: list[Edit] = []
        self._state = Undoable(self.rows, base)
        self._sequences, self._wordings, self._tuning = background, wordings, tuning or Tuning()
        self._background: Background | None = None  # read when the first edit needs it

    @property
    def seq_len(self) -> int:
        """Tokens that the model sees at a time."""
        return self.model.config.max_position_embeddings

    @property
    def log(self) -> Log:
        """The edits and their changes, to be written."""
        return Log(self.edits, self._state.changes)

    def load(self, log: Log, where: str = "the log", mend: str = RESTORE) -> None:
        """Applies a log to the base.

        Args:
            log: The edits.
            where: What holds them, for an error.
            mend: What to do if they are damaged, for an error.

        Raises:
            EditError: the model has edits already, or the log does not lead to the state that it says.
        """
        if self.edits:
            raise EditError(f"the run has edits already ({len(self.edits)}); --undo-all takes them back")
        self._state.set(log.changes)
        wrong = [e.id for e, result in zip(log.edits, self._state.results, strict=True) if e.result != result]
        if wrong:
            self._state.set([])
            raise EditError(f"{where}: edit {wrong[0]} leads to other rows than it says; {mend}")
        self.edits = list(log.edits)

    def read_pack(self, path: Path) -> Log:
        """Returns the log in a pack, tried on the base; the edits stay. Raises as `load` and `log.read_pack`."""
        log = read_pack(path, self.base, self.rows)
        with self.without_edits():
            self.load(log, str(path), AGAIN)
        return log

    def make(self, request: Request | Replacement, progress: Progress = untold) -> Made | None:
        """Makes an edit: trains rows, or replaces an entry. None: all is as wanted already, and nothing was done.

        Args:
            request: What is wanted.
            progress: Is told of the text that is read before the first edit.

        Raises:
            EditError: a wording leaves no room for the answer, or there is nothing to delete; or the model's memory
                is not of the kind that such an edit needs, or its values have too few bits.
            RunError: a slot holds no entry, or the new one does not fit.
        """
        return self._replace(request) if isinstance(request, Replacement) else self._learn(request, progress)

    def _replace(self, request: Replacement) -> Made | None:
        if not isinstance(self.rows, EntryRows):
            raise EditError("the memory holds vectors and no texts; give --set 'subject | relation | new answer'")
        ids = self.tokenizer.encode(request.text, add_special_tokens=False).ids
        change = self.rows.replacement([request.slot], ids)
        if torch.equal(change.before, change.after):
            return None
        told = Edit(
            id=self._next_id,
            kind="replace",
            subject=f"slot {request.slot}",
            relation="entry",
            answer=request.text,
            old=self._entry(self.rows, request.slot),
            prompts=(),
            rows=(request.slot,),
            base=self.base,
            result="",
            change=fingerprint(change),
            learned=0,
        )
        conflicts = self._conflicts(change)
        return Made(self._do(told, change), conflicts)

    def _learn(self, request: Request, progress: Progress) -> Made | None:
        if isinstance(self.rows, EntryRows) and not self.rows.are_found_by_text:
            raise EditError(
                f"{request.subject} | {request.relation}: the memory holds texts; replace one by "
                f"--replace 'SLOT | new text' ({self._entries_about(self.rows, request)})"
            )
        prompts = self._wordings(request)
        is_deletion = request.kind == "delete"
        old = self.ask(prompts[0])
        answers = [self.ask(prompt) if is_deletion else request.answer for prompt in prompts]
        texts = self._texts(prompts, answers)
        if not is_deletion and all(map(self.is_given, prompts, answers)):
            return None
        if isinstance(self.rows, EntryRows):
            entry = [] if is_deletion else texts[0].ids[-texts[0].n_answer :]
            change = self.rows.replacement(self.rows.answering(self.model.decoder, texts), entry)
        else:
            background = self._read_background(progress)
            change = learn_rows(self.model.decoder, texts, background, self._tuning, is_deletion)
        conflicts = self._conflicts(change) + [
            f"edit {edit.id} is about the same fact ({edit.answer or 'deleted'})"
            for edit in self.edits
            if (edit.subject, edit.relation) == (request.subject, request.relation)
        ]
        told = Edit(
            id=self._next_id,
            kind=request.kind,
            subject=request.subject,
            relation=request.relation,
            answer=request.answer,
            old=old,
            prompts=tuple(prompts),
            rows=tuple(change.rows.tolist()),
            base=self.base,
            result="",
            change=fingerprint(change),
        )
        edit = self._do(told, change)
        if self._background is not None:
            self._spare(self._background, edit)
        learned = sum(self.is_given(*asked) != is_deletion for asked in zip(prompts, answers, strict=True))
        self.edits[-1] = replace(edit, learned=learned)
        return Made(self.edits[-1], conflicts)

    @property
    def _next_id(self) -> int:
        return self.edits[-1].id + 1 if self.edits else 1

    def _conflicts(self, change: Change) -> list[str]:
        return [
            f"shares {n} of its {counted(len(change.rows), 'row')} with edit {self.edits[place].id}"
            for place, n in self._state.shared_with(change).items()
        ]

    def _do(self, told: Edit, change: Change) -> Edit:
        """Makes a change as the last one, and returns its edit with the result."""
        self._state.do(change)
        edit = replace(told, result=self._state.results[-1])
        self.edits.append(edit)
        return edit

    def place_of(self, number: int) -> int:
        """Returns where among the edits one stands.

        Raises:
            EditError: there is no such edit.
        """
        for place, edit in enumerate(self.edits):
            if edit.id == number:
                return place
        known = ", ".join(str(edit.id) for edit in self.edits) or "none"
        raise EditError(f"edit {number}: there is none; known: {known}")

    def undo(self, number: int) -> list[str]:
        """Takes an edit back, and returns what later edits have in common with it, in words.

        Every row is rebuilt from the base and the remaining edits, in order.

        Raises:
            EditError: there is no such edit.
        """
        place = self.place_of(number)
        undone, changes = self._state.changes[place], list(self._state.changes)
        its = f"of its {counted(len(undone.rows), 'row')}"
        conflicts = [
            f"edit {self.edits[other].id} has since changed {n} {its}; its change stays"
            for other, n in self._state.shared_with(undone).items()
            if other > place
        ]
        del changes[place], self.edits[place]
        self._state.set(changes)
        results = zip(self.edits, self._state.results, strict=True)
        self.edits = [replace(edit, result=result) for edit, result in results]
        self._background = None  # it held the text of the edit
        return conflicts

    def undo_all(self) -> None:
        """Takes every edit back."""
        self.edits, self._background = [], None
        self._state.set([])

    @contextmanager
    def without_edits(self) -> Generator[None]:
        """Lends the base; afterwards the edits are there again, whatever was done in between."""
        log, background = Log(list(self.edits), list(self._state.changes)), self._background
        self.undo_all()
        try:
            yield
        finally:
            self.undo_all()
            self.load(log)
            self._background = background

    def ask(self, prompt: str) -> str:
        """Returns how greedy decoding goes on, up to the end of a sentence."""
        return decode(self.model, self.tokenizer, prompt)

    def is_given(self, prompt: str, wanted: str) -> bool:
        """Tells whether an answer is all that `ask` gives, not the beginning of another; it may hold ends itself."""
        bare = wanted.strip().rstrip("".join(ENDS)).rstrip()
        return decode(self.model, self.tokenizer, prompt, bare) == bare

    def ask_base(self, prompt: str) -> str:
        """Returns what the base answers."""
        with self._state.lent():
            return self.ask(prompt)

    def replaced(self, change: Change) -> list[Replaced]:
        """Returns what a change made of entries, those with the same texts together; nothing of vectors."""
        slots: dict[tuple[str, str], list[int]] = {}
        if isinstance(self.rows, EntryRows):
            both = zip(change.rows.tolist(), change.before.tolist(), change.after.tolist(), strict=True)
            for slot, before, after in both:
                slots.setdefault((self._words(before), self._words(after)), []).append(slot)
        return [Replaced(same, *texts) for texts, same in slots.items()]

    def _entry(self, rows: EntryRows, row: int) -> str:
        return self._words(rows.entry(row))

    def _words(self, entry: Sequence[int]) -> str:
        ids = [token for token in entry if token != NO_TOKEN]
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def _entries_about(self, rows: EntryRows, request: Request) -> str:
        """Says which entries name a request's subject and relation, in any case of letters."""
        wanted = (request.subject.casefold(), request.relation.casefold())
        entries = ((row, self._entry(rows, row)) for row in range(len(rows)) if rows.has(row))
        about = [f"{row}: {text!r}" for row, text in entries if all(words in text.casefold() for words in wanted)]
        return f"{len(about)} name both: {', '.join(about[:SHOWN])}" if about else "no entry names both"

    def _texts(self, prompts: Sequence[str], answers: Sequence[str]) -> list[Encoded]:
        """Returns the prompts with their answers, the new one or what is to be deleted, as tokens."""
        asked = [Question(p, f" {a}", "edit") for p, a in zip(prompts, answers, strict=True)]
        texts = encode(asked, self.tokenizer, 10**6)
        for text, prompt in zip(texts, prompts, strict=True):
            if not text.n_answer:
                raise EditError(f"{prompt!r}: the model answers nothing, so there is nothing to delete")
            if len(text.ids) > self.seq_len + 1:
                raise EditError(f"{prompt!r}: with its answer, longer than the model's {self.seq_len} tokens")
        return texts

    def _read_background(self, progress: Progress) -> Background:
        if self._background is None:
            with self._state.lent():
                background = Background(self.model.decoder, self._sequences, progress)
            for edit in self.edits:
                self._spare(background, edit)
            self._background = background
        return self._background

    def _spare(self, background: Background, edit: Edit) -> None:
        """Adds an edit's text to what later ones leave alone, as the base reads it: no matter when it is added."""
        questions = [Question(prompt, f" {edit.answer}" if edit.answer else "", "edit") for prompt in edit.prompts]
        with self._state.lent():
            background.add([text.ids for text in encode(questions, self.tokenizer, self.seq_len)], self._tuning.earlier)


@torch.inference_mode()
def decode(model: MemlmForCausalLM, tokenizer: Tokenizer, prompt: str, wanted: str = "") -> str:
    """Returns how greedy decoding goes on after ``prompt``, up to the end of a sentence or `LONGEST` tokens.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        prompt: The question.
        wanted: An answer that may be longer, and hold what would end others ("St. Louis"); it does not end in that.

    Raises:
        EditError: the prompt is empty, or leaves no room for an answer.
    """
    decoder, end = model.decoder, tokenizer.token_to_id(END)
    ids = [end, *tokenizer.encode(prompt.rstrip(), add_special_tokens=False).ids]
    start, limit = len(ids), model.config.max_position_embeddings
    if start == 1 or start >= limit:
        raise EditError(f"the question has {start - 1} tokens; give 1 to {limit - 2}")
    n_wanted = len(tokenizer.encode(f" {wanted}", add_special_tokens=False).ids)
    longest = LONGEST if n_wanted <= LONGEST else n_wanted + 1  # one more tells whether it ends there
    text = ""
    while len(ids) < min(start + longest, limit + 1):
        hidden = decoder(torch.tensor([ids], device=decoder.embedding.weight.device)).hidden[0, -1]
        ids.append(int(decoder.logits(hidden).argmax()))
        text = tokenizer.decode(ids[start:])
        if ids[-1] == end or _cut(text, wanted) != text:
            break
    return _cut(text, wanted).strip()


def _cut(text: str, wanted: str) -> str:
    """Returns a text up to its first end that is not within the wanted answer."""
    blanks = len(text) - len(text.lstrip(" "))
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(text[blanks:], wanted, strict=False))
    start = blanks + sum(1 for _ in shared)
    places = [place for mark in ENDS if (place := text.find(mark, start)) >= 0]
    return text[: min(places, default=len(text))]
