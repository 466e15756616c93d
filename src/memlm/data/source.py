"""What every kind of text source shares: documents, one pass over them, and what becomes of bad input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

from memlm.errors import DataError

Split = Literal["train", "validation", "judge", "tune", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it was found: ``file:line``, or ``file`` for a file that is one document.

    Generated text says of which split it is and may repeat itself; of other text the split is None, decided later.
    """

    text: str
    where: str
    split: Split | None = None


@dataclass
class Reading:
    """One pass over text: how to read it, and what was met on the way.

    Args:
        text_field: The field of a JSON line, or the column of a hub data set, that holds the text.
        skip: Count bad input and go on; otherwise the first one is an error.
        is_set: An experiment's ``data`` decides the two above, and errors may name its fields.
        dropped: Number of documents or files left out, by reason.
        n_bytes: Bytes of the sources read so far, as they are stored.
    """

    text_field: str = "text"
    skip: bool = False
    is_set: bool = True
    dropped: Counter[str] = field(default_factory=Counter)
    n_bytes: int = 0

    def bad(self, reason: str, where: str, message: str, mend: str = "mend it", setting: str = "") -> None:
        """Counts bad input under ``reason`` if it is to be skipped.

        ``mend`` says how to mend the input; the field of ``data`` named ``setting`` helps, too.

        Raises:
            DataError: it is not; one line says where and what, and how to mend it.
        """
        if not self.skip:
            if self.is_set:
                mend = f"{f'set data.{setting}, ' if setting else ''}{mend} or set data.on_bad_input: skip"
            raise DataError(f"{where}: {message}; {mend}")
        self.dropped[reason] += 1

    def from_fields(self, fields: object, where: str) -> Document | None:
        """Returns the document in a JSON value or a data set's row, or None if it is bad and skipped.

        Raises:
            DataError: it is bad input and not to be skipped.
        """
        if not isinstance(fields, dict):
            self.bad("not an object", where, f"is a JSON {type(fields).__name__}, not an object")
            return None
        if self.text_field not in fields:
            names = ", ".join(map(str, fields)) or "none"
            message = f"has no field {self.text_field!r} (its fields: {names})"
            self.bad("no text field", where, message, setting="text_field")
            return None
        text = fields[self.text_field]
        if not isinstance(text, str):
            message = f"field {self.text_field!r} is {type(text).__name__}, not a string"
            self.bad("not a string", where, message, setting="text_field")
            return None
        return self.checked(Document(text, where))

    def checked(self, document: Document) -> Document | None:
        """Returns ``document``, or None if its text is blank or cannot be encoded, and is skipped.

        Raises:
            DataError: it is bad input and not to be skipped.
        """
        if not document.text.strip():
            self.bad("empty text", document.where, "has no text")
            return None
        try:
            document.text.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(document.text[error.start]):04x}"
            message = f"has a lone surrogate ({code} at character {error.start}), which UTF-8 cannot hold"
            self.bad("lone surrogate", document.where, message)
            return None
        return document


class Source(Protocol):
    """Where documents come from: a file, a built-in corpus, a data set of the hub."""

    @property
    def size(self) -> int:
        """Bytes as stored; 0 if nobody knows."""
        ...

    def fingerprint(self) -> str:
        """Returns what changes when the text does."""
        ...

    def documents(self, reading: Reading) -> Iterator[Document]:
        """Yields the documents in order, streaming.

        Raises:
            DataError: there is bad input and it is not to be skipped.
        """
        ...
