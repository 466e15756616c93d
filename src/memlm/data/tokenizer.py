"""The byte-level BPE: trained on the corpus, or loaded from a tokenizer.json.

Nothing is normalised, so every text comes back byte for byte (Sennrich et al., arXiv:1508.07909; on bytes: GPT-2).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from memlm.errors import DataError

END = "<|end|>"
"""The mark at the end of every document; id 0 in a trained tokenizer."""
PAD = "<|pad|>"
"""Fills up batches of unequal length; id 1 in a trained tokenizer."""
TRAINING_BYTES = 20_000_000
"""With 50 MB a text is 0.1 % shorter in tokens, and training takes three times the time and memory."""
PIECE_LENGTH = 100_000
"""Characters of the longest text that is given to the tokenizer in one piece."""
WORD_LENGTH = 500
"""Characters of the longest word that the tokenizer is trained on; training takes the square of a word's length."""
_LONG_WORD = re.compile(
    rf"[^\W\d_]{{{WORD_LENGTH}}}|\d{{{WORD_LENGTH}}}|\s{{{WORD_LENGTH}}}|(?:[^\w\s]|_){{{WORD_LENGTH}}}"
)
_MAY_HAVE_ONE = re.compile(rf"\S{{{WORD_LENGTH}}}|\s{{{WORD_LENGTH}}}")  # a quarter of the time


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE on the first `TRAINING_BYTES` of ``texts``; the same texts give the same tokenizer.

    Raises:
        DataError: there is too little text for ``vocab_size`` entries.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_first(texts, TRAINING_BYTES), trainer)
    size = tokenizer.get_vocab_size()
    if size < vocab_size:
        raise DataError(
            f"the training text fills only {size} entries of a vocabulary of {vocab_size}; "
            "give more text or set a smaller data.vocab_size"
        )
    return tokenizer


def load_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """Loads a tokenizer.json.

    Raises:
        DataError: it is missing or broken, its size is not ``vocab_size``, or it has no end mark.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise DataError(f"{path}: the tokenizer is a folder, a pipe or a device, not a file; mend data.tokenizer")
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: the tokenizer cannot be read ({error.strerror}); mend data.tokenizer") from error
    except BaseException as error:  # the tokenizers package raises nothing narrower, and its panics are no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{path}: is no tokenizer.json ({error}); mend data.tokenizer") from error
    size = max(tokenizer.get_vocab().values(), default=-1) + 1
    if size != vocab_size:
        raise DataError(f"{path}: the tokenizer has {size} entries, not {vocab_size}; set data.vocab_size: {size}")
    if tokenizer.token_to_id(END) is None:
        raise DataError(f"{path}: the tokenizer has no {END}, which ends every document; add it as a special token")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def pieces(text: str) -> Iterator[str]:
    """Cuts a long text, since encoding takes a hundred times its memory; before a space, where tokens end anyway."""
    start = 0
    while len(text) - start > PIECE_LENGTH:
        space = text.rfind(" ", start + 1, start + PIECE_LENGTH)
        end = space if space > 0 else start + PIECE_LENGTH
        yield text[start:end]
        start = end
    yield text[start:]


def _first(texts: Iterable[str], n_bytes: int) -> Iterator[str]:
    for text in texts:
        for part in (part for piece in pieces(text) for part in _without_long_words(piece)):
            n_bytes -= len(part.encode())
            if n_bytes < 0:
                return
            yield part


def _without_long_words(text: str) -> Iterator[str]:
    """Cuts within words (by class of character, as the tokenizer does) that no language has, and nowhere else."""
    start = 0
    if _MAY_HAVE_ONE.search(text):
        for match in _LONG_WORD.finditer(text):
            yield text[start : match.end()]
            start = match.end()
    yield text[start:]
