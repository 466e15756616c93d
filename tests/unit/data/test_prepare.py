"""From a configuration to tokens: splits, duplicates, the cache, and what happens when two do it at once."""

import itertools
import json
import logging
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from memlm.config.data import DataConfig
from memlm.data import cache as cache_module
from memlm.data.cache import default_cache
from memlm.data.prepare import prepare
from memlm.data.split import split_of, text_hash
from memlm.errors import DataError

WORDS = ["memory", "slot", "key", "value", "token", "记忆", "知识", "模型", "reads", "holds", "the", "a", "of", "🐍"]
SPLITS = ("train", "validation", "judge", "tune", "test")


def texts(n, seed=0):
    chosen = random.Random(seed)
    return [f"{number} " + " ".join(chosen.choices(WORDS, k=40)) for number in range(n)]


def write(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "corpus.jsonl", texts(300))


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def config(corpus, **fields):
    return DataConfig(**({"corpus": corpus, "vocab_size": 300, "seq_len": 8} | fields))


def decoded(data, split):
    """The documents of a split, from its tokens."""
    tokenizer = Tokenizer.from_file(str(data.tokenizer))
    ids = getattr(data, split).ids
    parts = np.split(np.asarray(ids), np.flatnonzero(ids == 0) + 1)
    return [tokenizer.decode(part[:-1].tolist(), skip_special_tokens=False) for part in parts if len(part)]


def run(config, cache):
    return prepare(config, cache, progress=False)


def folders(cache):
    return sorted(path.name for path in cache.iterdir())


def test_every_document_is_in_one_split_byte_for_byte(corpus, cache):
    data = run(config(corpus), cache)
    found = {split: decoded(data, split) for split in SPLITS}
    assert sorted(itertools.chain(*found.values())) == sorted(texts(300))
    assert all(5 <= len(found[split]) <= 30 for split in ("validation", "judge"))
    for split in SPLITS:
        tokens = getattr(data, split)
        assert tokens.n_documents == len(found[split]) == data.counts[f"{split}/documents"]
        assert tokens.n_bytes == sum(len(text.encode()) for text in found[split]) == data.counts[f"{split}/bytes"]
        assert data.counts[f"{split}/tokens"] == len(tokens.ids)
        assert tokens.ids.dtype == np.uint16 and not tokens.ids.flags.writeable
    assert isinstance(data.train.ids, np.memmap)


def test_the_split_hangs_on_the_text_alone(corpus, cache, tmp_path):
    before = run(config(corpus), cache)
    shuffled = [*texts(300), "and some more"]
    random.Random(1).shuffle(shuffled)
    after = run(config(write(tmp_path / "b.jsonl", shuffled)), cache)
    for split in SPLITS:
        assert set(decoded(before, split)) == set(decoded(after, split)) - {"and some more"}


def test_duplicates_are_dropped_and_counted(cache, tmp_path):
    data = run(config(write(tmp_path / "a.jsonl", texts(300) + texts(100))), cache)
    assert data.counts["dropped/duplicate"] == 100
    assert sum(data.counts[f"{split}/documents"] for split in SPLITS) == 300


def test_validation_is_held_out_as_given(corpus, cache, tmp_path):
    held_out = texts(40, seed=9)
    fields = {"validation": write(tmp_path / "v.jsonl", held_out + held_out[:3]), "judge_share": 0.2}
    data = run(config(corpus, **fields), cache)
    assert decoded(data, "validation") == held_out
    assert sorted(decoded(data, "train") + decoded(data, "judge")) == sorted(texts(300))
    assert data.counts["dropped/duplicate"] == 3
    assert 40 <= data.judge.n_documents <= 80


def test_a_test_share_takes_from_training_alone(corpus, cache):
    before, after = run(config(corpus), cache), run(config(corpus, test_share=0.1), cache)
    assert len(before.test.ids) == 0 and 15 <= after.test.n_documents <= 45
    assert decoded(after, "validation") == decoded(before, "validation")
    assert decoded(after, "judge") == decoded(before, "judge")
    assert sorted(decoded(after, "train") + decoded(after, "test")) == sorted(decoded(before, "train"))


def test_a_test_text_is_held_out_as_given(corpus, cache, tmp_path):
    held_out, test = texts(40, seed=9), texts(30, seed=8)
    fields = {"validation": write(tmp_path / "v.jsonl", held_out), "test": write(tmp_path / "t.jsonl", test)}
    data = run(config(corpus, **fields), cache)
    assert (decoded(data, "validation"), decoded(data, "test")) == (held_out, test)
    tuned = run(config(corpus, **fields, tune=write(tmp_path / "tune.jsonl", texts(20, seed=7))), cache)
    assert decoded(tuned, "tune") == texts(20, seed=7) and tuned.fingerprint != data.fingerprint
    assert (decoded(tuned, "test"), decoded(tuned, "train")) == (test, decoded(data, "train"))
    write(tmp_path / "t.jsonl", [*test, held_out[3]])
    with pytest.raises(DataError) as caught:
        run(config(corpus, **fields), cache)
    assert str(caught.value) == (
        f"{fields['test']}:31: the same document is held out in data.validation, at {fields['validation']}:4; "
        "remove one of them or set data.on_bad_input: skip"
    )
    write(tmp_path / "t.jsonl", [*test, texts(300)[7]])
    with pytest.raises(
        DataError, match=r"corpus\.jsonl:8: the same document is held out in data.test, at .*t.jsonl:31"
    ):
        run(config(corpus, **fields), cache)


def test_a_test_text_must_fill_a_sequence(corpus, cache, tmp_path):
    with pytest.raises(DataError, match=r"the test text has .* tokens in 1 documents, fewer than one sequence"):
        run(config(corpus, test=write(tmp_path / "t.jsonl", ["a"])), cache)


def test_a_text_has_the_same_fingerprint_whatever_the_tokenizer(corpus, cache):
    few, many = run(config(corpus), cache), run(config(corpus, vocab_size=320), cache)
    for split in ("train", "validation", "judge"):
        assert getattr(few, split).fingerprint == getattr(many, split).fingerprint
    assert len({getattr(few, split).fingerprint for split in SPLITS}) == 4


def test_a_split_leaves_the_fingerprint_of_other_data_alone(corpus, cache):
    """Or no run from before there was a test split could be repeated."""
    expected = "f1aaf35b57d3da4c3a0b1ab7c8e0b3e663798d9e7b793ea4eddbd0919d484080"
    assert run(config(corpus), cache).fingerprint == expected


def test_a_document_in_training_and_validation(corpus, cache, tmp_path, caplog):
    validation = write(tmp_path / "v.jsonl", [*texts(40, seed=9), texts(300)[7]])
    with pytest.raises(DataError) as caught:
        run(config(corpus, validation=validation), cache)
    assert str(caught.value) == (
        f"{corpus}:8: the same document is held out in data.validation, at {validation}:41; "
        "remove one of them or set data.on_bad_input: skip"
    )
    assert folders(cache) == []
    data = run(config(corpus, validation=validation, on_bad_input="skip"), cache)
    assert data.counts["dropped/held out"] == 1
    assert "left out of the text: 1 held out" in caplog.text
    assert texts(300)[7] in decoded(data, "validation")
    assert texts(300)[7] not in decoded(data, "train") + decoded(data, "judge")


def test_max_bytes(corpus, cache):
    data = run(config(corpus, max_bytes="20k"), cache)
    n_bytes = sum(getattr(data, split).n_bytes for split in SPLITS)
    assert 19_000 < n_bytes <= 20_000


def test_skipped_input_is_counted_each_time(corpus, cache, tmp_path, caplog):
    path = Path(corpus)
    path.write_bytes(path.read_bytes() + b'{"text": 3}\n{\n')
    names = [corpus, str(tmp_path / "missing.jsonl")]
    for _ in range(2):
        caplog.clear()
        data = run(config(names, on_bad_input="skip"), cache)
        assert {name: n for name, n in data.counts.items() if name.startswith("dropped/")} == {
            "dropped/no such file": 1,
            "dropped/not JSON": 1,
            "dropped/not a string": 1,
        }
        assert "left out of the text: 1 not JSON, 1 not a string, 1 no such file" in caplog.text
    with pytest.raises(DataError, match=r"corpus.jsonl:301: field 'text' is int"):
        run(config(corpus), cache)


def test_a_given_tokenizer(corpus, cache, tmp_path):
    first = run(config(corpus), cache)
    given = shutil.copy(first.tokenizer, tmp_path / "given.json")
    data = run(config(corpus, tokenizer=str(given)), cache)
    assert data.tokenizer_fingerprint == first.tokenizer_fingerprint and data.fingerprint != first.fingerprint
    assert np.array_equal(data.train.ids, first.train.ids)
    with pytest.raises(DataError, match=r"given.json: the tokenizer has 300 entries, not 400"):
        run(config(corpus, tokenizer=str(given), vocab_size=400), cache)


def test_wide_tokens(corpus, cache, tmp_path):
    tokenizer = Tokenizer.from_file(str(run(config(corpus), cache).tokenizer))
    tokenizer.add_tokens([f"<{n}>" for n in range(65537 - 300)])
    tokenizer.save(str(tmp_path / "wide.json"))
    data = run(config(corpus, tokenizer=str(tmp_path / "wide.json"), vocab_size=65537), cache)
    assert data.train.ids.dtype == np.uint32
    assert sorted(decoded(data, "judge")) == sorted(decoded(run(config(corpus), cache), "judge"))


def test_the_cache_is_used_again(corpus, cache, monkeypatch):
    first = run(config(corpus), cache)
    monkeypatch.setattr("memlm.data.prepare._build", None)
    again = run(config(corpus, seq_len=16), cache)
    assert again.fingerprint == first.fingerprint and again.counts == first.counts
    assert np.array_equal(again.train.ids, first.train.ids)
    copied = shutil.copy(corpus, Path(corpus).with_name("copied.jsonl"))
    assert run(config(str(copied)), cache).fingerprint == first.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"vocab_size": 301},
        {"validation_share": 0.1},
        {"judge_share": 0.1},
        {"tune_share": 0.1},
        {"max_bytes": 30_000},
        {"on_bad_input": "skip"},
    ],
)
def test_a_setting_that_changes_tokens_changes_the_fingerprint(corpus, cache, change):
    assert run(config(corpus, **change), cache).fingerprint != run(config(corpus), cache).fingerprint
    assert len(folders(cache)) == 2


def test_changed_text_changes_the_fingerprint(corpus, cache):
    first = run(config(corpus), cache)
    write(Path(corpus), texts(301))
    assert run(config(corpus), cache).fingerprint != first.fingerprint


def damage_nothing_left(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def flip_last_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 128]))


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new))


DAMAGES = {
    "missing bin": lambda folder: (folder / "train.bin").unlink(),
    "truncated bin": lambda folder: (folder / "judge.bin").write_bytes((folder / "judge.bin").read_bytes()[:-1]),
    "flipped bit in a bin": lambda folder: flip_last_bit(folder / "train.bin"),
    "changed count": lambda folder: replace(folder / "summary.json", '"train/documents": ', '"train/documents": 1'),
    "summary of an older version": lambda folder: replace(folder / "summary.json", '"seal"', '"seals"'),
    "endless summary": lambda folder: (folder / "summary.json").write_text("[" * 100_000),
    "broken summary": lambda folder: (folder / "summary.json").write_text('{"counts": '),
    "odd summary": lambda folder: (folder / "summary.json").write_text("[]"),
    "changed tokenizer": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "empty": damage_nothing_left,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(corpus, cache, damage, caplog):
    first = run(config(corpus), cache)
    ids = first.train.ids.copy()
    DAMAGES[damage](first.tokenizer.parent)
    caplog.set_level(logging.INFO)
    caplog.clear()
    again = run(config(corpus), cache)
    assert np.array_equal(again.train.ids, ids)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"the tokens in {first.tokenizer.parent} are damaged (" in caplog.text
    assert folders(cache) == [first.tokenizer.parent.name]


def test_a_faster_process_wins(corpus, cache, monkeypatch):
    first = run(config(corpus), cache)
    mark = first.tokenizer.parent / "mark"
    mark.touch()
    calls = []

    def load(folder):
        calls.append(folder)
        return None if len(calls) == 1 else cache_module.load(folder)

    monkeypatch.setattr("memlm.data.prepare.load", load)
    assert run(config(corpus), cache).counts == first.counts
    assert mark.exists() and folders(cache) == [first.tokenizer.parent.name]


CODE = """
import sys
from pathlib import Path
from memlm.config.data import DataConfig
from memlm.data.prepare import prepare
data = prepare(DataConfig(corpus=sys.argv[1], vocab_size=300, seq_len=8), Path(sys.argv[2]))
print(data.fingerprint, data.train.ids.astype("i8").sum(), "torch" in sys.modules)
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_two_processes_at_once(corpus, cache, damaged):
    if damaged:
        (run(config(corpus), cache).tokenizer.parent / "train.bin").unlink()
    command = [sys.executable, "-c", CODE, corpus, str(cache)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(outputs) == 1 and outputs.pop().endswith(" False\n")
    assert len(folders(cache)) == 1


def test_an_interrupted_build_leaves_nothing(corpus, cache, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("memlm.data.prepare.write_summary", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(config(corpus), cache)
    assert folders(cache) == []


def test_a_cache_that_cannot_be_written(corpus, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data-\w+: cannot be written \(Not a directory\); set MEMLM_CACHE to another"):
        run(config(corpus), tmp_path / "file")


def test_a_cache_that_cannot_be_read_back(corpus, cache, monkeypatch):
    monkeypatch.setattr("memlm.data.prepare.load", lambda _: None)
    with pytest.raises(DataError, match=r"data-\w+: cannot be read back; set MEMLM_CACHE to another folder"):
        run(config(corpus), cache)


def test_too_few_tokens_even_from_the_cache(corpus, cache, tmp_path):
    for _ in range(2):
        with pytest.raises(DataError, match=r"^the training text has \d+ tokens in \d+ documents, fewer than one seq"):
            run(config(corpus, seq_len=100_000), cache)
    validation = write(tmp_path / "v.jsonl", ["short"])
    with pytest.raises(DataError) as caught:
        run(config(corpus, validation=validation, seq_len=64), cache)
    assert str(caught.value).startswith("the validation text has ")
    assert str(caught.value).endswith(
        "tokens in 1 documents, fewer than one sequence of data.seq_len + 1 = 65; "
        "give more text or set a smaller data.seq_len"
    )


def test_an_empty_judge_is_no_error(corpus, cache):
    data = run(config(corpus, judge_share=1e-9), cache)
    assert len(data.judge.ids) == data.judge.n_documents == 0


def test_progress_goes_to_stderr_only(corpus, cache, capfd):
    prepare(config(corpus), cache)
    assert capfd.readouterr().out == ""


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MEMLM_CACHE", str(tmp_path))
    assert default_cache() == tmp_path
    monkeypatch.delenv("MEMLM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "memlm"


def test_the_tune_split_takes_from_the_training_text_alone(corpus, cache):
    with_split, without = run(config(corpus, tune_share=0.1), cache), run(config(corpus), cache)
    for split in ("validation", "judge"):
        assert sorted(decoded(with_split, split)) == sorted(decoded(without, split))
    assert 15 <= with_split.tune.n_documents <= 45 and not len(without.tune.ids)
    together = decoded(with_split, "train") + decoded(with_split, "tune")
    assert sorted(together) == sorted(decoded(without, "train"))


def test_split_shares():
    settings = config("a", judge_share=0.2, validation_share=0.1, tune_share=0.05)
    splits = [split_of(text_hash(str(n)), settings) for n in range(10_000)]
    assert splits.count("tune") == pytest.approx(500, abs=100)
    assert splits.count("judge") == pytest.approx(2000, abs=150)
    assert splits.count("validation") == pytest.approx(1000, abs=120)
