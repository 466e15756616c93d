"""Works that experiments/hold_out.py holds out: whole, about its share, and never the same in two draws."""

import importlib.util
from pathlib import Path

import pytest

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
