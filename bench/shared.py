"""Arrays that several processes see."""

from __future__ import annotations

import gc
import math
from multiprocessing.shared_memory import SharedMemory
from typing import NamedTuple

import numpy as np


class Described(NamedTuple):
    """An array in shared memory, as it is told to another process; each starts on a page."""

    segment: str
    shape: tuple[int, ...]
    dtype: str
    order: str

    def over(self, memory: SharedMemory) -> np.ndarray:
        count = math.prod(self.shape)
        return np.frombuffer(memory.buf, self.dtype, count).reshape(self.shape, order=self.order)


class Arena:
    """Makes such arrays, or opens them by their description, and keeps their memory until it is closed."""

    def __init__(self):
        self.segments: dict[str, SharedMemory] = {}
        self.made: dict[int, str] = {}  # name of the segment, by address

    def empty(self, shape, dtype, order="C") -> np.ndarray:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        memory = SharedMemory(create=True, size=max(size, 1))
        self.segments[memory.name] = memory
        array = Described(memory.name, tuple(shape), np.dtype(dtype).name, order).over(memory)
        array.reshape(-1, order="A").view(np.uint8).fill(0)  # every page has been touched
        self.made[address(array)] = memory.name
        return array

    def describe(self, array: np.ndarray) -> Described:
        """Of an array made here, or of its beginning in another shape."""
        order = "C" if array.flags.c_contiguous else "F"
        return Described(self.made[address(array)], array.shape, array.dtype.name, order)

    def open(self, description: Described) -> np.ndarray:
        if description.segment not in self.segments:
            self.segments[description.segment] = SharedMemory(description.segment)
        return description.over(self.segments[description.segment])

    def close(self) -> None:
        """Give the memory back. What a framework still holds a view of is tried again the next time."""
        gc.collect()
        for name, memory in list(self.segments.items()):
            if name in self.made.values():
                memory.unlink()
            try:
                memory.close()
            except BufferError:
                continue
            del self.segments[name]
        self.made.clear()


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]
