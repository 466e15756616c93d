"""Which documents are trained on and which are held out, decided by each document's text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from memlm.config.data import DataConfig
from memlm.data.corpus import documents
from memlm.data.source import Document, Reading, Source, Split


def text_hash(text: str) -> bytes:
    """Returns 16 bytes that stand for the text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def split_of(digest: bytes, config: DataConfig) -> Split:
    """Returns the split of a training document by its hash, whatever comes before or after it."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    # Tuning and test take from the other end: the other splits keep their documents.
    end = 1 - (config.test_share if config.test is None else 0)
    if position >= end:
        return "test"
    if position < config.judge_share:
        return "judge"
    if position >= end - (config.tune_share if config.tune is None else 0):
        return "tune"
    if config.validation is None and position < config.judge_share + config.validation_share:
        return "validation"
    return "train"


def split_documents(
    config: DataConfig, corpus: Sequence[Source], held_out: Mapping[Split, Sequence[Source]], reading: Reading
) -> Iterator[tuple[Split, Document]]:
    """Yields each text once with its split: first what is held out by name (`data.validation`), then the corpus.

    A document that says its split itself is taken as it is, as often as it comes.

    Args:
        config: The shares, and the limit on the corpus's bytes.
        corpus: The sources of training text.
        held_out: The sources of each split that has a name for its own text, as `data.validation`.
        reading: Counts what is left out: bad input, duplicates, training text that is held out as well.

    Raises:
        DataError: there is bad input, or a document in two of the texts, and it is not to be skipped.
    """
    taken: dict[bytes, tuple[Split, str]] = {}
    for split, sources in held_out.items():
        for document in documents(sources, reading):
            digest = text_hash(document.text)
            owner, where = taken.get(digest, (None, ""))
            if owner is None:
                taken[digest] = split, document.where
                yield split, document
            elif owner == split:
                reading.dropped["duplicate"] += 1
            else:
                message = f"the same document is held out in data.{owner}, at {where}"
                reading.bad("held out", document.where, message, "remove one of them")
    seen: set[bytes] = set()
    n_bytes = 0
    for document in documents(corpus, reading):
        if document.split is not None:
            yield document.split, document
            continue
        digest = text_hash(document.text)
        if digest in taken:
            message = "the same document is held out in data.{}, at {}".format(*taken[digest])
            reading.bad("held out", document.where, message, "remove one of them")
        elif digest in seen:
            reading.dropped["duplicate"] += 1
        else:
            n_bytes += len(document.text.encode())
            if config.max_bytes is not None and n_bytes > config.max_bytes:
                return
            seen.add(digest)
            yield split_of(digest, config), document
