"""What the machine can do: reading the logits, and copying them with ordinary and with streaming stores."""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import fence, load, pointer, store, stream
from fastsce.backends.cpu.reductions import total

LANES = 64


@kernel
def copy_ordinary(source, target, parts):
    for part in prange(parts):
        copy_share(pointer(source), pointer(target), part, parts, source.size)


@kernel
def copy_streaming(source, target, parts):
    for part in prange(parts):
        stream_share(pointer(source), pointer(target), part, parts, source.size)


@kernel
def copy_sum(source, other, target, parts):
    for part in prange(parts):
        sum_share(pointer(source), pointer(other), pointer(target), part, parts, source.size)


@kernel
def read_all(source, sums, parts):
    for part in prange(parts):
        sums[part] = read_share(pointer(source), part, parts, source.size)


@device
def start_of(part, parts, size):
    return part * (size // LANES) // parts * LANES


@device
def copy_share(source, target, part, parts, size):
    for j in range(start_of(part, parts, size), start_of(part + 1, parts, size), LANES):
        store(target, j, load(source, j, LANES))


@device
def stream_share(source, target, part, parts, size):
    for j in range(start_of(part, parts, size), start_of(part + 1, parts, size), LANES):
        stream(target, j, load(source, j, LANES))
    fence()


@device
def sum_share(source, other, target, part, parts, size):
    for j in range(start_of(part, parts, size), start_of(part + 1, parts, size), LANES):
        store(target, j, load(source, j, LANES) + load(other, j, LANES))


@device
def read_share(source, part, parts, size):
    first, last = start_of(part, parts, size), start_of(part + 1, parts, size)
    if first == last:
        return 0.0
    sums = load(source, first, LANES)
    for j in range(first + LANES, last, LANES):
        sums = sums + load(source, j, LANES)
    return total(sums)


def words(array) -> np.ndarray:
    """An array's memory as float32, whatever its dtype and its order; without a last half of one."""
    memory = array.ravel("K").view(np.uint8)
    return memory[: memory.size // 4 * 4].view(np.float32)


def copy(logits, out) -> None:
    """Ordinary stores, all threads: what every ratio is taken against."""
    copy_ordinary(words(logits), words(out), numba.get_num_threads())


def stream_copy(logits, out) -> None:
    """Stores past the caches, all threads: the floor for batches that no cache holds."""
    copy_streaming(words(logits), words(out), numba.get_num_threads())


def copy_reading_both(logits, target, out) -> None:
    """Two reads and a write, ordinary stores: the floor where the target is as large as the logits."""
    copy_sum(words(logits), words(target), words(out), numba.get_num_threads())


def read(logits) -> float:
    """The sum of all logits: the floor of the loss alone."""
    sums = np.zeros(numba.get_num_threads())
    read_all(words(logits), sums, len(sums))
    return sums.sum()


# --- as contestants, as `ours.py` has them ----------------------------------------------------------------------------


def copying(given):
    return lambda: copy(given.logits, given.out)


def copying_past_caches(given):
    return lambda: stream_copy(given.logits, given.out)


def copying_with_targets(given):
    return lambda: copy_reading_both(given.logits, given.target, given.out)


def reading(given):
    return lambda: read(given.logits)
