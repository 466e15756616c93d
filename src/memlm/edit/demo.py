"""Edits of a generated world, shown: what changed, what did not, and what is left once they are undone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor

from memlm.data.asking import edits
from memlm.data.questions import Question
from memlm.data.world import World
from memlm.edit.background import Progress
from memlm.edit.editor import Editor, Replaced
from memlm.edit.request import Request
from memlm.edit.rows import Change
from memlm.errors import counted
from memlm.evaluate.recall import answer, encode

NEIGHBOURS = (
    "Neighbours of an edit are questions about the same relation of five others, drawn at random; kept are those that "
    "get the answer of before the edits. Whoever is edited too is left out, so there may be fewer than five."
)
"""What is counted as neighbours, for whoever sees how many were kept."""


@dataclass(frozen=True)
class Shown:
    """One edit and what it did.

    Attributes:
        question: How it is asked for, in a wording of the training text.
        paraphrase: The same in a held-out wording.
        wanted: The new answer.
        before: What the model answered before.
        after: What it answers to the question with all edits in place.
        paraphrased: What it answers to the paraphrase.
        undone: What it answers once they are undone.
        rows: Rows that the edit changed.
        entries: Which of them had one text before and one after, both texts; none where rows are vectors.
        neighbours: Questions about the same attribute of others.
        kept: How many of them have the answer that they had before.
    """

    question: str
    paraphrase: str
    wanted: str
    before: str
    after: str
    paraphrased: str
    undone: str
    rows: int
    entries: Sequence[Replaced]
    neighbours: int
    kept: int

    @property
    def is_learned(self) -> bool:
        """Whether the question has the new answer."""
        return self.after == self.wanted

    @property
    def is_paraphrased(self) -> bool:
        """Whether the paraphrase has it too."""
        return self.paraphrased == self.wanted

    @property
    def is_spared(self) -> bool:
        """Whether all neighbours have the answer that they had before."""
        return self.kept == self.neighbours

    @property
    def is_undone(self) -> bool:
        """Whether the question has the old answer again."""
        return self.undone == self.before

    @property
    def is_as_wanted(self) -> bool:
        """Whether all of that is so."""
        return self.is_learned and self.is_paraphrased and self.is_spared and self.is_undone


@dataclass(frozen=True)
class Demonstration:
    """All edits that were shown.

    Attributes:
        run: What the run is called.
        edits: Each of them.
        rows: Rows of the model's banks.
        is_restored: Whether the logits of every question are those of before, bit for bit, once they are undone.
    """

    run: str
    edits: Sequence[Shown]
    rows: int
    is_restored: bool

    @property
    def summary(self) -> str:
        """What came of all of them, in one line."""
        took, other = sum(edit.is_learned for edit in self.edits), sum(edit.is_paraphrased for edit in self.edits)
        kept, near = sum(edit.kept for edit in self.edits), sum(edit.neighbours for edit in self.edits)
        undone = "undone bit for bit" if self.is_restored else "NOT undone bit for bit"
        return (
            f"{took} of {counted(len(self.edits), 'edit')} took, {other} of {len(self.edits)} in held-out words, "
            f"{kept} of {counted(near, 'neighbour')} kept, {undone}"
        )


def demonstrate(editor: Editor, world: World, n: int, run: str, progress: Progress) -> Demonstration:
    """Makes ``n`` edits, asks, undoes all of them, and asks again; the editor must have no edits.

    Args:
        editor: The editor of a model that has learned the world.
        world: The world.
        n: How many facts to change.
        run: What the run is called.
        progress: Is told how many edits of how many are made; before them, of the text that is read.
    """
    facts = list(edits(world, n))
    prompts = [fact.question.prompt for fact in facts]
    neighbours = [[q for q in fact.neighbours if all(not _is_same(q, f.question) for f in facts)] for fact in facts]
    before = [editor.ask(prompt) for prompt in prompts]
    said = [[replace(q, answer=f" {editor.ask(q.prompt)}") for q in near] for near in neighbours]
    logits = _logits(editor, prompts)
    changes: list[Change | None] = []
    for number, fact in enumerate(facts, 1):
        request = Request(fact.question.subject, fact.question.relation, fact.new_answer.strip())
        changes.append(editor.log.changes[-1] if editor.make(request, progress) else None)  # none: it knew no better
        progress("edits", number, n)
    entries = [editor.replaced(change) if change else [] for change in changes]
    after = [editor.ask(prompt) for prompt in prompts]
    paraphrased = [editor.ask(fact.paraphrase.prompt) for fact in facts]
    kept = [_n_right(editor, near) for near in said]
    editor.undo_all()
    undone = [editor.ask(prompt) for prompt in prompts]
    shown = [
        Shown(
            question=prompts[i],
            paraphrase=fact.paraphrase.prompt,
            wanted=fact.new_answer.strip(),
            before=before[i],
            after=after[i],
            paraphrased=paraphrased[i],
            undone=undone[i],
            rows=len(change.rows) if (change := changes[i]) else 0,
            entries=entries[i],
            neighbours=len(said[i]),
            kept=kept[i],
        )
        for i, fact in enumerate(facts)
    ]
    is_restored = all(map(torch.equal, logits, _logits(editor, prompts)))
    return Demonstration(run, shown, len(editor.rows), is_restored)


def page(demonstration: Demonstration) -> str:
    """Returns the demonstration as the text of one HTML page that needs nothing else."""
    environment = Environment(loader=PackageLoader("memlm", "edit"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("demo.html.jinja").render(shown=demonstration, neighbours=NEIGHBOURS)


def _is_same(one: Question, other: Question) -> bool:
    return (one.subject, one.relation) == (other.subject, other.relation)


def _n_right(editor: Editor, questions: Sequence[Question]) -> int:
    encoded = encode(questions, editor.tokenizer, editor.seq_len)
    return int(answer(editor.model.decoder, encoded, 64).exact.sum())


@torch.inference_mode()
def _logits(editor: Editor, prompts: Sequence[str]) -> list[Tensor]:
    decoder = editor.model.decoder
    rows = [torch.tensor([editor.tokenizer.encode(p).ids], device=decoder.embedding.weight.device) for p in prompts]
    return [decoder.logits(decoder(ids).hidden) for ids in rows]
