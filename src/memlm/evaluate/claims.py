"""Written claims: one variant's metric is below another's, or one difference between variants is below another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

_NAME = r"[^\s<>=|]+"
# A name may hold a hyphen, so that of a difference stands between spaces.
_SIDE = re.compile(rf"\s*(?:({_NAME})|(\|?)\s*({_NAME})\s+-\s+({_NAME})\s*(\|?))\s*")
FORMS = "'gated_mlp < dense', 'a - b < c - d' or '|a - b| > |c - d|'"


@dataclass(frozen=True)
class Side:
    """One side of a claim: a variant, or the difference of two, whose sign may be left out of account."""

    plus: str
    minus: str | None = None
    is_absolute: bool = False

    @property
    def variants(self) -> list[str]:
        """The variants in it."""
        return [self.plus] if self.minus is None else [self.plus, self.minus]

    def coefficients(self, means: Mapping[str, float]) -> Counter[str]:
        """Returns what the value of each variant counts; an absolute difference is turned so that its mean is not < 0.

        Args:
            means: The mean of each variant over the seeds.
        """
        if self.minus is None:
            return Counter({self.plus: 1})
        sign = -1 if self.is_absolute and means[self.plus] < means[self.minus] else 1
        return Counter({self.plus: sign, self.minus: -sign})

    def __str__(self) -> str:
        """Reads ``a``, ``a − b`` or ``|a − b|``."""
        text = " − ".join(self.variants)
        return f"|{text}|" if self.is_absolute else text


@dataclass(frozen=True)
class Claim:
    """A hypothesis as it is read: the left side lies below the right one."""

    left: Side
    right: Side

    @property
    def variants(self) -> list[str]:
        """The variants in it, each once."""
        return list(dict.fromkeys([*self.left.variants, *self.right.variants]))

    @property
    def looks(self) -> int:
        """How many ways the claim can come true: 2 where the seeds that test a difference also choose its sign."""
        return 2 if self.left.is_absolute or self.right.is_absolute else 1

    def coefficients(self, means: Mapping[str, float]) -> dict[str, int]:
        """Returns what the value of each variant counts in left − right.

        The sign of an absolute difference is that of its mean over seeds, not of each seed: the mean of absolute values
        would grow with the noise, and a noisy variant would pass for an effect.

        Args:
            means: The mean of each variant over the seeds.
        """
        counts = self.left.coefficients(means)
        counts.subtract(self.right.coefficients(means))
        return dict(counts)

    def __str__(self) -> str:
        """Reads as the difference that is tested: ``a − b``, ``(a − b) − (c − d)`` or ``|a − b| − |c − d|``."""
        sides = [f"({s})" if s.minus and not s.is_absolute else str(s) for s in (self.left, self.right)]
        return " − ".join(sides)


def parse_claim(text: str) -> Claim:
    """Reads "a < b", "a - b < c - d" or "|a - b| < |c - d|"; "x > y" is read as "y < x".

    Raises:
        ValueError: the text is none of these, or compares something with itself.
    """
    first, second = (*re.split("[<>]", text, maxsplit=1), "")[:2]
    left, right = _side(first), _side(second)
    if left is None or right is None:
        raise ValueError(f"a claim compares two variants or two differences, such as {FORMS}, not {text!r}")
    if (left.minus is None) != (right.minus is None):
        raise ValueError(f"the claim {text.strip()!r} compares a variant with a difference; write one such as {FORMS}")
    for side in (left, right):
        if side.plus == side.minus:
            raise ValueError(f"the claim {text.strip()!r} takes {side.plus} from itself")
    turned = left.is_absolute and right.is_absolute and set(left.variants) == set(right.variants)
    if left == right or turned:
        raise ValueError(f"the claim {text.strip()!r} compares {left} with itself")
    return Claim(left, right) if "<" in text else Claim(right, left)


def _side(text: str) -> Side | None:
    match = _SIDE.fullmatch(text)
    if match is None:
        return None
    alone, opening, plus, minus, closing = match.groups()
    if alone:
        return Side(alone)
    return Side(plus, minus, is_absolute=bool(opening)) if opening == closing else None
