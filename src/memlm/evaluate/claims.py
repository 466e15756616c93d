"""Written claims: one variant's metric is below or above another's, or one difference between variants another."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

_NAME = r"[^\s<>=|]+"
# A name may hold a hyphen or a plus, so that those of a sum stand between spaces.
_SIDE = re.compile(rf"\s*(\|?)\s*({_NAME}(?:\s+[+-]\s+{_NAME})*)\s*(\|?)\s*")
_TERM = re.compile(rf"(?:([+-])\s+)?({_NAME})")
FORMS = "'gated_mlp < dense', 'a - b < c - d' or '|a - b| > |c - d|'"


@dataclass(frozen=True)
class Side:
    """One side of a claim: a variant, or a difference, whose sign may be left out of account.

    Args:
        terms: What is added (1) and what is taken away (-1): a variant, or a pattern with ``*``, which stands for the
            mean of all variants that it fits.
        is_absolute: Whether the sign of the whole counts for nothing.
    """

    terms: tuple[tuple[int, str], ...]
    is_absolute: bool = False

    @property
    def balance(self) -> int:
        """1 of a variant, 0 of a difference."""
        return sum(sign for sign, _ in self.terms)

    def coefficients(self, means: Mapping[str, float]) -> dict[str, float]:
        """Returns what the value of each variant counts; an absolute difference is turned so that its mean is not < 0.

        Args:
            means: The mean of each variant of the claim over the seeds.
        """
        counts = dict.fromkeys(means, 0.0)
        for sign, name in self.terms:
            fitting = _fitting(name, means)
            for variant in fitting:
                counts[variant] += sign / len(fitting)
        turn = self.is_absolute and sum(count * means[variant] for variant, count in counts.items()) < 0
        return {variant: -count if turn else count for variant, count in counts.items()}

    def __str__(self) -> str:
        """Reads ``a``, ``a − b`` or ``|a − b|``."""
        text = "".join(f" {'+' if sign > 0 else '−'} {name}" for sign, name in self.terms).removeprefix(" + ")
        return f"|{text}|" if self.is_absolute else text


@dataclass(frozen=True)
class Claim:
    """A hypothesis as it is written: the left side lies below the right one (``sign`` −1), or above it (1).

    ``sign`` is that of a difference left − right which supports it.
    """

    left: Side
    right: Side
    sign: Literal[-1, 1] = -1

    def variants(self, known: Collection[str]) -> list[str]:
        """Returns the variants in it, each once; a name that fits none of the known ones is itself among them."""
        names = [name for side in (self.left, self.right) for _, name in side.terms]
        return list(dict.fromkeys(variant for name in names for variant in _fitting(name, known) or [name]))

    def is_void(self, known: Collection[str]) -> bool:
        """Whether both sides are the same value of the known variants, as where ``a*`` and ``*`` fit the same ones."""
        means = {variant: float(place) for place, variant in enumerate(self.variants(known))}
        return not any(self.coefficients(means).values())

    @property
    def looks(self) -> int:
        """How many ways the claim can come true: 2 where the seeds that test a difference also choose its sign."""
        return 2 if self.left.is_absolute or self.right.is_absolute else 1

    def coefficients(self, means: Mapping[str, float]) -> dict[str, float]:
        """Returns what the value of each variant counts in left − right.

        The sign of an absolute difference is that of its mean over seeds, not of each seed: the mean of absolute values
        would grow with the noise, and a noisy variant would pass for an effect.

        Args:
            means: The mean of each variant of the claim over the seeds.
        """
        left, right = self.left.coefficients(means), self.right.coefficients(means)
        return {variant: left[variant] - right[variant] for variant in means}

    def __str__(self) -> str:
        """Reads as the difference that is tested: ``a − b``, ``(a − b) − (c − d)`` or ``|a − b| − |c − d|``."""
        sides = [f"({s})" if len(s.terms) > 1 and not s.is_absolute else str(s) for s in (self.left, self.right)]
        return " − ".join(sides)


def parse_claim(text: str) -> Claim:
    """Reads "a < b", "a - b < c - d" or "|a - b| < |c - d|", and the same with ">".

    Sides may be longer sums (``a - b - c + d``), and a name with ``*`` in it stands for a mean over variants.

    Raises:
        ValueError: the text is none of these, or compares something with itself.
    """
    first, second = (*re.split("[<>]", text, maxsplit=1), "")[:2]
    left, right = _side(first), _side(second)
    if left is None or right is None:
        raise ValueError(f"a claim compares two variants or two differences, such as {FORMS}, not {text!r}")
    if left.balance != right.balance:
        raise ValueError(f"the claim {text.strip()!r} compares a variant with a difference; write one such as {FORMS}")
    for side in (left, right):
        for _, name in side.terms:
            if {(1, name), (-1, name)} <= set(side.terms):
                raise ValueError(f"the claim {text.strip()!r} takes {name} from itself")
    if _is_same(left, right):
        raise ValueError(f"the claim {text.strip()!r} compares {left} with itself")
    return Claim(left, right, -1 if "<" in text else 1)


def _side(text: str) -> Side | None:
    match = _SIDE.fullmatch(text)
    if match is None or match[1] != match[3]:
        return None
    side = Side(tuple((-1 if sign == "-" else 1, name) for sign, name in _TERM.findall(match[2])), bool(match[1]))
    return side if side.balance in ((0,) if side.is_absolute else (0, 1)) else None


def _is_same(left: Side, right: Side) -> bool:
    turned = [(-sign, name) for sign, name in right.terms] if left.is_absolute and right.is_absolute else right.terms
    same = sorted(left.terms) in (sorted(right.terms), sorted(turned))
    return same and left.is_absolute == right.is_absolute


def _fitting(name: str, known: Collection[str]) -> list[str]:
    return [variant for variant in known if fnmatchcase(variant, name)]
