"""A bank filled from a database: what is read, where it goes, what is found again, and what is refused."""

import json
import random
import time

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

import memlm.cli.fill
import memlm.fill.filling
import memlm.fill.keys
import memlm.fill.progress
from memlm.cli.main import app
from memlm.data.prepare import prepare
from memlm.data.tokenizer import load_tokenizer
from memlm.errors import ConfigError, DataError
from memlm.experiment.config import load_experiment
from memlm.experiment.models import new_model
from memlm.fill import cells, progress
from memlm.fill.cells import Grid, clustered
from memlm.fill.database import read_database
from memlm.fill.embedding import unit
from memlm.fill.filling import components, filled
from memlm.fill.keys import learned_keys
from memlm.fill.progress import told
from memlm.memory.product_key import ProductKeyConfig
from tests.conftest import SYLLABLES

BANK = "bank: {type: tokens, entry_length: 6, learned_share: 0.5, database: DATABASE}"
DRAW = random.Random(0)
FACTS = [tuple("".join(DRAW.choices(SYLLABLES, k=4)) for _ in range(2)) for _ in range(96)]


def sentence(fact):
    return "The capital of {} is {}.".format(*fact)


def paraphrase(fact):
    return "{1} is where the rulers of {0} live".format(*fact)


@pytest.fixture
def database(tmp_path):
    def write(content, name="facts.jsonl"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def lines(values):
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": " one ", "x": 1}\n\n"two"\n{"text": "one"}\n""\n{"text": "  "}\n'),
        ("a.json", '[{"text": "one"}, "two", "two", "", {"text": " "}]'),
        ("b.json", b"\xef\xbb\xbf" + b'["one", "two", "one", "", ""]'),
    ],
)
def test_a_database_is_sentences_each_once(database, name, content):
    found = read_database(database(content, name))
    assert (found.texts, found.duplicates, found.empty) == (["one", "two"], 1, 2)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.jsonl", b'"one"\n"\xff"\n', "a.jsonl:2: is not UTF-8 (byte 1); save the file as UTF-8"),
        ("a.jsonl", '"one"\n{"text": \n', "a.jsonl:2: is not JSON (Expecting value, column "),
        ("a.jsonl", '{"sentence": "x"}', "a.jsonl:1: is no sentence; give a string, or an object with a string in its"),
        ("a.json", "[3]", "a.json: item 1: is no sentence; give a string, or an object with a string in its field"),
        ("a.json", "{}", "a.json: is a JSON dict, not a list; give a list of sentences"),
        ("a.jsonl", r'"\ud800"', "a.jsonl:1: has half of a surrogate pair, which UTF-8 cannot hold; mend it"),
        ("a.jsonl", '""\n', "a.jsonl: holds no sentence; give JSON Lines with a field text"),
    ],
)
def test_what_is_no_database_is_told_with_its_place(database, name, content, text):
    with pytest.raises(DataError) as error:
        read_database(database(content, name))
    assert text in str(error.value)


def test_a_missing_database_is_told():
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        read_database("nowhere")


@pytest.mark.parametrize(("n_entries", "n_cells", "n_columns"), [(50, 50, 8), (30, 50, 8), (64, 64, 8), (3, 5, 4)])
def test_no_two_entries_share_a_cell(n_entries, n_cells, n_columns):
    draw = np.random.default_rng(0)
    halves = tuple(draw.normal(size=(n_entries, 6)).astype(np.float32) for _ in range(2))
    rows, columns = clustered(halves, Grid(n_cells, n_columns))
    slots = rows * n_columns + columns
    assert len(set(slots.tolist())) == n_entries
    assert slots.min() >= 0 and slots.max() < n_cells and columns.max() < n_columns


def test_paraphrases_are_found_and_the_cache_gives_the_same(database, monkeypatch):
    read = read_database(database(lines(map(sentence, FACTS))))
    grid = Grid(len(FACTS), 10)
    first = filled(read, grid, 64)
    slots = dict(zip(read.texts, first.slots.tolist(), strict=True))
    assert first.share_found([(sentence(fact), slots[sentence(fact)]) for fact in FACTS]) == 1
    assert first.share_found([(paraphrase(fact), slots[sentence(fact)]) for fact in FACTS]) > 0.5  # by chance: 0.08
    wrong = [(sentence(fact), (slots[sentence(fact)] + 37) % len(FACTS)) for fact in FACTS]
    assert first.share_found(wrong) < 0.4
    assert first.share_found([]) == 0
    monkeypatch.setattr(memlm.fill.filling, "learned_keys", None)
    again = filled(read, grid, 64)
    assert torch.equal(again.slots, first.slots) and torch.equal(again.row_keys, first.row_keys)


def test_a_filling_that_is_cut_off_while_it_is_written_leaves_nothing(database, monkeypatch):
    monkeypatch.setattr(memlm.fill.keys, "STEPS", 2)
    read = read_database(database(lines(["a b", "c d", "e f"])))

    def half_written(_, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    def kept():
        return set(memlm.fill.filling.default_cache().glob("fillings/*"))

    before = kept()
    with monkeypatch.context() as cut, pytest.raises(KeyboardInterrupt):
        cut.setattr(memlm.fill.filling, "save_file", half_written)
        filled(read, Grid(4, 2), 8)
    assert kept() == before
    whole = filled(read, Grid(4, 2), 8)
    monkeypatch.setattr(memlm.fill.filling, "learned_keys", None)
    assert torch.equal(filled(read, Grid(4, 2), 8).slots, whole.slots)


def test_queries_see_components_beyond_their_width_from_the_start(monkeypatch):
    monkeypatch.setattr(memlm.fill.keys, "STEPS", 0)
    draw = np.random.default_rng(0)
    strong, weak = np.zeros((64, 16)), draw.normal(size=(64, 48))  # only the weaker components tell entries apart
    vectors = unit(np.hstack([strong, weak]).astype(np.float32))
    slots, queries, keys = learned_keys(vectors, Grid(64, 8), 16)
    rows, columns = (
        (F.normalize(torch.from_numpy(half), dim=1) @ F.normalize(key, dim=1).T).argmax(1).numpy()
        for half, key in zip(np.split(vectors @ queries, 2, axis=1), keys, strict=True)
    )
    assert (slots == rows * 8 + columns).mean() > 0.5  # by chance: 1 of 64


@pytest.mark.parametrize(
    ("n_texts", "d_key", "width"),
    [(50, 8, 2048), (1 << 19, 512, 2048), ((1 << 19) + 1, 512, 1024), (1_000_000, 1024, 2048)],
)
def test_many_sentences_have_fewer_components_but_enough_for_their_queries(n_texts, d_key, width):
    assert components(n_texts, d_key) == width


def test_progress_is_told_with_what_is_left(monkeypatch, caplog):
    now = iter([0.0, 4.0, 12.0, 13.0, 30.0])
    monkeypatch.setattr(memlm.fill.progress.time, "monotonic", lambda: next(now))
    assert list(told("placing entries", "abcd", 4)) == list("abcd")
    assert caplog.messages == ["filling the bank, placing entries: 2 of 4, about 12 s left"]


def test_what_has_no_steps_tells_how_long_it_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(progress, "EVERY_S", 0.01)
    with pytest.raises(ZeroDivisionError), progress.waited("finding components"):
        while not caplog.messages:
            time.sleep(0.01)
        raise ZeroDivisionError
    assert caplog.messages[0] == "filling the bank, finding components: for 0 s so far"
    n_told = len(caplog.messages)
    time.sleep(0.1)
    assert len(caplog.messages) == n_told, "it is over, also after an error"


def test_where_all_want_one_row_the_others_take_what_it_has_no_cell_for():
    vectors = np.ones((9, 2), np.float32)
    vectors[4:] = [1, 0.9]
    rows = cells._within_capacity(vectors, np.array([[1, 1], [1, 0], [0, 1]], np.float32), [4, 3, 3])
    assert rows.tolist() == [0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_a_damaged_cache_is_made_again(database, monkeypatch, caplog):
    monkeypatch.setattr(memlm.fill.keys, "STEPS", 2)
    read = read_database(database(lines(["a b", "c d"])))
    first = filled(read, Grid(4, 2), 8)
    newest = max(memlm.fill.filling.default_cache().glob("fillings/*/*"), key=lambda p: p.stat().st_mtime_ns)
    newest.write_bytes(b"x")
    assert torch.equal(filled(read, Grid(4, 2), 8).slots, first.slots)
    assert "is damaged" in caplog.text


def test_more_sentences_than_slots_are_refused(database):
    with pytest.raises(DataError, match="has 3 sentences and the bank 2 slots for entries; raise n_keys, lower"):
        filled(read_database(database('"a"\n"b"\n"c"\n')), Grid(2, 2), 8)


@pytest.fixture
def experiment(experiment_yaml, database):
    def load(content, memory="type: product_key, n_keys: 8, d_key: 16, d_value: 16, top_k: 3, n_heads: 2"):
        text = experiment_yaml.read_text(encoding="utf-8")
        bank = BANK.replace("DATABASE", str(database(content)))
        variant = f"  readable: {{memory: {{{memory}, {bank}}}, fusion: {{type: gated_mlp}}}}\n"
        experiment_yaml.write_text(text.replace("seeds:", variant + "seeds:"), encoding="utf-8")
        return load_experiment(experiment_yaml)

    return load


def test_a_new_model_has_the_sentences_as_entries_and_their_keys(experiment, monkeypatch, caplog):
    monkeypatch.setattr(memlm.fill.keys, "STEPS", 5)
    texts = ["ka lo mi", "ten ur", "ka", "sha bel dor ix pa ru vel on ta ge ka lo mi ten"]
    config = experiment(lines([*texts, "ka", ""]))
    tokenizer = load_tokenizer(prepare(config.data, progress=False).tokenizer, config.data.vocab_size)
    torch.manual_seed(0)
    model = new_model(config, "readable", tokenizer)
    bank = model.decoder.banks[0]
    held = [tokenizer.decode(bank.entry(slot)) for slot in range(bank.n_entries) if bank.entry(slot)]
    assert len(held) == 4 and set(texts[:3]) < set(held)
    (long,) = set(held) - set(texts)
    assert texts[3].startswith(long) and long
    assert "4 entries in 32 slots, 1 cut to 6 tokens; 1 duplicates and 1 empty ones left out" in caplog.text
    torch.manual_seed(0)
    drawn = ProductKeyConfig.model_validate({"type": "product_key", "n_keys": 8, "d_key": 16}).build(32).keys
    for block in model.decoder.blocks:
        keys = block.memory.keys.detach()
        assert torch.equal(keys[0, :, :4], keys[1, :, :4]), "all heads begin with the same keys, in the rows of entries"
        assert not torch.equal(keys[0, 0, 4:], keys[1, 0, 4:]), "the others as they were drawn"
        assert torch.equal(keys[0, 1], model.decoder.blocks[0].memory.keys[0, 1]), "and all layers"
        torch.testing.assert_close(keys[0, 1].norm(dim=1), torch.full((8,), 3**-0.5))
    assert abs(drawn.norm(dim=-1).mean() - 3**-0.5) < 0.1, "as long as those that are drawn"


def test_a_memory_without_product_keys_takes_no_database(experiment):
    with pytest.raises(ConfigError, match="needs a memory with product keys, which lead to the entries"):
        experiment('"a"\n', "type: ngram_hash, n_rows: 23")


def test_the_command_tells_what_is_found(database, monkeypatch):
    monkeypatch.setattr(memlm.fill.keys, "STEPS", 60)
    facts = FACTS[:40]
    pairs = [{"text": sentence(fact), "paraphrase": paraphrase(fact)} for fact in facts]
    arguments = ["fill", str(database(lines(map(sentence, facts)))), "--n-keys", "8", "--d-key", "32"]
    shown = CliRunner().invoke(app, [*arguments, "--paraphrases", str(database(lines(pairs), "pairs.jsonl"))]).stdout
    assert "40 entries in 48 slots; left out: 0 duplicates, 0 empty" in shown
    assert "found among the best 8 by its own text: 100.0%\n" in shown and "by one of 40 paraphrases: " in shown
    monkeypatch.setattr(memlm.cli.fill, "MOST_ASKED", 12)
    assert "by its own text: 100.0% (of 10 asked)\n" in CliRunner().invoke(app, arguments).stdout
    for content, text in (
        ("[]\n", "wrong.jsonl:1: is no object with text and paraphrase; mend it"),
        (json.dumps(pairs[0] | {"paraphrase": "\ud800"}), "wrong.jsonl:1: has half of a surrogate pair, which UTF-8"),
        (lines([pairs[0] | {"paraphrase": "a\u2028b\x85c"}]) + "\n[]", "wrong.jsonl:3: is no object with text and"),
    ):
        wrong = CliRunner().invoke(app, [*arguments, "--paraphrases", str(database(content, "wrong.jsonl"))]).exception
        assert isinstance(wrong, DataError) and text in str(wrong)


def test_an_odd_width_is_refused(database):
    done = CliRunner().invoke(app, ["fill", str(database('"a"\n')), "--d-key", "3"])
    assert done.exit_code == 2 and "must be even" in done.output
