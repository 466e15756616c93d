"""Turns a `DataConfig` into tokens, once: the result is cached under the fingerprint of the text and the settings."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer

from memlm.config.data import DataConfig, Text
from memlm.data.cache import TOKENIZER, TokenData, bin_path, default_cache, load, new_folder, write_summary
from memlm.data.corpus import find_sources
from memlm.data.packing import TokenWriter
from memlm.data.source import SPLITS, Document, Reading, Source, Split
from memlm.data.split import split_documents
from memlm.data.tokenizer import TRAINING_BYTES, load_tokenizer, train_tokenizer
from memlm.errors import DataError
from memlm.storage import sha256

logger = logging.getLogger(__name__)

FORMAT = 1
"""Part of every fingerprint; raised when the same text and settings begin to give other tokens."""
SETTINGS = {"text_field", "vocab_size", "validation_share", "judge_share", "max_bytes", "on_bad_input"}
"""The fields that decide the tokens, besides the text and the tokenizer."""


def prepare(config: DataConfig, cache: Path | None = None, progress: bool = True) -> TokenData:
    """Returns the tokens that ``config`` asks for, from the cache if they are there.

    Args:
        config: Which text, and how it is cut.
        cache: The folder of all prepared tokens; ``$MEMLM_CACHE`` or ``~/.cache/memlm`` if not given.
        progress: Show bars on stderr.

    Raises:
        DataError: the text, the tokenizer or the cache cannot be used; one line says what, where and how to mend it.
        MissingDependencyError: the text needs an optional package.
    """
    if config.tokenizer is not None:
        load_tokenizer(Path(config.tokenizer), config.vocab_size)
    reading = _reading(config)
    corpus = find_sources(config.corpus, reading, config.facts)
    named: dict[Split, Text | None] = {"validation": config.validation, "test": config.test, "tune": config.tune}
    held_out: dict[Split, list[Source]] = {
        split: find_sources(names, reading) for split, names in named.items() if names is not None
    }
    text = _Text(config, corpus, held_out)
    fingerprint = text.fingerprint()
    folder = (cache or default_cache()) / f"data-{fingerprint[:16]}"
    data = load(folder)
    if data is None:
        data = _build(text, fingerprint, folder, progress)
    data = replace(data, counts=data.counts | {f"dropped/{reason}": n for reason, n in reading.dropped.items()})
    _tell_dropped(data.counts)
    _require_a_sequence(data, config)
    return data


@dataclass(frozen=True)
class _Text:
    """A configuration and the sources that it names."""

    config: DataConfig
    corpus: Sequence[Source]
    held_out: Mapping[Split, Sequence[Source]]

    def fingerprint(self) -> str:
        tokenizer = self.config.tokenizer
        held_out = {split: [source.fingerprint() for source in sources] for split, sources in self.held_out.items()}
        settings = {
            "format": FORMAT,
            "corpus": [source.fingerprint() for source in self.corpus],
            "validation": None,
            **held_out,
            "tokenizer": None if tokenizer is None else sha256(Path(tokenizer)),
            **self.config.model_dump(include=SETTINGS),
        }
        if self.config.tune_share:  # without one, the tokens are what they were before there was such a share
            settings["tune_share"] = self.config.tune_share
        if self.config.test_share:  # text without a test split keeps the fingerprint that it had before there were any
            settings["test_share"] = self.config.test_share
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def read(self, reading: Reading, bars: Progress, purpose: str, limit: int) -> Iterator[tuple[Split, Document]]:
        """Yields the split documents, with a bar that is full at ``limit`` bytes of text or at the sources' end."""
        size = sum(source.size for source in chain(self.corpus, *self.held_out.values()))
        bar = bars.add_task(purpose, total=1.0 if size else None, documents=0)
        n_bytes = 0
        for number, (split, document) in enumerate(
            split_documents(self.config, self.corpus, self.held_out, reading), 1
        ):
            yield split, document
            n_bytes += len(document.text.encode())
            share = max(n_bytes / limit, reading.n_bytes / size) if size else 0.0
            bars.update(bar, completed=share, documents=number)
        bars.update(bar, completed=1.0, total=1.0)


def _reading(config: DataConfig) -> Reading:
    return Reading(config.text_field, config.on_bad_input == "skip")


def _build(text: _Text, fingerprint: str, folder: Path, progress: bool) -> TokenData:
    config = text.config
    try:
        with new_folder(folder) as building, _bars(progress) as bars:
            tokenizer = _make_tokenizer(text, building / TOKENIZER, bars)
            reading = _reading(config)
            with ExitStack() as stack:
                writers: dict[Split, TokenWriter] = {
                    split: stack.enter_context(TokenWriter(bin_path(building, split), tokenizer, config.vocab_size))
                    for split in SPLITS
                }
                for split, document in text.read(reading, bars, "tokens", config.max_bytes or sys.maxsize):
                    writers[split].add(document.text)
            write_summary(building, fingerprint, config.vocab_size, writers, reading.dropped)
    except OSError as error:  # bad sources have been told by now
        raise DataError(f"{folder}: cannot be written ({error.strerror}); set MEMLM_CACHE to another folder") from error
    data = load(folder)
    if data is None:
        raise DataError(f"{folder}: cannot be read back; set MEMLM_CACHE to another folder")
    return data


def _make_tokenizer(text: _Text, path: Path, bars: Progress) -> Tokenizer:
    config = text.config
    if config.tokenizer is not None:
        shutil.copyfile(config.tokenizer, path)
        return load_tokenizer(path, config.vocab_size)
    limit = min(config.max_bytes or TRAINING_BYTES, TRAINING_BYTES)
    read = text.read(_reading(config), bars, "tokenizer", limit)
    tokenizer = train_tokenizer((document.text for split, document in read if split == "train"), config.vocab_size)
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    return tokenizer


def _bars(enabled: bool) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[documents]:,} documents"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not enabled,
    )


def _tell_dropped(counts: dict[str, int]) -> None:
    dropped = {name.removeprefix("dropped/"): n for name, n in counts.items() if name.startswith("dropped/")}
    if dropped:
        level = logging.INFO if set(dropped) == {"duplicate"} else logging.WARNING
        logger.log(level, "left out of the text: %s", ", ".join(f"{n:,} {reason}" for reason, n in dropped.items()))


def _require_a_sequence(data: TokenData, config: DataConfig) -> None:
    needed = {"training": data.train, "validation": data.validation}
    if config.test is not None or config.test_share:
        needed["test"] = data.test
    for name, tokens in needed.items():
        if len(tokens.ids) < config.seq_len + 1:
            raise DataError(
                f"the {name} text has {len(tokens.ids)} tokens in {tokens.n_documents} documents, fewer than one "
                f"sequence of data.seq_len + 1 = {config.seq_len + 1}; give more text or set a smaller data.seq_len"
            )
