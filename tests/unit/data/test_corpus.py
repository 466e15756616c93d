"""Every kind of source, and every way in which it can be bad."""

import gzip
import json
import lzma
import os
import sys
import tracemalloc
from types import SimpleNamespace

import pytest
import zstandard

from memlm.data.corpus import BUILT_IN, documents, find_sources
from memlm.data.source import Document, Reading
from memlm.errors import DataError, MissingDependencyError
from tests.told import one_line

TEXTS = ["plain words", "知识记忆。读写", "emoji 🐍 and\u2028line", "tab\tand\nnewline"]
PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def read(names, reading=None):
    reading = reading or Reading()
    return list(documents(find_sources(names, reading), reading))


def lines(*values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values).encode()


def error(names, **settings):
    with pytest.raises(DataError) as caught:
        read(names, Reading(**settings))
    return one_line(caught.value)


@pytest.mark.parametrize("kind", [".jsonl", ".ndjson"])
@pytest.mark.parametrize("packed", PACK)
def test_json_lines(tmp_path, kind, packed):
    path = tmp_path / f"a{kind}{packed}"
    data = lines(*({"text": text, "id": 1} for text in TEXTS))
    path.write_bytes(PACK[packed](data))
    reading = Reading()
    assert read(str(path), reading) == [Document(text, f"{path}:{n}") for n, text in enumerate(TEXTS, 1)]
    assert reading.n_bytes == path.stat().st_size == find_sources(str(path), reading)[0].size


def test_zst_of_several_frames(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(b"".join(PACK[".zst"](lines({"text": text})) for text in TEXTS))
    assert [document.text for document in read(str(path))] == TEXTS


def test_zst_without_zstandard(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(PACK[".zst"](lines({"text": "a"})))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingDependencyError, match=r"zstandard is needed for reading .zst files; .*memlm\[zst\]"):
        read(str(path), Reading(skip=True))


def test_blank_lines_byte_order_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\r\n{"text": "b"}')
    assert read(str(path)) == [Document("a", f"{path}:1"), Document("b", f"{path}:3")]


def test_long_line(tmp_path):
    path = tmp_path / "a.jsonl"
    text = "long " * 1_000_000
    path.write_bytes(lines({"text": text}))
    assert read(str(path))[0].text == text


def test_pattern_list_folder_and_field(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "[odd].jsonl"):
        (tmp_path / name).write_bytes(lines({"body": name}))
    folder = tmp_path / "notes"
    (folder / "deep").mkdir(parents=True)
    (folder / "z.md").write_text("Z", encoding="utf-8")
    (folder / "deep" / "y.rst").write_text("记忆", encoding="utf-8")
    (folder / ".hidden.txt").write_text("hidden", encoding="utf-8")
    (folder / "code.py").write_text("pass", encoding="utf-8")
    names = [str(tmp_path / "[ab].jsonl"), str(tmp_path / "[odd].jsonl"), str(folder), str(folder / "z.md")]
    found = read(names, Reading("body"))
    assert [document.text for document in found] == ["a.jsonl", "b.jsonl", "[odd].jsonl", "记忆", "Z", "Z"]
    assert found[3].where == str(folder / "deep" / "y.rst")


BAD_LINES = {
    b'{"text": "a"': ("not JSON", "is not JSON (Expecting ',' delimiter, column 13); mend it or"),
    b'{"text": ' + b"9" * 5000 + b"}": ("not JSON", "is JSON that cannot be read (Exceeds the limit"),
    b"[" * 100_000: ("not JSON", "is JSON that cannot be read (maximum recursion depth"),
    b'["text"]': ("not an object", "is a JSON list, not an object; mend it or"),
    b'{"body": "a", "id": 3}': (
        "no text field",
        "has no field 'text' (its fields: body, id); set data.text_field, mend it or",
    ),
    b'{"text": 3}': ("not a string", "field 'text' is int, not a string; set data.text_field, mend it or"),
    b'{"text": "\xff"}': ("not UTF-8", "is not UTF-8 (byte 10); mend it or"),
    b'{"text": "a\\ud800"}': ("lone surrogate", "has a lone surrogate (\\ud800 at character 1), which UTF-8 cannot"),
    b'{"text": " \\n"}': ("empty text", "has no text; mend it or"),
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_line(tmp_path, line):
    reason, message = BAD_LINES[line]
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n' + line + b'\n{"text": "end"}\n')
    told = error(str(path))
    assert told.startswith(f"{path}:2: {message}")
    assert told.endswith("or set data.on_bad_input: skip")
    reading = Reading(skip=True)
    assert [document.text for document in read(str(path), reading)] == ["good", "end"]
    assert reading.dropped == {reason: 1}


@pytest.mark.parametrize("packed", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_file(tmp_path, packed, damage):
    path = tmp_path / f"a.jsonl{packed}"
    data = bytearray(PACK[packed](lines(*({"text": f"{n * 7919 % 1000003} text"} for n in range(20_000)))))
    if damage == "cut":
        del data[-20:]
    else:
        data[len(data) // 2 : len(data) // 2 + 8] = b"damaged!"
    path.write_bytes(data)
    told = error(str(path))
    # What a changed byte does is up to the format: a checksum fails, or a line is broken before.
    assert "is damaged after line" in told or damage == "changed"
    assert str(path) in told and told.endswith("or set data.on_bad_input: skip")
    reading = Reading(skip=True)
    assert len(read(str(path), reading)) < 20_000
    assert reading.dropped.total() >= 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.jsonl.gz"])
def test_empty_file(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"\n") if name.endswith(".gz") else b"\n")
    assert error(str(path)) == f"{path}: is empty; mend it or set data.on_bad_input: skip"
    reading = Reading(skip=True)
    assert read(str(path), reading) == []
    assert reading.dropped == {"empty file": 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_unreadable_file(tmp_path, name):
    path = tmp_path / name
    path.symlink_to("nowhere")
    pattern = str(tmp_path / "a.*")
    reason = "cannot be read (No such file or directory)"
    assert error(pattern) == f"{path}: {reason}; mend it or set data.on_bad_input: skip"
    (source,) = find_sources(pattern, Reading())
    assert "unreadable" in source.fingerprint() and source.size == 0


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jsonl")
    told = error(str(tmp_path / "*.jsonl"))
    assert told == f"{tmp_path / 'a.jsonl'}: is a pipe or a device; copy it into a file or set data.on_bad_input: skip"
    reading = Reading(skip=True)
    assert read(str(tmp_path / "a.jsonl"), reading) == [] and reading.dropped == {"no regular file": 1}


@pytest.mark.parametrize("packed", [".gz", ".xz", ".zst"])
def test_an_archive_that_holds_far_more_than_it_seems(tmp_path, packed, monkeypatch):
    monkeypatch.setattr("memlm.data.files.MAX_LINE_BYTES", 20_000_000)
    path = tmp_path / f"a.jsonl{packed}"
    path.write_bytes(PACK[packed](b" " * 200_000_000 + b'\n{"text": "after it"}\n'))
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    told = error(str(path))
    reading = Reading(skip=True)
    assert [document.text for document in read(str(path), reading)] == ["after it"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told == f"{path}:1: is longer than 20 MB; cut it into documents or set data.on_bad_input: skip"
    assert reading.dropped == {"line too long": 1}
    assert peak < 400_000_000  # zstd makes up to 128 MB of what is read at once, and holds it twice while it does


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_bytes("é".encode("latin-1"))
    assert error(str(tmp_path / "a.txt")).startswith(f"{tmp_path / 'a.txt'}: is not UTF-8 (byte 0); mend it or")


def test_names_that_stand_for_nothing(tmp_path):
    missing = str(tmp_path / "*.jsonl")
    assert error(missing) == f"{missing}: no file matches; mend the path or set data.on_bad_input: skip"
    long = "x" * 300
    assert error(long + "/**").startswith(f"{long}: is no kind of file")
    for impossible in ("~\0", "*\0/*", "\0"):
        assert error(impossible).startswith(impossible.replace("\0", "\\x00") + ": no file matches; mend the path or")
    assert "no file matches (did you mean the built-in 'python-docs'?)" in error("python-dox")
    assert f"the folder has no .txt, .md, .rst file; give JSON Lines as {tmp_path / '*.jsonl'}" in error(str(tmp_path))
    (tmp_path / "a.csv").write_text("a", encoding="utf-8")
    assert "is no kind of file that can be read (.txt, .md, .rst, .jsonl, .jsonl.gz" in error(str(tmp_path / "a.csv"))
    reading = Reading(skip=True)
    assert read([missing, str(tmp_path / "a.csv")], reading) == []
    assert reading.dropped == {"no such file": 1, "unknown kind of file": 1}


def test_fingerprint_follows_the_bytes(tmp_path):
    path = tmp_path / "a.jsonl"
    prints = set()
    for text in ("a", "b", "a"):
        path.write_bytes(lines({"text": text}))
        prints.add(find_sources(str(path), Reading())[0].fingerprint())
    assert len(prints) == 2


@pytest.fixture
def hub(monkeypatch):
    """A hub that holds one data set, and notes how it is asked."""
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        if args[0] != "owner/name":
            raise FileNotFoundError("no such data set\nand details")
        return iter([{"text": "one"}, {"text": "二"}])

    api = SimpleNamespace(dataset_info=lambda name: SimpleNamespace(sha=f"commit of {name}"))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: api))
    return asked


def test_hub(hub):
    name = "hub:owner/name@en:validation"
    (source,) = find_sources(name, Reading())
    assert source.fingerprint() == f"{name} commit of owner/name"
    assert list(source.documents(Reading())) == [Document("one", f"{name}:1"), Document("二", f"{name}:2")]
    expected = {"split": "validation", "streaming": True, "revision": "commit of owner/name"}
    assert hub == [(("owner/name", "en"), expected)]
    read("hub:owner/name")
    assert hub[1][0] == ("owner/name", None) and hub[1][1]["split"] == "train"


def test_hub_errors(hub, monkeypatch):
    assert error("hub:name").startswith("hub:name: must read hub:owner/name, hub:owner/name@config or")
    told = error("hub:owner/other")
    assert told == ("hub:owner/other: cannot be read from the hub (no such data set); check its name and the network")
    assert "has no field 'body' (its fields: text)" in error("hub:owner/name", text_field="body")
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=lambda: None))
    with pytest.raises(DataError, match=r"cannot be read from the hub \('NoneType'"):
        find_sources("hub:owner/name", Reading())[0].fingerprint()
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"datasets is needed for .*memlm\[hub\]"):
        read("hub:owner/name")


def test_built_in_corpora_are_described():
    assert all(corpus.description and callable(corpus.open) for corpus in BUILT_IN.values())
