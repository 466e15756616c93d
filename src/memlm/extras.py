"""Packages that memlm can do without: a command that needs one says in one line how to install it."""

from __future__ import annotations

import importlib
from typing import Any

from memlm.errors import MissingDependencyError


def optional(package: str, extra: str, purpose: str) -> Any:
    """Returns an optional package's module.

    Raises:
        MissingDependencyError: it, or something that it needs, is not installed or cannot be imported; arguments as
            there.
    """
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingDependencyError(package, extra, purpose) from None
