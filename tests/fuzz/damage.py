"""Damage to the files of a folder: bits, ends, whole files, and values of JSON."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

Damage = Callable[[Path], None]
"""Spoils a folder that holds the files it was made for."""

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 1e308, float("nan"), float("inf"), 10**400]),
    st.text(max_size=8),
    st.sampled_from(["../../x", "/", "\x00", "\ud800", "\x1b[2J", "[bold]", "a\nb"]),
    st.just([]),
    st.just({}),
    st.just([[[]]]),
    st.just({"a": {"b": 1}}),
)
NOT_JSON = [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"null", b"[]", b"3", b'""', b"1" * 5000, b'{"a": ' * 50_000]


def mutations(folder: Path) -> st.SearchStrategy[Damage]:
    """Returns ways to spoil one of the files in ``folder``, or two of them by exchanging them; folders in it too."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    readable = [name for name in names if name.endswith(".json")]
    name = st.sampled_from(names)
    position = st.integers(0, 2**20)
    ways = [
        st.builds(_flipped, name, position, st.integers(0, 7)),
        # The beginning of a file says what the rest is: a header, a version, the first keys.
        st.builds(_flipped, name, st.integers(0, 200), st.integers(0, 7)),
        st.builds(_cut, name, position),
        st.builds(_missing, name),
        st.builds(_exchanged, name, name),
        st.builds(_replaced, name, st.one_of(st.sampled_from(NOT_JSON), st.binary(max_size=40))),
        st.builds(_a_folder, name),
    ]
    if readable:
        ways.append(
            st.builds(_changed_json, st.sampled_from(readable), position, st.sampled_from(["set", "drop"]), ODD)
        )
    return st.one_of(ways)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """All (container, key) of a JSON value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, child in list(items) for place in [(tree, key), *places(child)]]


def _flipped(name: str, position: int, bit: int) -> Damage:
    def flip(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        if content:
            content[position % len(content)] ^= 1 << bit
            (folder / name).write_bytes(content)

    return flip


def _cut(name: str, position: int) -> Damage:
    def cut(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: position % max(1, len(content))])

    return cut


def _missing(name: str) -> Damage:
    return lambda folder: (folder / name).unlink()


def _exchanged(one: str, other: str) -> Damage:
    def exchange(folder: Path) -> None:
        contents = (folder / one).read_bytes(), (folder / other).read_bytes()
        (folder / other).write_bytes(contents[0])
        (folder / one).write_bytes(contents[1])

    return exchange


def _replaced(name: str, content: bytes) -> Damage:
    def replace(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return replace


def _a_folder(name: str) -> Damage:
    def put(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return put


def _changed_json(name: str, position: int, way: str, value: object) -> Damage:
    def change(folder: Path) -> None:
        try:
            tree = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):  # other damage came first
            return
        found = places(tree)
        if found:
            container, key = found[position % len(found)]
            if way == "drop":
                del container[key]
            else:
                container[key] = copy.deepcopy(value)
        (folder / name).write_text(json.dumps(tree), encoding="utf-8")

    return change
