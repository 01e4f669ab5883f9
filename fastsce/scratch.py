"""Memory that a call uses and forgets, kept for the next: the first touch of fresh pages costs more than short rows.

What is in it never reaches a result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

SMALL = 1 << 17  # bytes: malloc has less at hand, without fresh pages
LARGEST = 9 << 25  # bytes of a piece that is kept: the terms of 64 threads' rows of 262144 classes
PIECES = 6  # kept at most: a call needs as many
ALL = 3 * LARGEST  # bytes of all that are kept

BYTE = np.dtype(np.uint8)

kept: list[np.ndarray] = []  # the smallest first


def borrow(size: int) -> np.ndarray:
    """At least so many bytes: the smallest piece that has them, for the largest may be needed next.

    Whoever comes meanwhile, a thread or a signal's handler, finds other pieces or none.
    """
    if size < SMALL:
        return np.empty(size, BYTE)
    found, others = None, []
    while kept and found is None:
        try:
            found = kept.pop(0)
        except IndexError:
            break
        if found.size < size:
            others.append(found)
            found = None
    kept[:0] = others
    return np.empty(size, BYTE) if found is None else found


def give_back(memory: np.ndarray) -> None:
    """Keep a piece, in place of the smallest where there are enough."""
    if SMALL <= memory.size <= LARGEST:
        pieces = [memory]
        while kept:
            try:
                pieces.append(kept.pop())
            except IndexError:
                break
        pieces = sorted(pieces, key=len)[-PIECES:]
        while sum(map(len, pieces)) > ALL:
            pieces.pop(0)
        kept.extend(pieces)


class Owner:
    """What an array's memory belongs to: when the last array on it is gone, so is this, and `keep` gets the memory."""

    def __init__(self, memory: np.ndarray, keep: Callable[[np.ndarray], None]):
        self.memory, self.keep = memory, keep
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self.keep(self.memory)


def floats(shape: tuple[int, ...]) -> np.ndarray:
    """A float64 array, borrowed for as long as there is an array on its memory."""
    size = 8 * math.prod(shape)
    if size < SMALL:
        return np.empty(shape)
    return np.asarray(Owner(borrow(size), give_back))[:size].view(np.float64).reshape(shape)


def copy_of(a: np.ndarray, dtype: Any = np.float64) -> np.ndarray:
    """Numbers of 64 bits, in such memory, of an array whose own they hold."""
    made = floats(a.shape).view(dtype)
    if a.dtype == np.float32:  # a NaN may signal
        with np.errstate(invalid="ignore"):
            made[...] = a
    else:
        made[...] = a
    return made
