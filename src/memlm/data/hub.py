"""Text in data sets of the Hugging Face hub, streamed through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from memlm.data.source import Document, Reading
from memlm.errors import DataError
from memlm.extras import optional

PREFIX = "hub:"


class HubDataset:
    """One split of a data set; every row is a document.

    Args:
        name: ``hub:owner/name[@config][:split]``; the split is ``train`` if none is given.

    Raises:
        DataError: the name does not read so.
    """

    def __init__(self, name: str) -> None:
        match = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)(?:@([^:]+))?(?::(.+))?", name)
        if match is None:
            raise DataError(f"{name}: must read hub:owner/name, hub:owner/name@config or hub:owner/name@config:split")
        self.name = name
        self.repository, self.config = match[1], match[2]
        self.split = match[3] or "train"
        self._revision: str | None = None

    @property
    def size(self) -> int:
        """Nobody knows it without fetching all."""
        return 0

    def fingerprint(self) -> str:
        """Returns the name and the commit that the hub has now; the same commit is then read.

        Raises:
            DataError: the hub cannot be reached, or has no such data set.
            MissingDependencyError: `datasets` is not installed.
        """
        optional("datasets", "hub", "reading data sets of the hub")
        api = optional("huggingface_hub", "hub", "reading data sets of the hub").HfApi()
        try:
            self._revision = str(api.dataset_info(self.repository).sha)
        except Exception as error:
            raise self._unavailable(error) from error
        return f"{self.name} {self._revision}"

    def documents(self, reading: Reading) -> Iterator[Document]:
        """Yields a document for each row.

        Raises:
            DataError: the data set cannot be read, or there is bad input and it is not to be skipped.
            MissingDependencyError: `datasets` is not installed.
        """
        for number, row in enumerate(self._rows(), 1):
            document = reading.from_fields(row, f"{self.name}:{number}")
            if document is not None:
                yield document

    def _rows(self) -> Iterator[Any]:
        datasets = optional("datasets", "hub", "reading data sets of the hub")
        try:
            yield from datasets.load_dataset(
                self.repository, self.config, split=self.split, streaming=True, revision=self._revision
            )
        except Exception as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> DataError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return DataError(f"{self.name}: cannot be read from the hub ({reason}); check its name and the network")
