"""What the machine can do: copying the logits with ordinary and with streaming stores."""

from __future__ import annotations

import numba
from numba import prange

from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import fence, load, pointer, store, stream

LANES = 64


@kernel
def copy_ordinary(source, target, parts):
    for part in prange(parts):
        copy_share(pointer(source), pointer(target), part, parts, source.size)


@kernel
def copy_streaming(source, target, parts):
    for part in prange(parts):
        stream_share(pointer(source), pointer(target), part, parts, source.size)


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


def copy(logits, out) -> None:
    """Ordinary stores, all threads: what every ratio is taken against."""
    copy_ordinary(logits.reshape(-1), out.reshape(-1), numba.get_num_threads())


def stream_copy(logits, out) -> None:
    """Stores past the caches, all threads: the floor for batches that no cache holds."""
    copy_streaming(logits.reshape(-1), out.reshape(-1), numba.get_num_threads())
