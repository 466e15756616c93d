"""The prose that every CPython ships: pydoc's topics, and the docstrings of the standard library.

Sources are parsed, never imported, so that nothing runs and nothing depends on what is installed.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from memlm.data.source import Document
from memlm.errors import DataError

LEFT_OUT = {"test", "tests", "idlelib", "lib2to3", "turtledemo", "pydoc_data", "_bundled"}


def python_docs() -> Iterator[Document]:
    """Yields a document for each topic and each module, in the order of their names.

    Raises:
        DataError: this Python came without the sources of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    topics = root / "pydoc_data" / "topics.py"
    modules = sorted(path for path in root.rglob("*.py") if _is_module(path.relative_to(root)))
    if not topics.exists() or not modules:
        raise DataError("python-docs: this Python came without its library's sources; set data.corpus to other text")
    for name, text in sorted(_topics(topics).items()):
        yield Document(text, f"python-docs:topic {name}")
    for path in modules:
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        text = _module_text(name, path)
        if text:
            yield Document(text, f"python-docs:{name}")


def _is_module(path: Path) -> bool:
    """Whether it can be imported by name; ``site-packages`` and its like cannot."""
    return all(part.isidentifier() and part not in LEFT_OUT for part in path.with_suffix("").parts)


def _topics(path: Path) -> dict[str, str]:
    for node in _parsed(path).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and target.id == "topics" and value is not None:
            return ast.literal_eval(value)
    raise DataError(f"{path}: defines no topics; set data.corpus to other text")


def _module_text(name: str, path: Path) -> str:
    tree = _parsed(path)
    sections = [(name, ast.get_docstring(tree)), *_docstrings(tree, name)]
    return "\n\n".join(f"{heading}\n\n{text.strip()}" for heading, text in sections if text and text.strip())


def _docstrings(node: ast.AST, name: str) -> Iterator[tuple[str, str | None]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner = f"{name}.{child.name}"
            yield inner, ast.get_docstring(child)
            yield from _docstrings(child, inner)
        elif not isinstance(child, ast.expr):  # expressions hold no definitions, and most of the nodes
            yield from _docstrings(child, name)


def _parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in other people's strings
        return ast.parse(path.read_bytes())
