"""Sorting networks in Triton that work on the last axis of a tensor [R, n], n a power of two.

Every exchange is a maximum and a minimum of two halves that ``reshape`` and ``split`` cut out. Where a thread holds a
whole row those are only names of registers, so a network is nothing but its maxima and minima, and those with a
constant vanish. (Batcher 1968, "Sorting networks and their applications".)
"""

from __future__ import annotations

import triton
import triton.language as tl

NO_KEY = tl.constexpr(-(2**31))
"""Below every packed key."""


@triton.jit
def order(bits):
    """Maps the bits of floats to integers in the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def cut(x, B: tl.constexpr):
    """Returns the elements whose index has bit ``B`` clear and those where it is set, [R, n / 2B, B] each."""
    R: tl.constexpr = x.shape[0]
    n: tl.constexpr = x.shape[1]
    return tl.split(tl.permute(tl.reshape(x, [R, n // (2 * B), 2, B]), (0, 1, 3, 2)))


@triton.jit
def uncut(low, high):
    """Undoes ``cut``."""
    R: tl.constexpr = low.shape[0]
    n: tl.constexpr = 2 * low.shape[1] * low.shape[2]
    return tl.reshape(tl.permute(tl.join(low, high), (0, 1, 3, 2)), [R, n])


@triton.jit
def _exchange(x, B: tl.constexpr, SIZE: tl.constexpr, FALLING: tl.constexpr):
    """Orders each two elements that are ``B`` apart, in every other block of ``SIZE`` the other way round."""
    low, high = cut(x, B)
    index = tl.arange(0, low.shape[1])[:, None] * (2 * B) + tl.arange(0, B)[None, :]
    falls = tl.broadcast_to((((index & SIZE) == 0) == FALLING)[None, :, :], low.shape)
    more = tl.maximum(low, high)
    less = tl.minimum(low, high)
    return uncut(tl.where(falls, more, less), tl.where(falls, less, more))


@triton.jit
def merge(x, LEVELS: tl.constexpr, FALLING: tl.constexpr):
    """Sorts bitonic blocks of ``2**LEVELS`` elements by turns: one falling, one rising; or the other way round."""
    for level in tl.static_range(LEVELS):
        x = _exchange(x, 1 << (LEVELS - 1 - level), 1 << LEVELS, FALLING)
    return x


@triton.jit
def _better(x, LEVELS: tl.constexpr):
    """Returns the larger half of every falling block and the rising one after it: bitonic blocks, half as many."""
    falling, rising = cut(x, 1 << LEVELS)
    return tl.reshape(tl.maximum(falling, rising), [x.shape[0], x.shape[1] // 2])


@triton.jit
def best_rising(x, LEVELS: tl.constexpr):
    """Returns the ``2**LEVELS`` largest elements of each row in rising order."""
    for level in tl.static_range(LEVELS):
        x = merge(x, level + 1, x.shape[1] != 2 << level)
    for _ in tl.static_range(16):
        if x.shape[1] > 1 << LEVELS:
            x = merge(_better(x, LEVELS), LEVELS, x.shape[1] != 2 << LEVELS)
    return x


@triton.jit
def add_rising(best, x, LEVELS: tl.constexpr):
    """Returns the ``2**LEVELS`` largest elements of ``best``, falling, and ``x``, rising, in falling order."""
    return merge(tl.maximum(best, x), LEVELS, True)


@triton.jit
def concat(left, right):
    """Puts the rows of two tensors of one shape one after another."""
    R: tl.constexpr = left.shape[0]
    n: tl.constexpr = left.shape[1]
    return uncut(tl.reshape(left, [R, 1, n]), tl.reshape(right, [R, 1, n]))


@triton.jit
def flip(x):
    """Reverses the rows."""
    for level in tl.static_range(16):
        if x.shape[1] > 1 << level:
            low, high = cut(x, 1 << level)
            x = uncut(high, low)
    return x
