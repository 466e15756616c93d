"""Names of text become documents: built-in corpora, files, patterns, folders and data sets of the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from memlm.config.base import Config
from memlm.config.facts import FactsConfig
from memlm.data.facts import FactsSource
from memlm.data.files import find_files
from memlm.data.hub import PREFIX, HubDataset
from memlm.data.python_docs import python_docs
from memlm.data.source import Document, Reading, Source
from memlm.registry import nearest


@dataclass(frozen=True)
class BuiltIn:
    """A corpus that needs no download: what it is, how it is opened, and its section of settings if it has one."""

    description: str
    open: Callable[[FactsConfig], Source]
    settings: type[Config] | None = None


class KeptSource:
    """Documents that are few, so that they are made once and kept."""

    def __init__(self, documents: Iterator[Document]) -> None:
        self._documents = list(documents)

    @property
    def size(self) -> int:
        """Bytes of its text."""
        return sum(len(document.text.encode()) for document in self._documents)

    def fingerprint(self) -> str:
        """Returns the hash of the documents."""
        digest = hashlib.sha256()
        for document in self._documents:
            digest.update(hashlib.sha256(document.text.encode()).digest())
        return f"documents {digest.hexdigest()}"

    def documents(self, reading: Reading) -> Iterator[Document]:
        """Yields the documents.

        Raises:
            DataError: one of them is blank, and it is not to be skipped.
        """
        for document in self._documents:
            reading.n_bytes += len(document.text.encode())
            if reading.checked(document) is not None:
                yield document


BUILT_IN = {
    "facts": BuiltIn("A generated world of facts, with questions; set in data.facts", FactsSource, FactsConfig),
    "python-docs": BuiltIn(
        "Prose that comes with Python: pydoc's topics and the library's docstrings", lambda _: KeptSource(python_docs())
    ),
}


def find_sources(names: str | Sequence[str], reading: Reading, facts: FactsConfig | None = None) -> list[Source]:
    """Returns the sources that ``names`` (as `DataConfig.corpus`) stand for, in that order.

    Args:
        names: One name or several.
        reading: Is told of names that stand for nothing.
        facts: The settings of the generated world, should it be named.

    Raises:
        DataError: a name stands for nothing, and that is not to be skipped.
    """
    names = [names] if isinstance(names, str) else names
    return [source for name in names for source in _find(name, reading, facts or FactsConfig())]


def documents(sources: Sequence[Source], reading: Reading) -> Iterator[Document]:
    """Yields the documents of ``sources`` one after the other.

    Raises:
        DataError: there is bad input and it is not to be skipped.
    """
    for source in sources:
        yield from source.documents(reading)


def _find(name: str, reading: Reading, facts: FactsConfig) -> list[Source]:
    if name in BUILT_IN:
        return [BUILT_IN[name].open(facts)]
    if name.startswith(PREFIX):
        return [HubDataset(name)]
    guess = nearest(name, BUILT_IN)
    return find_files(name, reading, hint=f" (did you mean the built-in {guess!r}?)" if guess else "")
