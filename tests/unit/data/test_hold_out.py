"""Works that experiments/hold_out.py holds out: whole, about its share, and never the same in two draws; its files."""

import gzip
import importlib.util
import json
import lzma
from pathlib import Path

import pytest

from tests.told import one_line

SCRIPT = Path(__file__).parents[3] / "experiments" / "hold_out.py"


@pytest.fixture(scope="module")
def hold_out():
    spec = importlib.util.spec_from_file_location("hold_out", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_chapters_of_a_book_are_one_work(hold_out):
    chapters = [f"standardebooks/jane-austen_emma:src/epub/text/chapter-{n}.xhtml" for n in (1, 2)]
    assert len({hold_out.work_of(chapter) for chapter in chapters}) == 1


def test_each_draw_holds_out_its_share_and_none_what_another_holds_out(hold_out):
    works = [f"owner/repository:file-{n}" for n in range(20_000)]
    draws = [{work for work in works if hold_out.is_held_out(work, draw)} for draw in range(3)]
    assert all(len(held) == pytest.approx(hold_out.SHARE * len(works), rel=0.1) for held in draws)
    assert not draws[0] & draws[1] and not draws[1] & draws[2] and not draws[0] & draws[2]


def write_parts(folder, opened=open, suffix=""):
    """Writes two files of 300 lines in all, without an end of their last lines; returns the pattern and the lines."""
    lines = [json.dumps({"text": f"page {n} 页", "source": f"owner/repository:file-{n}"}).encode() for n in range(300)]
    for n, part in enumerate((lines[:150], lines[150:])):
        with opened(folder / f"part-{n}.jsonl{suffix}", "wb") as file:
            file.write(b"\n".join(part))
    return str(folder / "part-*"), lines


@pytest.mark.parametrize(("opened", "suffix"), [(open, ""), (lzma.open, ".xz"), (gzip.open, ".gz")])
def test_every_line_of_every_file_is_in_one_of_the_two_texts(hold_out, tmp_path, capsys, opened, suffix):
    pattern, lines = write_parts(tmp_path, opened, suffix)
    hold_out.main(pattern, tmp_path / "works", 1)
    test, train = ((tmp_path / "works" / f"{name}.jsonl").read_bytes() for name in ("test", "train"))
    held = [line for line in lines if hold_out.is_held_out(json.loads(line)["source"], 1)]
    assert 0 < len(held) < 30
    assert test == b"".join(line + b"\n" for line in held)
    assert train == b"".join(line + b"\n" for line in lines if line not in held)
    told = [f"{tmp_path}/works/{name}.jsonl: {len(text):,} bytes" for name, text in (("test", test), ("train", train))]
    assert capsys.readouterr().out.splitlines() == told


@pytest.mark.parametrize(
    ("name", "draw", "told"),
    [
        ("gone-*", 0, "error: there is no file "),
        ("part-*", 34, "error: draw 34 holds nothing out; the draws are 0 to 33"),
        ("part-*", -1, "error: draw -1 holds nothing out; the draws are 0 to 33"),
    ],
)
def test_what_gives_no_texts_is_one_line_and_leaves_the_folder_alone(hold_out, tmp_path, name, draw, told):
    write_parts(tmp_path)
    before = tmp_path / "works" / "train.jsonl"
    before.parent.mkdir()
    before.write_text("as it was")
    with pytest.raises(SystemExit) as ended:
        hold_out.main(str(tmp_path / name), before.parent, draw)
    assert one_line(ended.value).startswith(told)
    assert before.read_text() == "as it was" and list(before.parent.iterdir()) == [before]


def test_the_last_draw_holds_out_what_is_left(hold_out):
    works = [f"owner/repository:file-{n}" for n in range(20_000)]
    held = [work for work in works if hold_out.is_held_out(work, 33)]
    assert len(held) == pytest.approx(0.01 * len(works), rel=0.2)
