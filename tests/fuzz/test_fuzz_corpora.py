"""Broken text: what `prepare` takes comes back byte for byte, what it refuses is one line with its place."""

import gzip
import json
import lzma
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import strategies as st
from tokenizers import Tokenizer

from memlm.config.data import DataConfig
from memlm.data.prepare import prepare
from memlm.errors import DataError
from tests.told import one_line

WORDS = [
    "memory",
    "slot",
    "key",
    "value",
    "记忆",
    "模型",
    "reads",
    "the",
    "🐍",
    "\u0000",
    "\u2028",
    "\ufeff",
    "<|end|>",
]
SOUND = [f"{n} " + " ".join(random.Random(n).choices(WORDS, k=30)) for n in range(60)]
"""Enough text for a vocabulary and for every split, so that most files with little wrong are taken."""

TEXTS = st.one_of(
    st.text(max_size=20), st.sampled_from(WORDS), st.integers(1, 60).map(lambda n: "wide " * 4 ** (n % 8))
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["text", "a\nb", "\x1b"]), inner)
    ),
    max_leaves=4,
)
LINES = st.one_of(
    TEXTS.map(lambda text: json.dumps({"text": text}).encode()),
    TEXTS.map(lambda text: json.dumps({"text": text}, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    JSON.map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=20),
    st.sampled_from([
        b"", b" ", b"\x00", b"\xef\xbb\xbf", b"\xff\xfe{}", b"{", b"[]", b'{"text": }', b'{"text": NaN}',
        b'{"text": "\\ud83d\\udc0d"}', b'{"text": "\\ud83d"}', b'{"text": "\\udc0d\\ud83d"}',
        b'{"text": "\xed\xa0\xbd"}',
        b'{"text": "a", "text": "b"}', b'{"text": "a"} x', b'\xef\xbb\xbf{"text": "after a mark"}',
        b"[" * 100_000, b'{"a":' * 100_000, b'{"text": ' + b"9" * 5000 + b"}", b'{"text": 1e99999}',
        b'{"' + b"k" * 100_000 + b'": 1}', b'{"text": "' + b"x" * 3_000_000 + b'"}', '{"text": "é"}'.encode("latin-1"),
        '{"text": "é"}'.encode("utf-16"),
    ]),
)  # fmt: skip
ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\n\n"])
PACKERS = {
    ".jsonl": bytes,
    ".jsonl.gz": gzip.compress,
    ".jsonl.xz": lzma.compress,
    ".jsonl.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def text_of(line):
    """What a line holds by the letter of the documentation, None if it is bad."""
    try:
        text = json.loads(line.decode("utf-8-sig").rstrip())["text"]
        return text if isinstance(text, str) and text.strip() and text.encode() else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def decoded(data):
    tokenizer = Tokenizer.from_file(str(data.tokenizer))
    ids = np.concatenate([np.asarray(getattr(data, split).ids) for split in ("train", "validation", "judge")])
    assert ids.max() < tokenizer.get_vocab_size()
    parts = np.split(ids, np.flatnonzero(ids == 0) + 1)
    return [tokenizer.decode(part[:-1].tolist(), skip_special_tokens=False) for part in parts if len(part)]


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Prepares a file of these bytes: the documents and counts that come out, or None if it is refused."""
    monkeypatch.chdir(tmp_path)

    def attempt(name, content, mode, **fields):
        Path(name).write_bytes(content)
        try:
            config = DataConfig(corpus=name, vocab_size=280, seq_len=8, on_bad_input=mode, **fields)
            data = prepare(config, Path("cache"), progress=False)
        except DataError as error:
            one_line(error)
            assert not [path for path in Path("cache").glob("*") if path.name.startswith(".")]
            return None
        finally:
            Path(name).unlink()
        documents = decoded(data), data.counts
        shutil.rmtree("cache")
        return documents

    return attempt


def test_lines(fuzz, attempt):
    def check(case):
        suffix, n_sound, added, ending, mode = case
        lines = [json.dumps({"text": text}).encode() for text in SOUND[:n_sound]]
        for where, line in added:
            lines.insert(where, line)
        content = ending.join([*lines, b""])
        taken = attempt(f"c{suffix}", PACKERS[suffix](content), mode)
        # A line that is drawn may hold line ends itself.
        expected = [text_of(line) for line in content.split(b"\n") if line.strip()]
        if taken is None:
            assert mode == "error" or n_sound < len(SOUND), "sound text was refused"
            return "refused"
        documents, _ = taken
        assert mode == "skip" or None not in expected, "bad input went by in silence"
        assert sorted(documents) == sorted({text for text in expected if text is not None})
        return "prepared"

    added = st.lists(st.tuples(st.integers(0, 60), LINES), max_size=4)
    n_sound = st.sampled_from([60, 60, 60, 60, 3, 0])
    case = st.tuples(st.sampled_from(sorted(PACKERS)), n_sound, added, ENDINGS, st.sampled_from(["error", "skip"]))
    fuzz("corpora, line by line", case, check, compact=60, torture=2000)


def test_damaged_archives(fuzz, attempt):
    content = "".join(json.dumps({"text": text}) + "\n" for text in SOUND).encode()
    packed = {suffix: pack(content) for suffix, pack in PACKERS.items() if suffix != ".jsonl"}

    def check(case):
        suffix, cut, flips, tail, mode = case
        sound = packed[suffix]
        damaged = bytearray(sound[: len(sound) - cut % len(sound)])
        for where, bit in flips:
            damaged[where % len(damaged)] ^= 1 << bit
        damaged += tail
        taken = attempt(f"c{suffix}", bytes(damaged), mode)
        if taken is None:
            return "refused"
        documents, counts = taken
        if mode == "error" or not any(name.startswith("dropped/") for name in counts):
            assert sorted(documents) == sorted(set(SOUND)), "damage went by in silence"
        return "prepared"

    flips = st.lists(st.tuples(st.integers(0, 10**5), st.integers(0, 7)), max_size=3)
    cut = st.one_of(st.just(0), st.integers(0, 10**5))
    tail = st.one_of(st.just(b""), st.binary(max_size=8))
    case = st.tuples(st.sampled_from(sorted(packed)), cut, flips, tail, st.sampled_from(["error", "skip"]))
    fuzz("corpora, damaged archives", case, check, compact=60, torture=2000)


def test_plain_text(fuzz, attempt):
    sound = "\n".join(SOUND).encode()

    def check(case):
        before, after, mode = case
        content = before + sound + after
        taken = attempt("c.txt", content, mode, validation_share=0.4)
        # One document has one split, so a single file can never fill both.
        assert taken is None
        return "refused"

    case = st.tuples(st.binary(max_size=8), st.binary(max_size=8), st.sampled_from(["error", "skip"]))
    fuzz("corpora, plain text", case, check, compact=10, torture=200)


def test_names(fuzz, attempt, tmp_path):
    """Names of text: paths, patterns, folders named like files; nothing of it is there."""
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "empty.txt").touch()

    def check(name):
        try:
            prepare(DataConfig(corpus=name, vocab_size=280, seq_len=8), Path("cache"), progress=False)
        except DataError as error:
            one_line(error)
            return "refused"
        raise AssertionError("made tokens of nothing")

    parts = st.sampled_from(
        ["folder.jsonl", "empty.txt", "*", "**", "[", "]", "{", "/", "..", "~", "~x", "\x00", "\n", "x" * 300]
    )
    names = st.lists(st.one_of(parts, st.text(max_size=5)), min_size=1, max_size=4).map("".join)
    fuzz(
        "corpora, names",
        names.filter(lambda n: n.strip("./~*") and not n.startswith("/")),
        check,
        compact=50,
        torture=1000,
    )
