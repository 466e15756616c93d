"""Maps a type name in a config to the class that carries it out, and imports that class only when it is asked for.

A type lives in a module of its own name: ``memory: {type: product_key}`` is ``memlm/memory/product_key.py``. Dropping a
file into the package is therefore all it takes to add a type. Other distributions join through an entry-point group of
the package's name (``memlm.memory``, ``memlm.fusion``).
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name that looks most like ``name``, or None if none comes near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """Says that ``name`` is no known ``kind``, with the nearest name and the whole list."""
    names = sorted(known)
    guess = nearest(str(name), names)
    hint = f" Did you mean '{guess}'?" if guess else ""
    return f"unknown {kind} {str(name)!r}.{hint} Known: {', '.join(names)}."


class Registry(Generic[T]):
    """The types of one kind, e.g. all memories.

    Args:
        kind: What an entry is called in messages ("memory").
        package: The package whose modules are the built-in types, and the entry-point group of foreign ones.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._classes: dict[str, type[T]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Class decorator; the name is the one in the class's ``type: Literal[...]`` annotation.

        Raises:
            TypeError: ``type`` is missing or names more than one type.
            ValueError: another class already has that name.
        """
        name = _literal_type(cls)
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"{self.kind} {name!r} is already registered by {known.__module__}.{known.__qualname__}")
        self._classes[name] = cls
        return cls

    def names(self) -> list[str]:
        """Returns every type's name, sorted, without importing any of them."""
        return sorted({*self._classes, *self._modules(), *self._entry_points()})

    def get(self, name: object) -> type[T]:
        """Returns the class registered as ``name``, importing its module if need be.

        Raises:
            KeyError: there is none; the message names the nearest and lists all.
        """
        if isinstance(name, str) and name in self._classes:  # spares the search through every installed distribution
            return self._classes[name]
        if not isinstance(name, str) or name not in self.names():
            raise KeyError(unknown(self.kind, name, self.names()))
        foreign = self._entry_points().get(name)
        importlib.import_module(foreign or f"{self.package}.{name}")
        if name not in self._classes:
            raise KeyError(f"{self.package}.{name} registers no {self.kind} of type {name!r}")
        return self._classes[name]

    def _modules(self) -> list[str]:
        spec = importlib.util.find_spec(self.package)
        path = spec.submodule_search_locations if spec else None
        return [module.name for module in pkgutil.iter_modules(path) if module.name not in ("base",)]

    def _entry_points(self) -> dict[str, str]:
        return {point.name: point.module for point in entry_points(group=self.package)}


def _literal_type(cls: type[object]) -> str:
    annotation = getattr(cls, "model_fields", {}).get("type")
    literal = getattr(annotation, "annotation", None)
    values = get_args(literal) if get_origin(literal) is Literal else ()
    if len(values) != 1 or not isinstance(values[0], str):
        raise TypeError(f"{cls.__qualname__} needs a field `type: Literal['name']` with exactly one name")
    return values[0]


MEMORIES: Registry[Any] = Registry("memory", "memlm.memory")
"""Every memory's configuration class, by type."""

BANKS: Registry[Any] = Registry("bank", "memlm.bank")
"""Every bank's configuration class, by type."""

ENCODERS: Registry[Any] = Registry("encoder", "memlm.encoder")
"""Every encoder's configuration class, by type."""

FUSIONS: Registry[Any] = Registry("fusion", "memlm.fusion")
"""Every fusion's configuration class, by type."""
