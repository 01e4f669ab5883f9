"""The CUDA backend's words (terms.py, threads.py and words.py) on a simulated GPU: memory that knows its bounds."""

import bisect
from types import ModuleType

import numpy as np

from fastsce import maths
from fastsce.spec import BFLOAT16

# --- memory -----------------------------------------------------------------------------------------------------------

allocations: dict[int, np.ndarray] = {}
addresses: list[int] = []


def allocate(size) -> np.ndarray:
    """Bytes that a simulated GPU may touch; where they begin is a multiple of 256."""
    room = np.full(size + 512, 0xFF, np.uint8)
    start = -room.ctypes.data % 256
    found = room[start : start + size]
    address = found.ctypes.data
    if address not in allocations:
        bisect.insort(addresses, address)
    allocations[address] = found
    return found


def release(address):
    if allocations.pop(address, None) is not None:
        addresses.remove(address)


class Fault(Exception):
    """A kernel went out of bounds."""


class Memory:
    """A pointer."""

    def __init__(self, address, dtype):
        self.address, self.dtype = address, dtype
        at = bisect.bisect_right(addresses, address) - 1
        if address == 0 or at < 0 or address > addresses[at] + allocations[addresses[at]].size:
            self.numbers, self.start = np.empty(0, dtype), 0
            return
        base = addresses[at]
        whole = allocations[base]
        raw = np.dtype(np.uint16) if dtype == BFLOAT16 else np.dtype(np.uint8) if dtype.kind == "b" else dtype
        assert (address - base) % raw.itemsize == 0
        self.numbers = whole[: whole.size // raw.itemsize * raw.itemsize].view(raw)
        self.start = (address - base) // raw.itemsize

    def place(self, i):
        k = self.start + int(i)
        if not 0 <= k < self.numbers.size:
            raise Fault(f"number {i} of {self.dtype} from {self.address:#x} is out of bounds")
        return k


def to_bfloat16(x):
    """The upper half of a float32, rounded to nearest even."""
    i = int(np.float32(x).view(np.uint32))
    if x != x:
        return 0x7FC0
    return (i + 0x7FFF + (i >> 16 & 1)) >> 16 & 0xFFFF


def from_bfloat16(half):
    return np.uint32(int(half) << 16).view(np.float32)


def compute(dtype):
    return np.float64 if dtype == np.float64 else np.float32


# --- words ------------------------------------------------------------------------------------------------------------

words = ModuleType("words")  # threads.py, words.py and terms.py in one


def word(function):
    setattr(words, function.__name__, function)
    return function


words.device = lambda function: function
words.float64, words.uint32 = np.float64, np.uint32


@word
def load(p, i):
    raw = p.numbers[p.place(i)]
    if p.dtype == BFLOAT16:
        return from_bfloat16(raw)
    if p.dtype == np.float16:
        return np.float32(raw)
    return int(raw) if p.numbers.dtype.kind in "iu" else raw


@word
def store(p, i, x):
    k = p.place(i)
    p.numbers[k] = to_bfloat16(x) if p.dtype == BFLOAT16 else x


@word
def load_like(p, i, like):
    return compute(like.dtype)(load(p, i))


@word
def number(x, like):
    return compute(like.dtype)(x)


words.small = words.wide = int


@word
def label(x):
    return min(int(x), 2**63 - 1)


@word
def width(p):
    return 16 // p.dtype.itemsize


@word
def to_boundary(p, i):
    return (-(p.address + int(i) * p.dtype.itemsize) & 15) // p.dtype.itemsize


def raw_word(p, i):
    first = p.place(i)
    p.place(i + width(p) - 1)
    if (p.address + int(i) * p.dtype.itemsize) % 16:
        raise Fault("a word at an address that is no multiple of 16")
    return p.numbers[first : first + width(p)]


@word
def load_word(p, i, held, j):
    held[j : j + 4] = raw_word(p, i).view(np.uint32)


@word
def store_word(p, i, held, j):
    raw_word(p, i).view(np.uint32)[:] = held[j : j + 4]


@word
def keep_word(kept, w, held, j):
    assert 4 * w + 4 <= kept.size
    kept[4 * w : 4 * w + 4] = held[j : j + 4]


@word
def take_word(kept, w, held, j):
    assert 4 * w + 4 <= kept.size
    held[j : j + 4] = kept[4 * w : 4 * w + 4]


@word
def get(held, n, p):
    if p.dtype.itemsize > 2:
        return held.view(p.dtype)[n]
    half = held.view(np.uint16)[n]
    return from_bfloat16(half) if p.dtype == BFLOAT16 else np.float32(half.view(np.float16))


@word
def put(held, n, x, y, p):
    for k, value in ((n, x), (n + 1, y)):
        if p.dtype == BFLOAT16:
            held.view(np.uint16)[k] = to_bfloat16(value)
        else:
            held.view(p.dtype)[k] = value


@word
def anew(x):
    return x


@word
def renew(held, j):
    pass


@word
def lowest(p):
    return number(-np.inf, p)


@word
def larger(top, held, j, p):
    for k in range(width(p)):
        top = maths.maximum(get(held, width(p) * j + k, p), top)
    return top


@word
def largest(top, p):
    return top


def half(p):
    return p.dtype.itemsize == 2


def exp2(x):
    """As the hardware has it, but for its last places: nothing is below the normal numbers."""
    two = np.exp2(np.float32(x))
    return np.float32(two if two >= 2.0**-126 or two != two else 0)


@word
def raised(p, z, power):
    return exp2(z * np.float32(1.4426950408889634)) if half(p) else maths.exp(z, power)


@word
def power_of(p, scale):
    return number(0.0 if half(p) else maths.carried(scale), p)


def laid_out(numbers_of):
    def loop(what, step, state, args):
        for n in numbers_of(what):
            state = step(n, state, *args)
        return state

    return loop


words.each = laid_out(range)
words.each_number = laid_out(lambda p: range(width(p)))
words.each_pair = laid_out(lambda p: range(0, width(p), 2))
