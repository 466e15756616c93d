"""Reads a YAML configuration with the place of every value, its one `base:` and dotted overrides.

All problems are gathered before any is told: syntax, duplicate keys and overrides here, fields through `Config`. Where
a file cannot be read at all, its fields are not judged.
"""

# PyYAML leaves its nodes untyped:
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import yaml
from pydantic import ValidationError
from yaml.reader import ReaderError

from memlm.config.base import Config
from memlm.errors import ConfigError, counted, printable

C = TypeVar("C", bound=Config)
Path_ = tuple[str, ...]

MAX_DEPTH = 32
MAX_VALUES = 100_000


class Unread:
    """The type of `UNREAD`; shown where it stands inside a list that is told as a whole."""

    def __repr__(self) -> str:
        return "unreadable"


UNREAD = Unread()
"""Stands for a value that is a problem already, so that it is not told a second time."""


class Mark(NamedTuple):
    """A place in a file; an override is a place as a whole, on line 0."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Reads ``file:line``."""
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; ``where`` is None when it is the file as a whole."""

    where: Mark | None
    path: Path_
    value: str
    reason: str

    def __str__(self) -> str:
        """Reads ``file:line  path = value  reason``, on one line whatever the parts hold."""
        where, path = _one_line(str(self.where or ""), 300), _one_line(".".join(self.path), 200)
        subject = f"{path} = {_one_line(self.value, 100)}" if self.value else path
        return "  ".join(part for part in (where, subject, _one_line(self.reason, 1000)) if part)


@dataclass
class Tree:
    """A configuration before validation: plain data, and where each value of it was written."""

    name: str
    data: dict[str, Any] = field(default_factory=dict[str, Any])
    marks: dict[Path_, Mark] = field(default_factory=dict[Path_, Mark])
    problems: list[Problem] = field(default_factory=list[Problem])
    is_whole: bool = True
    """False where the file or its base could not be read."""
    inherits: dict[Path_, Path_] = field(default_factory=dict[Path_, Path_])
    """Mappings that were laid over another one."""

    def where(self, path: Path_) -> Mark:
        """Returns the place of ``path``, or of the nearest mapping around it."""
        around = (self.marks[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.marks)
        return next(around, Mark(self.name))

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
        below, above = cast("dict[str, Any]", lower), cast("dict[str, Any]", upper)
        self.get(over[:-1])[over[-1]] = merge(below, above)
        self.inherits[over] = under
        for path, mark in list(self.marks.items()):
            rest = path[len(under) :]
            if path[: len(under)] == under and rest and _survives(below, above, rest):
                self.marks.setdefault(over + rest, mark)


def read(path: str | Path, overrides: Sequence[str] = ()) -> Tree:
    """Reads ``path``, merges it over its ``base:`` (a path beside it, which has no base itself) and applies overrides.

    Args:
        path: The YAML file.
        overrides: Assignments ``dotted.path=value``; the value is YAML.
    """
    tree = read_file(Path(path))
    base = tree.data.pop("base", None)
    if base is not None:
        tree = _with_base(tree, base, Path(path))
    for override in overrides:
        _override(tree, override)
    return tree


def assignments(overrides: Sequence[str]) -> dict[str, Any]:
    """Returns what overrides that were found sound say, as nested mappings."""
    tree = Tree("")
    for override in overrides:
        _override(tree, override)
    return tree.data


def validate(tree: Tree, schema: type[C]) -> C:
    """Returns the configuration.

    Raises:
        ConfigError: it lists every problem of the tree and of the fields.
    """
    if not tree.is_whole:
        raise config_error(tree.name, tree.problems)
    try:
        config = schema.model_validate(tree.data)
    except ValidationError as error:
        found = [_from_pydantic(tree, dict(item)) for item in error.errors() if item["input"] is not UNREAD]
        told = {(problem.path, problem.value, _essence(problem)) for problem in found}
        found = [problem for problem in found if not _is_inherited(tree, problem, told)]
        raise config_error(tree.name, [*tree.problems, *found]) from None
    if tree.problems:
        raise config_error(tree.name, tree.problems)
    return config


def config_error(name: str, problems: Sequence[Problem]) -> ConfigError:
    """Returns the error that lists ``problems`` in the order of the file; an alias's are told once, at its anchor."""
    unique: dict[object, Problem] = {}
    for problem in problems:
        at_line = problem.where is not None and problem.where.line > 0
        unique.setdefault((problem.where, problem.path[-1:] if at_line else problem.path, problem.reason), problem)
    lines = [f"  {problem}" for problem in sorted(unique.values(), key=_order)]
    count = counted(len(lines), "problem")
    return ConfigError("\n".join([f"{name}: {count}, nothing was run", *lines]))


def _order(problem: Problem) -> tuple[bool, Mark]:
    mark = problem.where or Mark("", 1)
    return mark.line == 0, mark


def _is_inherited(tree: Tree, problem: Problem, told: set[tuple[Path_, str, str]]) -> bool:
    """Tells whether the mapping underneath has the same problem, and nothing over it says otherwise."""
    for over, under in tree.inherits.items():
        rest = problem.path[len(over) :]
        if problem.path[: len(over)] == over and (under + rest, problem.value, _essence(problem)) in told:
            return tree.marks.get(over + rest) in (None, tree.marks.get(under + rest))
    return False


def _essence(problem: Problem) -> str:
    """Returns the reason without what might have been meant, which is not the same in every mapping."""
    return problem.reason.partition(". ")[0]


def _one_line(text: str, limit: int) -> str:
    return printable(text if len(text) <= limit else f"{text[: limit - 3]}...")


def _from_pydantic(tree: Tree, item: dict[str, Any]) -> Problem:
    path = tuple(str(key) for key in item["loc"] if key != "[key]")
    reason = str(item["msg"])
    value = "" if reason == "is required" or isinstance(item["input"], (dict, list, Config)) else repr(item["input"])
    return Problem(tree.where(path), path, value, reason)


def read_file(path: Path) -> Tree:
    """Reads one file as it stands; what is wrong with it is in the tree's problems."""
    tree = Tree(str(path))
    try:
        data = _parse(tree, path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        tree.problems.append(Problem(None, (), "", "there is no such file"))
    except UnicodeDecodeError as error:
        tree.problems.append(Problem(None, (), "", f"is not UTF-8 (byte {error.start})"))
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        tree.problems.append(Problem(None, (), "", f"cannot be read: {getattr(error, 'strerror', None) or error}"))
    else:
        if isinstance(data, dict):
            tree.data = cast("dict[str, Any]", data)
            return tree
        if data is not UNREAD:
            reason = "must be a mapping of sections (data, model, train, ...)"
            tree.problems.append(Problem(Mark(tree.name, 1), (), "", reason))
    tree.is_whole = False
    return tree


def _parse(tree: Tree, text: str) -> Any:
    """Turns YAML into plain data; what is wrong with it becomes a problem of the tree."""
    mark = None
    try:
        root = cast("yaml.Node | None", yaml.compose(text, Loader=yaml.SafeLoader))
        return None if root is None else _construct(tree, root, ())
    except ReaderError as error:
        mark = Mark(tree.name, text.count("\n", 0, error.position) + 1)
        reason = f"the character {chr(error.character)!r} is not allowed"
    except yaml.MarkedYAMLError as error:
        if error.problem_mark is not None:
            mark = Mark(tree.name, error.problem_mark.line + 1, error.problem_mark.column + 1)
        reason = ", ".join(part for part in (error.context, error.problem) if part)
    except RecursionError:
        reason = f"nests more than {MAX_DEPTH} levels deep"
    tree.problems.append(Problem(mark, (), "", f"is not valid YAML: {reason}"))
    return UNREAD


_MISREAD = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-9]+)+(\.[0-9_]*)?)")
"""Octal 010 and sexagesimal 1:30, which YAML 1.1 takes for numbers that nobody means."""
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_TAGS: dict[type[yaml.Node], tuple[str, ...]] = {
    yaml.ScalarNode: ("null", "bool", "int", "float", "str"),
    yaml.SequenceNode: ("seq",),
    yaml.MappingNode: ("map",),
}


def _construct(tree: Tree, node: yaml.Node, path: Path_) -> Any:
    """Turns a node into plain data, noting lines and duplicate keys on the way."""
    mark = tree.marks[path] = Mark(tree.name, node.start_mark.line + 1, node.start_mark.column + 1)
    if len(path) > MAX_DEPTH:
        raise yaml.MarkedYAMLError(problem=f"nests more than {MAX_DEPTH} levels deep", problem_mark=node.start_mark)
    if len(tree.marks) > MAX_VALUES:
        raise yaml.MarkedYAMLError(problem=f"holds more than {MAX_VALUES:,} values", problem_mark=node.start_mark)
    tag = str(node.tag).removeprefix("tag:yaml.org,2002:")
    if tag not in _TAGS[type(node)]:
        reason = f"has the YAML type {tag!r}, which has no use here; quote it if it is text"
        tree.problems.append(Problem(mark, path, _written(node), reason))
        return UNREAD
    if isinstance(node, yaml.SequenceNode):
        return [_construct(tree, child, (*path, str(i))) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _construct_mapping(tree, node, path)
    if _HALF_CHARACTER.search(node.value):
        tree.problems.append(Problem(mark, path, _written(node), "holds half a character (a lone surrogate)"))
        return UNREAD
    try:
        value = yaml.SafeLoader("").construct_object(node)
        if tag not in ("int", "float") or not _MISREAD.fullmatch(node.value):
            return value
        reason = f"is {value} to YAML; write that number, or quote it if it is text"
    except (ValueError, KeyError):
        reason = f"cannot be read as the YAML type {tag!r}; quote it if it is text"
    tree.problems.append(Problem(mark, path, _written(node), reason))
    return UNREAD


def _construct_mapping(tree: Tree, node: yaml.MappingNode, path: Path_) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for key_node, child in node.value:
        mark = Mark(tree.name, key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode) or _HALF_CHARACTER.search(key_node.value):
            tree.problems.append(Problem(mark, path, "", "has a key that is not text"))
            continue
        key = str(key_node.value)
        if key_node.tag == "tag:yaml.org,2002:merge":
            reason = "merge keys are not read; use base:, put shared fields under model: or repeat them"
            tree.problems.append(Problem(mark, (*path, key), "", reason))
        elif key in data:
            first = tree.where((*path, key))
            tree.problems.append(Problem(mark, (*path, key), "", f"is given twice; first at {first}"))
        else:
            data[key] = _construct(tree, child, (*path, key))
            tree.marks[(*path, key)] = mark
    return data


def _written(node: yaml.Node) -> str:
    return repr(node.value) if isinstance(node, yaml.ScalarNode) else ""


def _with_base(tree: Tree, base: object, path: Path) -> Tree:
    where = tree.where(("base",))
    if not isinstance(base, str):
        if base is not UNREAD:
            reason = "must be the path of one YAML file beside this one"
            tree.problems.append(Problem(where, ("base",), repr(base), reason))
        tree.is_whole = False
        return tree
    lower = read_file(path.parent / base)
    if lower.data.pop("base", None) is not None:
        reason = "has a base itself; one level is all there is"
        tree.problems.append(Problem(where, ("base",), repr(base), reason))
    marks = {path: mark for path, mark in lower.marks.items() if _survives(lower.data, tree.data, path)}
    merged = Tree(tree.name, merge(lower.data, tree.data), {**marks, **tree.marks})
    missing = [p if p.where else Problem(where, ("base",), repr(base), p.reason) for p in lower.problems]
    merged.problems = tree.problems + missing
    merged.is_whole = lower.is_whole
    return merged


def merge(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Merges mappings key by key; where ``type`` differs the upper one replaces the lower whole."""
    if _is_replaced(lower, upper):
        return upper
    merged = dict(lower)
    for key, value in upper.items():
        below: object = lower.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = merge(cast("dict[str, Any]", below), cast("dict[str, Any]", value))
        merged[key] = value
    return merged


def _is_replaced(lower: dict[str, Any], upper: dict[str, Any]) -> bool:
    return "type" in upper and upper["type"] != lower.get("type", upper["type"])


def _survives(lower: object, upper: object, path: Path_) -> bool:
    """Tells whether what ``lower`` has at ``path`` is still there when ``upper`` is merged over it."""
    for key in path:
        if not isinstance(lower, dict) or not isinstance(upper, dict):
            return False
        below, above = cast("dict[str, Any]", lower), cast("dict[str, Any]", upper)
        if _is_replaced(below, above):
            return False
        if key not in above:
            return True
        lower, upper = below.get(key), above[key]
    return True


def _override(tree: Tree, override: str) -> None:
    where = Mark(f"-o {override}")
    dotted, equals, text = override.partition("=")
    path = tuple(dotted.strip().split("."))
    if not equals or not all(path) or not dotted.isprintable():
        tree.problems.append(Problem(where, (), "", "must read dotted.path=value, such as train.lr=1e-3"))
        return
    parsed = Tree(str(where))
    value = _parse(parsed, text)
    for found in parsed.problems:
        tree.problems.append(Problem(where, (*path, *found.path), found.value or repr(text), found.reason))
    node = tree.data
    for n, key in enumerate(path[:-1]):
        if node.get(key) is None:
            node[key] = {}
            tree.marks[path[: n + 1]] = where
        if not isinstance(node[key], dict):
            reason = f"{'.'.join(path[: n + 1])} is a value, not a section"
            tree.problems.append(Problem(where, path, text, reason))
            return
        node = node[key]
    node[path[-1]] = value
    for old in [mark for mark in tree.marks if mark[: len(path)] == path]:
        del tree.marks[old]
    tree.marks[path] = where
