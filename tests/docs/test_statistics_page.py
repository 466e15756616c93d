"""The example in docs/statistics.md prints what the page says, and the page's numbers are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from memlm.evaluate.bootstrap import RESAMPLES
from memlm.evaluate.claims import parse_claim
from memlm.evaluate.statistics import POWER

PAGE = (Path(__file__).parents[2] / "docs" / "statistics.md").read_text(encoding="utf-8")


def test_the_example_prints_what_the_page_says():
    code, told = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", PAGE, flags=re.S).groups()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == told
    assert "supported" in told and "inconclusive" in told


def test_the_table_of_the_example_is_what_it_computes():
    rows = dict(re.findall(r"^\| (dense|memory|sum|gate) \|(.*)\|$", PAGE, flags=re.M))
    assert len(rows) == 4
    for cells in rows.values():
        assert ", ".join(cell.strip() for cell in cells.split("|")) in PAGE


def test_every_claim_on_the_page_can_be_read():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.S)
    claims = [hypothesis["claim"] for hypothesis in yaml.safe_load(text)["hypotheses"]]
    claims += re.findall(r"`([|a-d -]+ [<>] [|a-d -]+)`", PAGE)
    assert len(claims) >= 6
    for claim in claims:
        parse_claim(claim)


def test_the_numbers_are_those_of_the_code():
    assert f"bootstrap, {RESAMPLES:,} times" in PAGE
    assert f"power {POWER:g}" in PAGE
