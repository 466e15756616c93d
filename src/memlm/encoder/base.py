"""What every encoder is: a config, and a module that turns the tokens of entries into values."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from memlm.config.base import Config

NO_TOKEN = -1
"""Stands behind the last token of an entry."""


class EncoderConfig(Config):
    """Base of an encoder's configuration; a subclass adds ``type: Literal["its_name"]``."""

    def build(self, d_model: int, d_value: int) -> Encoder:
        """Returns the module that makes values of width ``d_value`` of token embeddings of width ``d_model``."""
        raise NotImplementedError(f"{type(self).__name__} builds nothing")


class Encoder(nn.Module, ABC):
    """Turns entries into values. An entry's value depends on its own tokens alone, and one without tokens is zero."""

    @abstractmethod
    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        """Returns the values [N, d_value] of entries.

        Args:
            tokens: Token ids, [N, E] int; `NO_TOKEN` behind an entry's end.
            embedding: The model's token embedding, [V, D].
        """

    @abstractmethod
    def reset_parameters(self) -> None:
        """Initialises every parameter with `torch.nn.init`, so that a value's norm is about 1."""
