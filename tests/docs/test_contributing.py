"""What CONTRIBUTING.md says of the size of things holds for the source."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULE = re.compile(r"Files stay under (\d+) lines, functions under (\d+)\.")
FILES = sorted((ROOT / "src").rglob("*.py"))


def long_parts(text, name, most_lines, most_of_a_function):
    """Yields the file if it is too long, and each function in it that is, decorators left out."""
    n_lines = len(text.splitlines())
    if n_lines >= most_lines:
        yield f"{name}: {n_lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = node.end_lineno - node.lineno + 1
            if n_lines >= most_of_a_function:
                yield f"{name}, {node.name}: {n_lines} lines"


def test_files_and_functions_are_as_short_as_is_promised():
    limits = [int(n) for n in RULE.search((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")).groups()]
    assert len(FILES) >= 200
    found = [
        part
        for path in FILES
        for part in long_parts(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)), *limits)
    ]
    assert found == []


def test_the_count_sees():
    function = "def long():\n" + "    x = 1\n" * 3
    assert list(long_parts(function, "a.py", 4, 4)) == ["a.py: 4 lines", "a.py, long: 4 lines"]
    assert list(long_parts(f"class A:\n    async {function}".replace("    x", "        x"), "a.py", 9, 4)) == [
        "a.py, long: 4 lines"
    ]
    assert list(long_parts(function, "a.py", 5, 5)) == []
