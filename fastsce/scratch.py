"""Memory that a call uses and forgets, kept for the next: the first touch of fresh pages costs more than short rows.

What is in it never reaches a result. A call that fails may keep what it borrowed; the next one gets other memory.
"""

from __future__ import annotations

import math

import numpy as np

SMALL = 1 << 17  # bytes: malloc has less at hand, without fresh pages
LARGEST = 9 << 25  # bytes of a piece that is kept: the terms of 64 threads' rows of 262144 classes
PIECES = 3  # kept at most: a call needs as many

BYTE = np.dtype(np.uint8)

kept: list[np.ndarray] = []


def borrow(size: int) -> np.ndarray:
    """At least so many bytes. Whoever comes meanwhile, a thread or a signal's handler, finds other pieces or none."""
    found, others = None, []
    while size >= SMALL and kept and found is None:
        try:
            found = kept.pop()
        except IndexError:
            break
        if found.size < size:
            others.append(found)
            found = None
    if others:
        kept.extend(others)
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
        kept.extend(sorted(pieces, key=len)[-PIECES:])


def floats(shape: tuple[int, ...]) -> np.ndarray:
    """A borrowed float64 array; give its `base` back."""
    size = 8 * math.prod(shape)
    return borrow(size)[:size].view(np.float64).reshape(shape)
