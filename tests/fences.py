"""Memory between unreadable pages, filled with canaries: who strays far dies at once, who strays near is found out."""

import ctypes
import mmap
import os

import numpy as np

FENCE = 1 << 26  # bytes that nobody can touch on either side; they cost addresses only
SIZES = (1 << 14, 1 << 18, 1 << 22)
CANARIES = (0xFF, 0x00, 0x5A)  # read as numbers: NaN and −1; 0; something large

system = ctypes.CDLL(None, use_errno=True)
system.mmap.restype = ctypes.c_void_p
system.mmap.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
FIXED, NOTHING = 0x10, 0x4020  # MAP_FIXED; MAP_PRIVATE is 2, MAP_ANONYMOUS 0x20, MAP_NORESERVE 0x4000


def reserve(size) -> int:
    """Addresses of which not a byte can be read or written."""
    return mapped(None, size, 0, mmap.MAP_PRIVATE | NOTHING, -1)


def mapped(address, size, protection, flags, file) -> int:
    found = system.mmap(address, size, protection, flags, file, 0)
    if found in (None, ctypes.c_void_p(-1).value):
        raise OSError(ctypes.get_errno(), "mmap failed")
    return found


def bytes_at(address, size) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def trespass() -> None:
    """What a library does that passes a fence."""
    bytes_at(reserve(FENCE), 1)[0] = 1


class Slot:
    """A piece of memory between two fences, for as long as the process lives.

    `kind` is what it is a piece of: RAM, or a file (in memory) that is mapped "r+" or "r".
    """

    def __init__(self, size, kind="ram"):
        self.size, self.kind = size, kind
        address = reserve(size + 2 * FENCE) + FENCE
        if kind == "ram":
            mapped(address, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | FIXED | NOTHING, -1)
            self.memory = self.filled = bytes_at(address, size)
            return
        self.file = os.memfd_create("slot")
        os.ftruncate(self.file, size)
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if kind == "r+" else 0)
        mapped(address, size, protection, mmap.MAP_SHARED | FIXED, self.file)
        self.memory = bytes_at(address, size)
        self.memory.flags.writeable = kind == "r+"
        self.filled = np.frombuffer(mmap.mmap(self.file, size), np.uint8)  # the same memory, writable


class Yard:
    """Slots of several sizes, made once and handed out for one call after the other."""

    def __init__(self):
        kinds = [(size, "ram", 12) for size in SIZES] + [(SIZES[0], "r+", 4), (SIZES[0], "r", 4)]
        self.free = {(size, kind): [Slot(size, kind) for _ in range(count)] for size, kind, count in kinds}
        self.taken = {}  # slots and what was in them before the call, by name
        self.canary = 0

    def clear(self, canary) -> None:
        for slot in self.taken:
            self.free[slot.size, slot.kind].append(slot)
        self.taken, self.canary = {}, canary

    def take(self, size, kind="ram") -> Slot:
        """A slot of at least so many bytes, all canaries."""
        room = next(s for s in SIZES if size <= s)
        slot = (self.free.get((room, kind)) or self.free[room, "ram"]).pop()
        slot.filled.fill(self.canary)
        self.taken[slot] = None
        return slot

    def remember(self) -> None:
        for slot in self.taken:
            self.taken[slot] = slot.filled.tobytes()

    def disturbed(self) -> list[str]:
        """The bytes that are not what they were."""
        found = []
        for slot, kept in self.taken.items():
            if slot.filled.tobytes() != kept:
                at = np.flatnonzero(slot.filled != np.frombuffer(kept, np.uint8))
                found.append(f"{at.size} bytes from {at[0]} to {at[-1]} of {slot.size} ({slot.kind})")
        return found


# --------------------------------------------------------------------------------------------------- arrays in a slot


def strides_of(shape, itemsize, order, gaps, odd) -> list[int]:
    """Bytes from one element to the next: axes of `order` from outer to inner, each element `gaps` times as far from
    the next as it has to be, 0 for one that is repeated; `odd` bytes more, so that elements lie between their places.
    """
    strides, step = [0] * len(shape), itemsize + odd
    for axis in reversed(order):
        strides[axis] = step * gaps[axis]
        step = max(step, abs(strides[axis]) * max(shape[axis], 1))
    return strides


def span(shape, strides, itemsize) -> int:
    """Bytes from the first to the last."""
    if 0 in shape:
        return 0
    return sum(abs(s) * (n - 1) for s, n in zip(strides, shape)) + itemsize


def lay(memory, shape, dtype, strides, shift, upper) -> np.ndarray:
    """An array `shift` bytes off the upper or the lower fence; negative strides run backwards within its span."""
    size = span(shape, strides, dtype.itemsize)
    lowest = memory.size - size - shift if upper else shift
    first = lowest + sum(-s * (n - 1) for s, n in zip(strides, shape) if s < 0 and n)
    return np.ndarray(shape, dtype, memory, first if size else 0, strides)
