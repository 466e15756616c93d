"""What trials measured, kept in a run's folder: a file for each part, written as the part goes on.

Parts are written apart, so that what is cut off keeps what it has, and several processes can measure one run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from memlm.errors import EditError
from memlm.storage import write_json

Row = dict[str, Any]
"""Measures by name, as plain data."""
Trial = dict[str, list[Row]]
"""Rows by the name of a way to edit, or of another part."""


def write_part(folder: Path, name: str, base: str, rows: Sequence[Row]) -> None:
    """Writes what was measured so far of one part, in the place of what was there of it.

    Args:
        folder: Where the parts of a trial are kept.
        name: What the part is called.
        base: The hash of the weights that were tried.
        rows: What was measured.

    Raises:
        EditError: the disk is full or cannot be written.
    """
    path = folder / (re.sub(r"\W+", "_", name) + ".json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, {"part": name, "base": base, "rows": list(rows)})
    except OSError as error:
        raise EditError(f"{path}: cannot be written ({error}); make room and give the command again") from error


def read_parts(folder: Path, base: str) -> Trial:
    """Returns what was measured of the weights with the hash ``base``, by the names of the parts.

    Raises:
        EditError: a file is damaged.
    """
    found: Trial = {}
    for path in sorted(folder.glob("*.json")):
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
            if part["base"] == base:
                found[part["part"]] = [dict(row) for row in part["rows"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise EditError(f"{path}: cannot be read ({error}); remove it, and measure again") from None
    return found
