"""The code of a model as flat files that run without memlm, made from memlm's own sources.

transformers loads code from a model folder (``trust_remote_code``) only as files side by side, so
``memlm.memory.base`` becomes ``memory_base.py``. Imports follow, and the Triton kernels stay behind: their plain
references compute the same.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from pathlib import Path

from memlm import __version__
from memlm.config.base import Config
from memlm.errors import RunError

MODELING = "memlm.hf.modeling"
GRAFTED = "memlm.hf.grafted"
NAMES = {
    MODELING: "modeling_memlm",
    "memlm.hf.configuration": "configuration_memlm",
    GRAFTED: "modeling_memlm_grafted",
}
"""What Hugging Face calls these files."""
CLASSES = {MODELING: ("MemlmConfig", "MemlmForCausalLM"), GRAFTED: ("GraftedConfig", "GraftedForCausalLM")}
OPERATIONS = '''\
"""The namespace of this folder's operations in torch: a process may load several folders, and memlm beside them."""

import hashlib

NAMESPACE = "memlm_" + hashlib.sha256(__name__.encode()).hexdigest()[:16]
'''
LEFT_OUT = {"is_fast", "_is_fast", "TYPE_CHECKING"}
"""An ``if`` that asks one of these is dropped: it leads to a Triton kernel, or to what only a type checker reads."""


def auto_map(modeling: str) -> dict[str, str]:
    """Returns what ``config.json`` says of the code of `MODELING` or `GRAFTED`.

    Both classes come from one file: transformers copies what each named file needs, and two copies would define
    operations twice.
    """
    config, model = CLASSES[modeling]
    return {"AutoConfig": f"{NAMES[modeling]}.{config}", "AutoModelForCausalLM": f"{NAMES[modeling]}.{model}"}


def flat_code(config: Config, modeling: str = MODELING) -> dict[str, str]:
    """Returns the files that a model of this configuration needs, by name.

    Args:
        config: Of the model, or of what was grafted.
        modeling: Where its class is, `MODELING` or `GRAFTED`.

    Raises:
        RunError: one of its types is no part of memlm, so its code cannot be exported.
    """
    sources = _sources([modeling, *sorted(_types(config))])
    files = {f"{_flat(name)}.py": _own_operations(text) for name, text in sources.items()} | {
        "operations.py": OPERATIONS
    }
    # Types register themselves when they are imported, and transformers copies only files that such a line names.
    own = f"{NAMES[modeling]}.py"
    others = sorted(name.removesuffix(".py") for name in files if name != own)
    files[own] += "\n" + "".join(f"from .{name} import __name__ as _  # noqa\n" for name in others)
    return files


def _types(config: Config) -> set[str]:
    """Returns the modules of the types that a configuration is made of."""
    found: set[str] = set()
    for name in type(config).model_fields:
        value = getattr(config, name)
        if isinstance(value, Config):
            module = type(value).__module__
            if not module.startswith("memlm."):
                raise RunError(f"{name}.type is defined in {module}, outside of memlm: its code cannot be exported")
            found |= {module} | _types(value)
    return found


def _sources(first: list[str]) -> dict[str, str]:
    """Returns the rewritten source of these modules and of all that they import from memlm, by module."""
    sources: dict[str, str] = {}
    waiting = list(first)
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        spec = importlib.util.find_spec(name)
        assert spec is not None and spec.origin is not None, f"{name} has no source"
        text, imported = _rewritten(Path(spec.origin).read_text(encoding="utf-8"))
        head = f"# {name} of memlm {__version__}, Apache-2.0; written by `memlm export`.\n"
        sources[name] = head + text
        waiting += imported
    return dict(sorted(sources.items()))


def _rewritten(source: str) -> tuple[str, list[str]]:
    """Returns a module's source without fast kernels and with flat imports, and the modules that it imports."""
    lines = source.splitlines(keepends=True)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.If) and _asked(node.test) & LEFT_OUT:
            assert not node.orelse, "what is left out has no other branch"
            _replace(lines, node, "")
    imported: list[str] = []
    for node in ast.walk(ast.parse("".join(lines))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "memlm":
            text, modules = _flat_import(node)
            imported += modules
            _replace(lines, node, text)
    return "".join(lines), imported


def _replace(lines: list[str], node: ast.stmt, text: str) -> None:
    """Puts ``text`` in the place of a statement; the others keep their line numbers."""
    last = node.end_lineno or node.lineno
    empty = ["\n"] * (last - node.lineno)
    lines[node.lineno - 1 : last] = [f"{' ' * node.col_offset}{text}\n", *empty]


def _asked(test: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(test) if isinstance(node, ast.Name)}


def _flat_import(node: ast.ImportFrom) -> tuple[str, list[str]]:
    """Returns an import from memlm as an import of its flat file, and the modules that it names."""
    module = str(node.module)
    if any(importlib.util.find_spec(f"{module}.{alias.name}") for alias in node.names if _is_package(module)):
        names = [(f"{module}.{alias.name}", alias.asname or alias.name) for alias in node.names]
        flat = ", ".join(f"{_flat(name)} as {short}" for name, short in names)
        return f"from . import {flat}", [name for name, _ in names]
    names = ", ".join(ast.unparse(alias) for alias in node.names)
    return f"from .{_flat(module)} import {names}", [module]


def _is_package(module: str) -> bool:
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.submodule_search_locations is not None


def _flat(module: str) -> str:
    return NAMES.get(module) or module.removeprefix("memlm.").replace(".", "_")


def _own_operations(source: str) -> str:
    """Defines torch's operations in the namespace of `OPERATIONS`, where a module defines or calls any."""
    named = re.sub(r'"memlm::', 'f"{NAMESPACE}::', source)
    named = re.sub(r"\btorch\.ops\.memlm\.", "getattr(torch.ops, NAMESPACE).", named)
    if named == source:
        return source
    return named.replace("\nimport torch\n", "\nimport torch\n\nfrom .operations import NAMESPACE\n", 1)
