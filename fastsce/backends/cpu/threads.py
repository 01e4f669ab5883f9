"""Threads: how many, whose, and how work comes to them.

A kernel is compiled as one thread runs it, and its work is cut into parts. If there is only one, the kernel does it.
Else it leaves what a part has to know at the beginning of `memory` and returns the address of the compiled code, which
threads call part by part. So no kernel enters a parallel region that it does not need, numba's machinery for parallel
loops compiles nothing but the call, and a long call is back in Python between rounds, where Ctrl-C is seen.

The threads are numba's. Where those cannot be used they are the system's own, started for a round: numba's `workqueue`
layer ends the process when two threads enter it at once, and a forked child has none of its parent's threads.
"""

from __future__ import annotations

import os

import numba
import numpy as np
from numba import prange

from fastsce.backends.cpu.jit import kernel
from fastsce.backends.cpu.memory import pointer
from fastsce.backends.cpu.parts import DESK, JOB_BYTES, call, finished, start
from fastsce.backends.cpu.tuning import ALONE, ROUND
from fastsce.scratch import borrow, give_back

forked = False  # since numba's threads may have been started


def note_fork():
    global forked
    forked = True


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=note_fork)


def thread_count() -> int:
    """How many threads a kernel uses, as `numba.set_num_threads` set it for this thread."""
    return numba.get_num_threads()


def parts_of(size: int, most: int) -> int:
    """In how many parts to work on `size` bytes that can be cut into `most`. In a round every thread has one."""
    if size <= ALONE:
        return 1
    threads = thread_count()
    return min(threads * -(-size // (threads * ROUND)), most)


def run(function, form, args, parts, scratch):
    """Run a kernel in so many parts; each has `scratch` bytes of memory to itself."""
    threads = min(parts, thread_count()) if parts > 1 else 1
    memory = borrow(JOB_BYTES + threads * scratch)
    args += (memory,)
    address = function.entry(form, args)(*args)
    if parts > 1:
        for first in range(0, parts, threads):
            drive(address, memory, scratch, first, min(threads, parts - first))
    give_back(memory)


def drive(address, memory, scratch, first, count):
    """Have a round done: `count` parts from `first` on, each by a thread."""
    args = (address, memory, scratch, first, count)
    if count > 1 and not forked and numba.threading_layer() != "workqueue":
        call_by_numba.entry(None, args)(*args)
    elif count > 1 and os.name == "posix":
        desks = np.empty(count * DESK, np.int64)
        call_by_system.entry(None, (*args, desks))(*args, desks)
    else:
        call_in_turn.entry(None, args)(*args)


def threading_layer() -> str:
    """numba's layer in use, or the one it is set to where no kernel has run yet."""
    try:
        return numba.threading_layer()
    except ValueError:
        return f"{numba.config.THREADING_LAYER} (not started)"


def cache_directory() -> str | None:
    """Where compiled kernels are kept, or None where no place can be written to."""
    call_in_turn.enable_cache()
    return getattr(call_in_turn.dispatcher._cache, "cache_path", None)


@kernel
def call_by_numba(address, memory, scratch, first, count):
    for i in prange(count):
        call(address, memory, JOB_BYTES + i * scratch, first + i)


@kernel
def call_by_system(address, memory, scratch, first, count, desks):
    """Each thread but this one is told at its desk what to do; the part of one that cannot be had is done here."""
    for i in range(1, count):
        start(pointer(desks), i, address, memory, JOB_BYTES + i * scratch, first + i)
    call(address, memory, JOB_BYTES, first)
    for i in range(1, count):
        if not finished(pointer(desks), i):
            call(address, memory, JOB_BYTES + i * scratch, first + i)


@kernel
def call_in_turn(address, memory, scratch, first, count):
    for i in range(count):
        call(address, memory, JOB_BYTES, first + i)
