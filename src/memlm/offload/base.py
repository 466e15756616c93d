"""What banks share that hold trained values in another form than a parameter: they are read and never learn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from memlm.bank.base import Bank
from memlm.errors import RunError


class ReadOnlyBank(Bank):
    """Values that are read.

    Args:
        n_slots: Rows, S.
        d_value: Width of a row.
    """

    def __init__(self, n_slots: int, d_value: int) -> None:
        super().__init__(n_slots, d_value)
        self.shown: Tensor | None = None

    def reset_parameters(self) -> None:
        """Does nothing: there are none."""

    @property
    def learns(self) -> bool:
        """No."""
        return False

    @contextmanager
    def showing(self, values: Tensor) -> Iterator[None]:
        """Reads find ``values`` [S, d_value], a tensor on the device, inside."""
        try:
            self.shown = values
            yield
        finally:
            self.shown = None

    def _save_to_state_dict(self, *_: Any, **__: Any) -> None:
        raise RunError("this model was loaded to be read, without its values as parameters; save one loaded as usual")
