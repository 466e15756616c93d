"""What is forgotten while sets of new facts are learned, one after the other, way by way.

The facts are of entities that no text names. A set is learned at once, then asked in held-out words, and so are the
facts that the text told:

- latest, learned: facts of the last set, and of all sets so far, that the model answers right
- forgotten: told facts that it answers wrong, of those that it answered right before
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from memlm.data.asking import ask, new_facts
from memlm.edit.background import Progress
from memlm.edit.finetune import Tuning
from memlm.edit.methods import Full, Lora, Method, Retrieval, Sparse, require_packages
from memlm.edit.results import Row, Trial
from memlm.edit.trial import BATCH, Subject, tell_of
from memlm.errors import EditError
from memlm.evaluate.recall import answer, encode

TOLD = 500
"""Most told facts that are asked."""
MOST_ROWS = 4096
"""Rows that a set is learned in at most."""

Ways = Mapping[str, tuple[type[Method], bool]]
WAYS: Ways = {
    "sparse memory": (Sparse, True),
    "sparse memory, no background": (Sparse, False),
    "full finetuning": (Full, False),
    "full, with background (replay)": (Full, True),
    "LoRA": (Lora, False),
    "retrieval": (Retrieval, False),
}
"""The ways, and whether they spare the background text."""


def run_stream(
    subject: Subject,
    sets: int,
    tuning: Tuning,
    progress: Progress,
    ways: Ways = WAYS,
    keep: Callable[[str, list[Row]], None] = lambda *_: None,
) -> Trial:
    """Teaches new facts in ``sets`` sets of equal size in every way, and returns what is learned and forgotten.

    Args:
        subject: The model and its world; the facts of the subject are not used.
        sets: How many sets the entities that no text names are dealt out to.
        tuning: How whatever is trained is trained; its share of rows is that of one fact.
        progress: Is told the name of the way, and how many sets of how many are learned; before them, of the text
            that it reads.
        ways: The ways, by name.
        keep: Is told the name of the way and its rows so far, after each set.

    Raises:
        EditError: there are fewer new facts than sets.
    """
    require_packages([kind for kind, _ in ways.values()])
    facts = list(new_facts(subject.world, 10**6))
    size = len(facts) // sets
    if not size:
        raise EditError(f"the world has {len(facts)} facts of unknown entities, too few for {sets} sets")
    told = [question for question in ask(subject.world, TOLD) if question.kind == "paraphrase"]
    was_right = answer(subject.decoder, encode(told, subject.tokenizer, subject.seq_len), BATCH).exact
    known = [question for question, right in zip(told, was_right, strict=True) if right]
    found: Trial = {}
    # A step is as long as those of all facts together would be if they stood at right angles to each other.
    rows, share = min(MOST_ROWS, tuning.rows * size), min(1.0, tuning.share * size)
    own = replace(tuning, share=share, rows=rows, lr=tuning.lr * size**0.5)
    for name, (kind, spares) in ways.items():
        spared = own if spares else replace(own, calm=0, locality=0)
        method = kind(subject.decoder, subject.background, spared, partial(tell_of, progress, name))
        found[name] = []
        progress(name, 0, sets)
        for number in range(1, sets + 1):
            method.learn(subject.lesson(*facts[(number - 1) * size : number * size]))
            progress(name, number, sets)
            taught = [fact.paraphrase for fact in facts[: number * size]]
            right = subject.exact(method, taught)
            found[name].append(
                {
                    "set": number,
                    "facts": len(taught),
                    "latest": float(right[-size:].mean()),
                    "learned": float(right.mean()),
                    "forgotten": 1 - float(subject.exact(method, known).mean()) if known else None,
                }
            )
            keep(name, found[name])
    return found
