"""The README in Chinese says what the one in English says: the same commands, links and figures."""

import re
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from memlm.config.checks import Check

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
BLOCK = re.compile(r"^```.*?^```$|^(?:    [^\n]*\n)+", flags=re.M | re.S)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def commands(name):
    """Lines of the blocks without their comments; of the tree, which is a block without a language, the names."""
    lines = []
    for block in BLOCK.findall(read(name)):
        is_tree = block.startswith("```\n")
        lines += [re.split(r"\s{2,}" if is_tree else r"\s+#", line.strip())[0] for line in block.splitlines()]
    return [line for line in lines if not is_continued(line)]


def is_continued(line):
    """Whether a line of the tree goes on with the description of the line before."""
    return re.match(r"[a-z_]+[,、]", line) is not None


def links(name):
    return Counter(re.findall(r"\]\(([^)]+)\)", read(name))) - Counter([ENGLISH, CHINESE])


def figures(name):
    prose = BLOCK.sub("", read(name))
    return Counter(re.findall(r"\d+\.\d+", prose))


@pytest.mark.parametrize("told", [commands, links, figures])
def test_the_chinese_readme_follows_the_english_one(told):
    assert told(CHINESE) == told(ENGLISH), f"{CHINESE} tells other {told.__name__} than {ENGLISH}: change both"


def test_commands_links_and_figures_are_found():
    assert {"make demo", "memlm doctor", "Makefile", "memory/ fusion/"} <= set(commands(ENGLISH))
    assert links(ENGLISH)["docs/export.md"] >= 1 and figures(ENGLISH)


def test_the_checks_of_the_preflight_are_counted():
    n_checks = len(get_args(Check))
    assert f"{n_checks} checks" in read(ENGLISH) and f"{n_checks} 项检查" in read(CHINESE)


def test_each_readme_links_to_the_other():
    assert f"]({CHINESE})" in read(ENGLISH) and f"]({ENGLISH})" in read(CHINESE)
