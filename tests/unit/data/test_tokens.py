"""The tokenizer and the files of its tokens: nothing is lost between text and ids."""

import json
import math

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from memlm.data import packing, tokenizer
from memlm.data.packing import TokenWriter, dtype, unigram_entropy
from memlm.data.tokenizer import END, PAD, load_tokenizer, pieces, train_tokenizer
from memlm.errors import DataError, Interrupted

SIZE = 300
TEXTS = [
    "The memory reads the slot, and the slot holds a value. " * 3,
    "记忆模型读取记忆槽，记忆槽保存知识。" * 3,
    "cafe\u0301 café 🐍👩‍👩‍👧 \x00\x7f\u2028 end",
    " leading\r\n\r\n\ttabs   and spaces  ",
    "the text says <|end|> and <|pad|> itself",
]


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS * 3, SIZE)


def written(path, trained, texts):
    with TokenWriter(path, trained, SIZE) as writer:
        for text in texts:
            writer.add(text)
    return writer, np.fromfile(path, dtype(SIZE))


def test_special_tokens_and_size(trained):
    assert (trained.token_to_id(END), trained.token_to_id(PAD)) == (0, 1)
    assert trained.get_vocab_size() == SIZE


def test_training_is_deterministic(trained):
    assert train_tokenizer(TEXTS * 3, SIZE).to_str() == trained.to_str()


def test_training_stops_at_its_limit(trained, monkeypatch):
    monkeypatch.setattr(tokenizer, "TRAINING_BYTES", sum(len(text.encode()) for text in TEXTS * 3))
    assert train_tokenizer([*TEXTS * 3, "zebra zebra zebra " * 50], SIZE).to_str() == trained.to_str()


def test_training_takes_words_without_end(trained, monkeypatch):
    monkeypatch.setattr(tokenizer, "pieces", lambda text: [text])
    for character in "x记1_ \n":
        assert max(map(len, tokenizer._first([character * 2001 + " a"], 10**6))) <= tokenizer.WORD_LENGTH + 1
    mixed = "abc123记忆!?\n\n  " * 200  # long, but of many words
    assert list(tokenizer._first([*TEXTS, mixed], 10**6)) == [*TEXTS, mixed]


def test_too_little_text():
    with pytest.raises(DataError, match=r"^the training text fills only 26\d entries of a vocabulary of 6400; give"):
        train_tokenizer(["so little text, so little"], 6400)


def test_documents_come_back_byte_for_byte(trained, tmp_path):
    writer, ids = written(tmp_path / "a.bin", trained, TEXTS)
    ends = np.flatnonzero(ids == 0)
    assert len(ends) == writer.n_documents == len(TEXTS) and ends[-1] == len(ids) - 1
    cut = np.split(ids, ends + 1)[: len(TEXTS)]
    assert [trained.decode(document[:-1].tolist(), skip_special_tokens=False) for document in cut] == TEXTS
    assert writer.n_bytes == sum(len(text.encode()) for text in TEXTS)
    assert writer.n_tokens == len(ids)


def test_pieces_of_a_long_text_make_the_same_tokens(trained, tmp_path, monkeypatch):
    texts = ["words  and   spaces,\n and 中文 " * 50, "中" * 500, "short", " " * 300]
    whole = written(tmp_path / "a.bin", trained, texts)[1]
    monkeypatch.setattr(tokenizer, "PIECE_LENGTH", 100)
    monkeypatch.setattr(packing, "BATCH_BYTES", 150)
    writer, ids = written(tmp_path / "b.bin", trained, texts)
    assert all("".join(pieces(text)) == text and max(map(len, pieces(text))) <= 100 for text in texts)
    assert trained.decode(ids.tolist()) == "".join(texts) and np.sum(ids == 0) == writer.n_documents == 4
    first = np.flatnonzero(ids == 0)[0]
    assert np.array_equal(ids[:first], whole[:first])


def test_an_error_inside_writes_no_more(trained, tmp_path):
    with pytest.raises(KeyError), TokenWriter(tmp_path / "a.bin", trained, SIZE) as writer:
        writer.add("text")
        raise KeyError
    assert (tmp_path / "a.bin").stat().st_size == 0


def test_integers_are_as_narrow_as_they_can_be():
    assert [dtype(size).itemsize for size in (272, 65536, 65537)] == [2, 2, 4]


def test_load_undoes_truncation_and_padding(trained, tmp_path):
    changed = Tokenizer.from_str(trained.to_str())
    changed.enable_truncation(4)
    changed.enable_padding(length=8)
    changed.save(str(tmp_path / "t.json"))
    loaded = load_tokenizer(tmp_path / "t.json", SIZE)
    assert loaded.encode(TEXTS[0]).ids == trained.encode(TEXTS[0]).ids


def test_load_errors(trained, tmp_path):
    path = tmp_path / "t.json"
    with pytest.raises(DataError, match=r"t.json: the tokenizer cannot be read \(No such file or dir.*mend data.token"):
        load_tokenizer(path, SIZE)
    for broken in (b"{", b"\xff"):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"t.json: is no tokenizer.json \(.*\); mend data.tokenizer"):
            load_tokenizer(path, SIZE)
    fields = json.loads(trained.to_str())
    fields["model"]["continuing_subword_prefix"] = "x" * 20  # the tokenizers package panics, which is no Exception
    path.write_text(json.dumps(fields), encoding="utf-8")
    with pytest.raises(
        DataError, match=r"t.json: is no tokenizer.json \(range .* out of range .*\); mend data.tokenizer"
    ):
        load_tokenizer(path, SIZE)
    with pytest.raises(DataError, match=r"the tokenizer is a folder, a pipe or a device, not a file; mend data.token"):
        load_tokenizer(tmp_path, SIZE)
    with pytest.raises(DataError, match=r"the tokenizer cannot be read \(File name too long\); mend data.tokenizer"):
        load_tokenizer(tmp_path / ("x" * 300), SIZE)
    path.write_text(trained.to_str(), encoding="utf-8")
    with pytest.raises(DataError, match=r"t.json: the tokenizer has 300 entries, not 400; set data.vocab_size: 300"):
        load_tokenizer(path, 400)
    Tokenizer(BPE(vocab={"a": 0, "b": 1}, merges=[])).save(str(path))
    with pytest.raises(DataError, match=r"t.json: the tokenizer has no <\|end\|>, which ends every document; add it"):
        load_tokenizer(path, 2)


def test_an_interrupt_while_loading_is_no_fault_of_the_file(trained, tmp_path, monkeypatch):
    (tmp_path / "t.json").write_text(trained.to_str(), encoding="utf-8")

    def interrupt(_):
        raise Interrupted("SIGTERM", 15)

    monkeypatch.setattr(tokenizer, "Tokenizer", type("Stopped", (), {"from_str": staticmethod(interrupt)}))
    with pytest.raises(Interrupted):
        load_tokenizer(tmp_path / "t.json", SIZE)


def test_unigram_entropy(monkeypatch):
    monkeypatch.setattr(packing, "CHUNK", 3)
    assert unigram_entropy(np.array([5, 5, 5], dtype=np.uint16)) == 0
    assert unigram_entropy(np.arange(8, dtype=np.uint16)) == pytest.approx(math.log(8))
    assert unigram_entropy(np.array([0, 9, 0, 0], dtype=np.uint32)) == pytest.approx(
        -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    )
