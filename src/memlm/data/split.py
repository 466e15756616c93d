"""Which documents are trained on and which are held out, decided by each document's text alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from memlm.config.data import DataConfig
from memlm.data.corpus import documents
from memlm.data.source import Document, Reading, Source, Split


def text_hash(text: str) -> bytes:
    """Returns 16 bytes that stand for the text."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def split_of(digest: bytes, config: DataConfig) -> Split:
    """Returns the split of a training document by its hash, whatever comes before or after it."""
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < config.judge_share:
        return "judge"
    if position >= 1 - config.tune_share:  # from the other end: the splits that were there keep their documents
        return "tune"
    if config.validation is None and position < config.judge_share + config.validation_share:
        return "validation"
    return "train"


def split_documents(
    config: DataConfig, corpus: Sequence[Source], validation: Sequence[Source], reading: Reading
) -> Iterator[tuple[Split, Document]]:
    """Yields each text once with its split: first what `data.validation` holds out, then the corpus.

    A document that says its split itself is taken as it is, as often as it comes.

    Args:
        config: The shares, and the limit on the corpus's bytes.
        corpus: The sources of training text.
        validation: The sources of `data.validation`; none if it is not given.
        reading: Counts what is left out: bad input, duplicates, training text that is held out as well.

    Raises:
        DataError: there is bad input, or a document in both ``corpus`` and ``validation``, and it is not to be skipped.
    """
    held_out: dict[bytes, str] = {}
    for document in documents(validation, reading):
        digest = text_hash(document.text)
        if digest in held_out:
            reading.dropped["duplicate"] += 1
        else:
            held_out[digest] = document.where
            yield "validation", document
    seen: set[bytes] = set()
    n_bytes = 0
    for document in documents(corpus, reading):
        if document.split is not None:
            yield document.split, document
            continue
        digest = text_hash(document.text)
        if digest in held_out:
            message = f"the same document is held out in data.validation, at {held_out[digest]}"
            reading.bad("held out", document.where, message, "remove one of them")
        elif digest in seen:
            reading.dropped["duplicate"] += 1
        else:
            n_bytes += len(document.text.encode())
            if config.max_bytes is not None and n_bytes > config.max_bytes:
                return
            seen.add(digest)
            yield split_of(digest, config), document
