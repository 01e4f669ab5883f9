"""Memory of large results: when nobody holds one any more, the next of its size takes its place.

The first touch of fresh pages takes 0.6 to 3 times as long as a loss and its gradient (256 and 48 MB). Smaller results
are left to malloc, which keeps memory itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from fastsce import scratch

LEAST = 32 << 20  # bytes: of less, glibc's malloc lets nothing go; a gradient of 24 MB takes as long as with `out=`
MOST = 1 << 30  # bytes of a result that waits for a next one, without its line: 1024 x 262144 float32
ALL = 5 << 28  # of all that wait: beside the largest gradient of 8 float32 classes and more there is room for its lse
SPARE = 0.25  # of a result's bytes: as much larger a piece may be
LINE = 64  # bytes: a result begins with a cache line, so that all of it can be streamed

BYTE = np.dtype(np.uint8)

waiting: list[np.ndarray] = []  # the oldest first


def empty(shape: tuple[int, ...], dtype: np.dtype, axes: Sequence[int]) -> np.ndarray:
    """An array whose axes lie in memory in this order."""
    size = dtype.itemsize * math.prod(shape)
    found = find(size, size * (1 + SPARE))
    memory = np.asarray(scratch.Owner(new(size) if found is None else found, keep))
    made = np.ndarray([shape[axis] for axis in axes], dtype, memory, -memory.ctypes.data % LINE)
    return made.transpose(np.argsort(axes))


def find(least, most):
    """A piece that waits. Whoever comes meanwhile, a thread or the end of another result, finds others or none."""
    others = []
    try:
        while not least + LINE <= (found := waiting.pop()).size <= most + LINE:
            others.append(found)
        return found
    except IndexError:
        return None
    finally:
        waiting.extend(reversed(others))


def new(size):
    try:
        return np.empty(size + LINE, BYTE)
    except MemoryError:
        if not waiting:
            raise
    waiting.clear()
    return np.empty(size + LINE, BYTE)


def keep(memory: np.ndarray) -> None:
    if memory.size > MOST + LINE:
        return
    waiting.append(memory)
    while sum(piece.size for piece in waiting) > ALL:
        try:
            waiting.pop(0)
        except IndexError:
            break


def empty_cache() -> None:
    """Let go of the CPU's memory that waits to be used again: large results that nobody holds any more, and scratch.

    There are at most some 2 GB of it, and nothing changes but the time of the next large call. A large result that
    finds no other memory does this by itself, nothing else does. Named after torch's function.

    >>> import fastsce
    >>> fastsce.empty_cache()
    """
    waiting.clear()
    scratch.kept.clear()
