"""The traffic that docs/scaling.md tells is the one that is counted."""

import re
from pathlib import Path

import pytest

from memlm.train.traffic import Reading, columns, rows, whole

TEXT = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
LINE = re.compile(r"^\| (the whole bank|rows|columns), (\w+) \| ([\d.]+) \| ([\d.]+) \|$", flags=re.M)
WAYS = {"the whole bank": whole, "rows": rows, "columns": columns}


def told():
    return [(way, fusion, float(eight), float(many)) for way, fusion, eight, many in LINE.findall(TEXT)]


def test_every_way_is_told():
    assert {(way, fusion) for way, fusion, *_ in told()} == {(way, f) for way in WAYS for f in ("summed", "gathered")}


@pytest.mark.parametrize(("way", "fusion", "eight", "many"), told())
def test_the_numbers_are_those_of_the_formulas(way, fusion, eight, many):
    reading = Reading(16_384, 2, 32, 1 << 20, 512, fusion == "summed", result_bytes=2)
    assert WAYS[way](reading, 8) / 1e6 == pytest.approx(eight, abs=0.5)
    assert WAYS[way](reading, 64) / 1e6 == pytest.approx(many, abs=0.5)
