"""Text in files: JSON Lines, plain or compressed, and plain text."""

from __future__ import annotations

import glob
import gzip
import io
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, ClassVar, cast

from memlm.data.source import Document, Reading, Source
from memlm.extras import optional
from memlm.storage import sha256

TEXT = (".txt", ".md", ".rst")
JSON_LINES = tuple(f".{kind}{packed}" for kind in ("jsonl", "ndjson") for packed in ("", ".gz", ".xz", ".zst"))
MAX_LINE_BYTES = 100_000_000
"""A line that is longer is bad input: a few kilobytes of an archive can claim to hold gigabytes without a line end."""


class _File:
    """A file of text: its size and its fingerprint, whatever it holds."""

    kind: ClassVar[str]

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes of the file, as stored."""
        return _size(self.path)

    def fingerprint(self) -> str:
        """Returns the hash of the file's bytes, and how they are read."""
        return f"{self.kind} {_sha256(self.path)}"


class TextFile(_File):
    """A file of plain UTF-8 text, which is one document."""

    kind = "text"

    def documents(self, reading: Reading) -> Iterator[Document]:
        """Yields the file's text.

        Raises:
            DataError: there is bad input and it is not to be skipped.
        """
        where = str(self.path)
        try:
            data = self.path.read_bytes()
        except OSError as error:
            reading.bad("unreadable file", where, f"cannot be read ({error.strerror})")
            return
        reading.n_bytes += len(data)
        if not data.strip():
            reading.bad("empty file", where, "is empty")
            return
        text = _decoded(data, where, reading)
        document = None if text is None else reading.checked(Document(text, where))
        if document is not None:
            yield document


class JsonLines(_File):
    """A file with one JSON object a line, compressed as its suffix says; each line is a document."""

    kind = "jsonl"

    def documents(self, reading: Reading) -> Iterator[Document]:
        """Yields a document for each line; blank lines hold none.

        Raises:
            DataError: there is bad input and it is not to be skipped.
        """
        start, number, n_lines = reading.n_bytes, 0, 0
        try:
            with self.path.open("rb") as stored, closing(_decompressed(stored, self.path.suffix.lower())) as lines:
                for number, line in enumerate(_bounded(lines), 1):
                    reading.n_bytes = start + stored.tell()
                    if len(line) <= MAX_LINE_BYTES and not line.strip():
                        continue
                    n_lines += 1
                    document = _from_line(line, f"{self.path}:{number}", reading)
                    if document is not None:
                        yield document
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
            message = f"is damaged after line {number} ({error})"
            reading.bad("damaged file", str(self.path), message, "fetch it again")
        except OSError as error:
            reading.bad("unreadable file", str(self.path), f"cannot be read ({error.strerror})")
        else:
            if not n_lines:
                reading.bad("empty file", str(self.path), "is empty")


def find_files(pattern: str, reading: Reading, hint: str = "") -> list[Source]:
    """Returns the files of a path, a glob pattern or a folder (its text files, sorted; hidden ones are left out).

    Raises:
        DataError: there is none, or one of a kind that cannot be read, and it is not to be skipped.
    """
    try:
        expanded = os.path.expanduser(pattern)
        paths = [expanded] if os.path.exists(expanded) else sorted(glob.glob(expanded, recursive=True))
    except (ValueError, re.error):  # a name that no file can have
        paths = []
    if not paths:
        reading.bad("no such file", pattern, "no file matches" + hint, "mend the path")
    return [source for path in paths for source in _sources(Path(path), reading)]


def _sources(path: Path, reading: Reading) -> list[Source]:
    name = path.name.lower()
    if os.path.isdir(path):  # unlike Path's, the functions of os.path take a name that is too long
        found = sorted(file for file in path.rglob("*") if _is_text(file, path))
        if not found:
            message = f"the folder has no {', '.join(TEXT)} file"
            reading.bad("no such file", str(path), message, f"give JSON Lines as {path / '*.jsonl'}, mend the path")
        return [TextFile(file) for file in found]
    if os.path.exists(path) and not os.path.isfile(
        path
    ):  # a pipe would be waited for without end, and cannot be read twice
        reading.bad("no regular file", str(path), "is a pipe or a device", "copy it into a file")
        return []
    if name.endswith(TEXT):
        return [TextFile(path)]
    if name.endswith(JSON_LINES):
        return [JsonLines(path)]
    message = f"is no kind of file that can be read ({', '.join(TEXT + JSON_LINES)})"
    reading.bad("unknown kind of file", str(path), message, "mend the path")
    return []


def _is_text(file: Path, folder: Path) -> bool:
    is_hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in TEXT and file.is_file() and not is_hidden


def _bounded(lines: io.BufferedReader) -> Iterator[bytes]:
    """Yields lines; of one that is too long only the beginning, which is still too long."""
    while line := lines.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(line) > MAX_LINE_BYTES and rest and not rest.endswith(b"\n"):
            rest = lines.readline(1 << 20)
        yield line


def _from_line(line: bytes, where: str, reading: Reading) -> Document | None:
    if len(line) > MAX_LINE_BYTES:
        reading.bad("line too long", where, f"is longer than {MAX_LINE_BYTES // 10**6} MB", "cut it into documents")
        return None
    text = _decoded(line, where, reading)
    if text is None:
        return None
    try:
        fields = json.loads(text.rstrip())
    except json.JSONDecodeError as error:
        reading.bad("not JSON", where, f"is not JSON ({error.msg}, column {error.colno})")
        return None
    except (ValueError, RecursionError) as error:
        reading.bad("not JSON", where, f"is JSON that cannot be read ({error})")
        return None
    return reading.from_fields(fields, where)


def _decoded(data: bytes, where: str, reading: Reading) -> str | None:
    try:
        # A byte-order mark is no part of the text.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reading.bad("not UTF-8", where, f"is not UTF-8 (byte {error.start})")
        return None


def _decompressed(stored: BinaryIO, suffix: str) -> io.BufferedReader:
    """Returns a reader of the plain bytes; it raises EOFError where a compressed file ends too early."""
    if suffix == ".gz":
        plain: object = gzip.GzipFile(fileobj=stored)
    elif suffix == ".xz":
        plain = lzma.LZMAFile(stored)  # noqa: SIM115 - closed with the reader around it
    elif suffix == ".zst":
        plain = _ZstdFile(stored)
    else:
        plain = stored
    return io.BufferedReader(cast(io.RawIOBase, plain), 1 << 16)


class _ZstdFile(io.RawIOBase):
    """The plain bytes of zstd frames; unlike zstandard's own reader it notices a frame that is cut short."""

    def __init__(self, stored: BinaryIO) -> None:
        self._zstandard = optional("zstandard", "zst", "reading .zst files")
        self._stored = stored
        self._plain = memoryview(b"")
        self._frame = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._plain:
            packed = self._stored.read(1 << 12)  # of which zstd can make 128 MB at most
            if not packed:
                if self._frame is not None:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            self._plain = memoryview(self._decompress(packed))
        n = min(len(buffer), len(self._plain))
        buffer[:n] = self._plain[:n]
        self._plain = self._plain[n:]  # of a view, so that nothing is copied
        return n

    def _decompress(self, packed: bytes) -> bytes:
        plain = b""
        while packed:
            frame = self._frame or self._zstandard.ZstdDecompressor().decompressobj()
            try:
                plain += frame.decompress(packed)
            except self._zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
            packed = frame.unused_data if frame.eof else b""
            self._frame = None if frame.eof else frame
        return plain


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _sha256(path: Path) -> str:
    try:
        return sha256(path)
    except OSError:
        return "unreadable"  # told with its place when the documents are read
