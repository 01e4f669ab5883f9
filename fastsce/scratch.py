"""Memory that a call uses and forgets, kept for the next: the first touch of fresh pages costs more than short rows.

What is in it never reaches a result. A call that fails may keep what it borrowed; the next one gets other memory.
"""

from __future__ import annotations

import math

import numpy as np

SMALL = 1 << 17  # bytes: malloc has less at hand, without fresh pages
LARGEST = 1 << 25  # bytes of a piece that is kept
PIECES = 2  # kept at most: a call needs as many

kept: list[np.ndarray] = []


def borrow(size: int) -> np.ndarray:
    """At least so many bytes."""
    if size >= SMALL:
        try:
            memory = (
                kept.pop()
            )  # whoever comes meanwhile, from another thread or a signal, finds another piece, or none
        except IndexError:
            pass
        else:
            if memory.size >= size:
                return memory
    return np.empty(size, np.uint8)


def give_back(memory: np.ndarray) -> None:
    if SMALL <= memory.size <= LARGEST and len(kept) < PIECES:
        kept.append(memory)


def floats(shape: tuple[int, ...]) -> np.ndarray:
    """A borrowed float64 array; give its `base` back."""
    size = 8 * math.prod(shape)
    return borrow(size)[:size].view(np.float64).reshape(shape)
