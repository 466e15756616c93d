"""The built-in corpus: real prose, always the same, and nothing is imported to get it."""

import subprocess
import sys
from pathlib import Path

import pytest

from memlm.data import python_docs as module
from memlm.data.corpus import documents, find_sources
from memlm.data.python_docs import python_docs
from memlm.data.source import Reading
from memlm.errors import DataError

CODE = """
import sys
from memlm.data.python_docs import python_docs
before = set(sys.modules)
n = sum(1 for _ in python_docs())
assert n > 300, n
new = {name for name in set(sys.modules) - before if name != "inspect"}
assert not new & {"antigravity", "this", "tkinter", "turtle", "pydoc_data", "pydoc_data.topics", "smtplib"}, new
assert len(new) < 10, new
assert "torch" not in sys.modules
"""


@pytest.fixture(scope="module")
def docs():
    return list(python_docs())


def test_it_is_real_prose(docs):
    text = "\n".join(document.text for document in docs)
    assert len(text.encode()) > 1_500_000
    assert len(docs) > 300
    words = text.split()
    assert sum(word.lower() in ("the", "a", "is", "of", "to", "and") for word in words) > len(words) / 10


def test_topics_and_modules_are_documents(docs):
    by_place = {document.where: document.text for document in docs}
    assert "assert" in by_place["python-docs:topic assert"]
    decoder = by_place["python-docs:json.decoder"]
    assert decoder.startswith("json.decoder\n\n")
    assert decoder.index("json.decoder.JSONDecoder\n\n") < decoder.index("json.decoder.JSONDecoder.decode\n\nReturn")
    assert "python-docs:json" in by_place
    assert not any(part in place for place in by_place for part in ("site-packages", ":test.", "idlelib", "lib2to3"))


def test_order_and_text_are_the_same_each_time(docs):
    reading = Reading()
    (source,) = find_sources("python-docs", reading)
    assert list(documents([source], reading)) == docs
    assert reading.n_bytes == source.size


def test_nothing_is_imported():
    subprocess.run([sys.executable, "-c", CODE], check=True)


def test_a_python_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match=r"^python-docs: this Python came without its library's sources; set data.corp"):
        list(python_docs())
    topics = tmp_path / "pydoc_data" / "topics.py"
    topics.parent.mkdir()
    topics.write_text("other = {}")
    Path(tmp_path / "one.py").write_text('"""One."""')
    with pytest.raises(DataError, match=r"topics.py: defines no topics; set data.corpus to other text"):
        list(python_docs())
    topics.write_text("topics: dict[str, str] = {'if': 'branches'}")
    assert [document.text for document in python_docs()] == ["branches", "one\n\nOne."]
