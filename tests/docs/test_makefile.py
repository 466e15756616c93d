"""The Makefile keeps to what pyproject.toml says."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
DEMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]


def test_the_ends_of_the_range_are_those_of_the_package():
    told = dict(re.findall(r"^(torch|oldest|newest) := (\S+)$", MAKEFILE, flags=re.M))
    (demand,) = [demand for demand in DEMANDS if demand.startswith("transformers")]
    low, high = re.fullmatch(r"transformers>=([\d.]+),(<[\d.]+)", demand).groups()
    assert told["torch"] in DEMANDS
    assert told["oldest"] in {f"transformers=={low}", f"transformers=={low}.0"}
    assert told["newest"] == f"transformers{high}"
