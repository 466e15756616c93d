"""Damaged tokens are made again; a damaged tokenizer.json is refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from memlm.config.data import DataConfig
from memlm.data.prepare import prepare
from memlm.data.tokenizer import END
from memlm.errors import DataError
from tests.fuzz.damage import NOT_JSON, mutations
from tests.fuzz.test_fuzz_corpora import SOUND
from tests.told import one_line

SPLITS = ("train", "validation", "judge")


@pytest.fixture
def corpus(tmp_path) -> Path:
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in SOUND), encoding="utf-8")
    return path


def test_cache(fuzz, corpus, tmp_path):
    config = DataConfig(corpus=str(corpus), vocab_size=280, seq_len=8)
    cache, kept = tmp_path / "cache", tmp_path / "kept"
    first = prepare(config, cache, progress=False)
    expected = {split: np.array(getattr(first, split).ids) for split in SPLITS}
    folder = first.tokenizer.parent
    shutil.copytree(folder, kept)

    def check(damages):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        for damage in damages:
            damage(folder)
        before = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir()) if path.is_file()]
        data = prepare(config, cache, progress=False)
        assert all(np.array_equal(getattr(data, split).ids, ids) for split, ids in expected.items())
        assert (data.counts, data.fingerprint) == (first.counts, first.fingerprint)
        assert [path.name for path in cache.iterdir()] == [folder.name]
        after = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
        return "no matter" if before == after else "made again"

    fuzz("data cache", st.lists(mutations(kept), min_size=1, max_size=1), check, compact=60, torture=3000)


def test_tokenizer_file(fuzz, corpus, tmp_path):
    config = DataConfig(corpus=str(corpus), vocab_size=280, seq_len=8)
    sound = tmp_path / "sound"
    sound.mkdir()
    shutil.copyfile(prepare(config, tmp_path / "cache", progress=False).tokenizer, sound / "tokenizer.json")
    given = tmp_path / "given"
    config = DataConfig(corpus=str(corpus), vocab_size=280, seq_len=8, tokenizer=str(given / "tokenizer.json"))

    def check(damage):
        shutil.rmtree(given, ignore_errors=True)
        shutil.copytree(sound, given)
        damage(given)
        try:
            data = prepare(config, tmp_path / "cache", progress=False)
        except DataError as error:
            one_line(error)
            return "refused"
        assert all(getattr(data, split).ids.max() < 280 for split in SPLITS)
        return "taken"

    mine = st.sampled_from(NOT_JSON).map(
        lambda content: lambda folder: (folder / "tokenizer.json").write_bytes(content)
    )
    renamed = st.sampled_from([END, "added_tokens", "vocab", "model"]).map(
        lambda word: (
            lambda folder: (folder / "tokenizer.json").write_text(
                (sound / "tokenizer.json").read_text().replace(word, "x" + word)
            )
        )
    )
    fuzz("tokenizer.json", st.one_of(mutations(sound), mine, renamed), check, compact=60, torture=3000)
