"""Reads a YAML configuration with the place of every value, its one `base:` and dotted overrides.

All problems are gathered before any is told: syntax, duplicate keys and overrides here, fields through `Config`.
"""

# PyYAML leaves its nodes untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ValidationError

from memlm.config.base import Config
from memlm.errors import ConfigError

C = TypeVar("C", bound=Config)
Path_ = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: ``where`` (file:line or override), dotted ``path``, ``value`` and ``reason``."""

    where: str
    path: str
    value: str
    reason: str

    def __str__(self) -> str:
        """Reads ``file:line  path = value  reason``."""
        subject = f"{self.path} = {self.value}" if self.value else self.path
        return "  ".join(part for part in (self.where, subject, self.reason) if part)


@dataclass
class Tree:
    """A configuration before validation: plain data, and where each value of it was written."""

    name: str
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    marks: dict[Path_, str] = field(default_factory=dict[Path_, str])
    problems: list[Problem] = field(default_factory=list[Problem])

    def where(self, path: Path_) -> str:
        """Returns the place of ``path``, or of the nearest mapping around it."""
        return next((self.marks[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.marks), self.name)

    def get(self, path: Path_) -> Any:
        """Returns the data at ``path``, None where there is none."""
        node: Any = self.data
        for key in path:
            node = cast("dict[str, Any]", node).get(key) if isinstance(node, dict) else None
        return node

    def overlay(self, under: Path_, over: Path_) -> None:
        """Makes ``over`` the merge of the mappings at both paths; its own values win, places are kept."""
        lower, upper = self.get(under), self.get(over)
        if not isinstance(lower, dict) or not isinstance(upper, dict):
            return
        merged = _merge(cast("dict[str, Any]", lower), cast("dict[str, Any]", upper))
        parent = self.get(over[:-1])
        parent[over[-1]] = merged
        for path, mark in list(self.marks.items()):
            if path[: len(under)] == under and len(path) > len(under):
                self.marks.setdefault(over + path[len(under) :], mark)


def read(path: str | Path, overrides: Sequence[str] = ()) -> Tree:
    """Reads ``path``, merges it over its ``base:`` (a path beside it, which has no base itself) and applies overrides.

    Args:
        path: The YAML file.
        overrides: Assignments ``dotted.path=value``; the value is YAML.
    """
    tree = _read_file(Path(path))
    base = tree.data.pop("base", None)
    if base is not None:
        tree = _with_base(tree, base, Path(path))
    for override in overrides:
        _override(tree, override)
    return tree


def validate(tree: Tree, schema: type[C]) -> C:
    """Returns the configuration.

    Raises:
        ConfigError: it lists every problem of the tree and of the fields.
    """
    problems = list(tree.problems)
    try:
        config = schema.model_validate(tree.data)
    except ValidationError as error:
        problems += [_from_pydantic(tree, dict(item)) for item in error.errors()]
    else:
        if not problems:
            return config
    raise config_error(tree.name, problems)


def config_error(name: str, problems: Sequence[Problem]) -> ConfigError:
    """Returns the error that lists ``problems`` once each, in the order of the file."""
    unique = list({(p.where, p.value, p.reason): p for p in reversed(problems)}.values())[::-1]
    count = "1 problem" if len(unique) == 1 else f"{len(unique)} problems"
    return ConfigError("\n".join([f"{name}: {count}, nothing was run", *(f"  {p}" for p in unique)]))


def _from_pydantic(tree: Tree, item: dict[str, Any]) -> Problem:
    path = tuple(str(key) for key in item["loc"])
    reason = str(item["msg"])
    value = "" if reason == "is required" or isinstance(item["input"], (dict, list, Config)) else repr(item["input"])
    return Problem(tree.where(path), ".".join(path), value, reason)


def _read_file(path: Path) -> Tree:
    tree = Tree(str(path))
    try:
        root: object = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError:
        tree.problems.append(Problem("", "", "", "there is no such file"))
    except OSError as error:
        tree.problems.append(Problem("", "", "", f"cannot be read: {error.strerror}"))
    except UnicodeDecodeError as error:
        tree.problems.append(Problem("", "", "", f"is not UTF-8 (byte {error.start})"))
    except yaml.YAMLError as error:
        tree.problems.append(_syntax_problem(path, error))
    else:
        if isinstance(root, yaml.MappingNode):
            tree.data = _construct(tree, root, ())
        else:
            tree.problems.append(
                Problem(f"{path}:1", "", "", "must be a mapping of sections (data, model, train, ...)")
            )
    return tree


def _syntax_problem(path: Path, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    where = f"{path}:{mark.line + 1}" if mark else str(path)
    return Problem(where, "", "", f"is not valid YAML: {getattr(error, 'problem', None) or error}")


def _construct(tree: Tree, node: yaml.Node, path: Path_) -> Any:
    """Turns a node into plain data, noting lines and duplicate keys on the way."""
    tree.marks[path] = f"{tree.name}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.SequenceNode):
        return [_construct(tree, child, (*path, str(i))) for i, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(tree, node, path)
    data: dict[str, Any] = {}
    for key_node, child in node.value:
        key = str(key_node.value)
        line = key_node.start_mark.line + 1
        if key in data:
            first = tree.where((*path, key))
            problem = Problem(f"{tree.name}:{line}", ".".join((*path, key)), "", f"is given twice; first at {first}")
            tree.problems.append(problem)
            continue
        data[key] = _construct(tree, child, (*path, key))
        tree.marks[(*path, key)] = f"{tree.name}:{line}"
    return data


def _scalar(tree: Tree, node: yaml.Node, path: Path_) -> object:
    try:
        return yaml.SafeLoader("").construct_object(node)
    except (yaml.YAMLError, ValueError) as error:
        reason = f"is not valid YAML: {getattr(error, 'problem', None) or error}"
        tree.problems.append(Problem(tree.where(path), ".".join(path), repr(node.value), reason))
        return None


def _with_base(tree: Tree, base: object, path: Path) -> Tree:
    where = tree.where(("base",))
    if not isinstance(base, str):
        tree.problems.append(Problem(where, "base", repr(base), "must be the path of one YAML file beside this one"))
        return tree
    lower = _read_file(path.parent / base)
    if "base" in lower.data:
        lower.data.pop("base")
        tree.problems.append(Problem(where, "base", repr(base), "has a base itself; one level is all there is"))
    merged = Tree(tree.name, _merge(lower.data, tree.data), {**lower.marks, **tree.marks})
    missing = [Problem(where, "base", repr(base), p.reason) if not p.where else p for p in lower.problems]
    merged.problems = tree.problems + missing
    return merged


def _merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Merges mappings key by key; where ``type`` differs the upper one replaces the lower whole."""
    if "type" in upper and upper["type"] != lower.get("type", upper["type"]):
        return upper
    merged = dict(lower)
    for key, value in upper.items():
        below: object = lower.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = _merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        merged[key] = value
    return merged


def _override(tree: Tree, override: str) -> None:
    where = f"-o {override}"
    dotted, equals, text = override.partition("=")
    path = tuple(dotted.strip().split("."))
    if not equals or not all(path):
        tree.problems.append(Problem(where, "", "", "must read dotted.path=value, such as train.lr=1e-3"))
        return
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        tree.problems.append(Problem(where, dotted, repr(text), "is not a YAML value"))
        return
    node = tree.data
    for n, key in enumerate(path[:-1]):
        if node.get(key) is None:
            node[key] = {}
        if not isinstance(node[key], dict):
            reason = f"{'.'.join(path[: n + 1])} is a value, not a section"
            tree.problems.append(Problem(where, dotted, repr(value), reason))
            return
        node = node[key]
    node[path[-1]] = value
    for old in [mark for mark in tree.marks if mark[: len(path)] == path]:
        del tree.marks[old]
    tree.marks[path] = where
