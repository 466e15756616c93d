"""Every error text in the source of the configuration is found in a test, so that a new one cannot come untested."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "memlm"
SOURCES = [
    *sorted((SOURCE / "config").glob("*.py")),
    *sorted((SOURCE / "memory").glob("*.py")),
    *sorted((SOURCE / "fusion").glob("*.py")),
    SOURCE / "registry.py",
    SOURCE / "model" / "config.py",
    SOURCE / "experiment" / "config.py",
]
TESTS = {*Path(__file__).parent.glob("t*.py"), ROOT / "tests" / "unit" / "test_registry.py"} - {Path(__file__)}


def constants(node):
    """Texts in a node, the parts of an f-string one by one."""
    texts = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return [text.strip() for text in texts if " " in text.strip()]


def called(node):
    return getattr(node.func, "id", getattr(node.func, "attr", ""))


def error_texts(path):
    """Texts that are raised, yielded as reasons, made into problems, or kept in `reason` or `hint` on their way."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and called(node) in ("problem", "Problem", "either", "MarkedYAMLError")
        ):
            yield from constants(node)
        elif isinstance(node, ast.Yield) and isinstance(node.value, ast.Tuple):
            yield from constants(node.value.elts[-1])
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("reason", "hint"):
            yield from constants(node.value)
        elif isinstance(node, ast.FunctionDef) and node.name == "unknown":
            yield from (text for n in ast.walk(node) if isinstance(n, ast.Return) for text in constants(n))


@pytest.fixture(scope="module")
def tested():
    nodes = (ast.walk(ast.parse(path.read_text(encoding="utf-8"))) for path in sorted(TESTS))
    return "\n".join(
        n.value for tree in nodes for n in tree if isinstance(n, ast.Constant) and isinstance(n.value, str)
    )


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_error_text_has_a_test(path, tested):
    assert [text for text in error_texts(path) if text not in tested] == []


def test_the_walk_finds_what_there_is():
    found = {text for path in SOURCES for text in error_texts(path)}
    assert len(found) >= 55
    assert {"has a base itself; one level is all there is", "names no text", "must be a whole number"} <= found
