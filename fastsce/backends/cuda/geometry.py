"""Which variant of the kernel serves a call, and how its threads share the rows. None of these numbers was measured."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

from fastsce.backends.cuda.job import COLUMNS, HESSIAN, LONG, ROWS
from fastsce.backends.cuda.softmax import softmax

WORD = 16  # bytes
THREADS = 512  # a block has at most, of 128 registers each
FEWER_THREADS = 256  # where 128 would not do: compute capability 8, float64, shares of a target, a softcap
NEW = 9  # compute capability
BLOCK = 128  # threads of a block of several rows
SLOTS = 8  # words a thread has in registers: with 36 registers of data, none of 128 is spilled
FEW_SLOTS = 4  # where more is worked out with each number: float64, a softcap, the Hessian
COLUMN_BYTES = 64  # a thread has in registers, in columns, but no more than
COLUMN_NUMBERS = 16
WARP = 32
SHORT = 128  # bytes of a row: shorter ones are columns, since few of their words would be whole
STATIC = 4096  # bytes of shared memory that the kernel has for itself, rounded up
RESERVED = 1024  # and those that every block has beside what it may ask for
ROW_BLOCKS = 1 << 30  # of a grid at most; it has 2^31 − 1


class Geometry(NamedTuple):
    regime: int
    slots: int
    team: int  # threads a row
    block: tuple[int, int]
    grid: int
    kept: int  # words of a row in shared memory


@lru_cache(maxsize=256)
def arrange(
    rows: int,
    classes: int,
    itemsize: int,
    words: bool,
    samples: int,
    heavy: bool,
    processors: int,
    shared: int,
    threads: int,
) -> Geometry:
    """`words`: rows can be moved word by word. `samples`: how many neighbours in memory are other rows, 1 for none.
    `heavy`: much is worked out with each number. `shared`: bytes of shared memory a block may have.
    """
    width = WORD // itemsize
    if words and classes * itemsize >= SHORT:
        slots = slots_of(ROWS, itemsize, heavy)
        half = threads // 2  # so that while one block waits another works
        team = power_of_two(-(-classes // (width * slots)), 2, half)
        if team * slots * width >= classes:
            several = max(1, min(BLOCK, half) // team)
            return Geometry(ROWS, slots, team, (team, several), min(-(-rows // several), ROW_BLOCKS), 0)
        words_of_row = -(-classes // width)
        for blocks, team in ((2, half), (1, threads)):
            room = ((shared + RESERVED) // blocks - RESERVED - STATIC) // WORD
            kept = words_of_row - team * slots
            if kept <= room or blocks == 1:
                return Geometry(LONG, slots, team, (team, 1), min(rows, blocks * processors), max(0, min(kept, room)))
    slots = slots_of(COLUMNS, itemsize, heavy)
    numbers = slots * width
    across = power_of_two(samples, 1, WARP)
    team = power_of_two(-(-classes // numbers), 1, threads // across)
    across = max(across, min(BLOCK, threads) // team)
    return Geometry(COLUMNS, slots, team, (across, team), min(-(-rows // across), ROW_BLOCKS), 0)


def threads_of(capability: tuple[int, ...]) -> int:
    """A block has at most on such a GPU."""
    return THREADS if capability[0] >= NEW else FEWER_THREADS


def most_threads(threads: int, itemsize: int, shared: bool, softcap: bool) -> int:
    """And in such a variant."""
    return min(threads, FEWER_THREADS) if itemsize == 8 or shared or softcap else threads


def slots_of(regime: int, itemsize: int, heavy: bool) -> int:
    """How many words a thread has in registers."""
    if regime == COLUMNS:
        return min(COLUMN_NUMBERS, COLUMN_BYTES // itemsize) * itemsize // WORD
    return FEW_SLOTS if heavy or itemsize == 8 else SLOTS


def power_of_two(n: int, least: int, most: int) -> int:
    """The next one, within bounds that are some."""
    return max(least, min(most, 1 << (max(n, 1) - 1).bit_length()))


@cache
def kernel(regime: int, slots: int, shared: bool, soft: bool, softcap: bool, write: int, precise: bool) -> Any:
    """The variant; `precise`: numbers are stored as they are worked on. Always the same object for the same variant."""
    keep = precise and not softcap and write < HESSIAN
    return softmax(regime, slots, shared, soft or None, softcap or None, write, keep)
