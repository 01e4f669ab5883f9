"""Threads: how many, whose, and how work comes to them.

A kernel is compiled as one thread runs it, and its work is cut into parts. If there is only one, the kernel does it.
Else it leaves what a part has to know at the beginning of `memory` and returns the address of the compiled code, with
which each thread takes part after part (parts.py). So no kernel enters a parallel region that it does not need, numba's
machinery for parallel loops compiles nothing but the call, and a long call is back in Python between rounds, where
Ctrl-C is seen.

The threads are numba's. Where those cannot be used they are the system's own, started for a round: numba's `workqueue`
layer ends the process when two threads enter it at once, and a forked child has none of its parent's threads.
"""

from __future__ import annotations

import os

import numba
import numpy as np
from numba import prange
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel

from fastsce import forks
from fastsce.backends.cpu.jit import kernel
from fastsce.backends.cpu.memory import pointer
from fastsce.backends.cpu.parts import DESK, JOB_BYTES, join, offer, start, work_off
from fastsce.backends.cpu.tuning import ALONE, PART, ROUND
from fastsce.scratch import borrow, give_back


def thread_count() -> int:
    """How many threads a kernel uses, as `numba.set_num_threads` set it for this thread.

    `numba.get_num_threads` locks out all threads and, where children are forked, all processes, and a lock that is
    held while another thread forks is never released in the child, nor by it: so it is for the first call only.
    """
    if parallel._is_initialized:
        return parallel._get_num_threads()
    with global_compiler_lock:  # a fork waits for it
        return numba.get_num_threads()


def parts_of(size: int, most: int) -> int:
    """In how many parts to work on `size` bytes that can be cut into `most`."""
    if size <= ALONE:
        return 1
    threads = thread_count()
    some = threads * PART if threads > 1 else ROUND
    return min(threads * -(-size // some), most)


def run(function, form, args, parts, scratch, size):
    """Run a kernel in so many parts; each thread has `scratch` bytes of memory to itself. A round has no more of the
    `size` bytes than Ctrl-C may wait for, if there is a part for each thread.
    """
    threads = min(parts, thread_count()) if parts > 1 else 1
    memory = borrow(JOB_BYTES + threads * scratch)
    args += (memory,)
    address = function.entry(form, args)(*args)
    if parts > 1:
        some = max(1, parts * ROUND // size) * threads  # as many for each
        for first in range(0, parts, some):
            drive(address, memory, scratch, first, min(parts, first + some), threads)
    give_back(memory)


def drive(address, memory, scratch, first, stop, threads):
    """Have a round done: the parts from `first` on, by so many threads."""
    args = (address, memory, scratch, first, stop, threads)
    if threads > 1 and not forks.child and numba.threading_layer() != "workqueue":
        call_by_numba.entry(None, args)(*args)
    elif threads > 1 and os.name == "posix":
        desks = np.empty(threads * DESK, np.int64)
        call_by_system.entry(None, (*args, desks))(*args, desks)
    else:
        own = (address, memory, first, stop)
        call_alone.entry(None, own)(*own)


def threading_layer() -> str:
    """numba's layer in use, or the one it is set to where no kernel has run yet."""
    try:
        return numba.threading_layer()
    except ValueError:
        return f"{numba.config.THREADING_LAYER} (not started)"


def cache_directory() -> str | None:
    """Where compiled kernels are kept, or None where no place can be written to."""
    call_alone.enable_cache()
    return getattr(call_alone.dispatcher._cache, "cache_path", None)


@kernel
def call_by_numba(address, memory, scratch, first, stop, threads):
    offer(memory, first, stop)
    for i in prange(threads):
        work_off(address, memory, JOB_BYTES + i * scratch)


@kernel
def call_by_system(address, memory, scratch, first, stop, threads, desks):
    """Where a thread cannot be had, the others do its parts."""
    offer(memory, first, stop)
    for i in range(1, threads):
        start(pointer(desks), i, address, memory, JOB_BYTES + i * scratch)
    work_off(address, memory, JOB_BYTES)
    for i in range(1, threads):
        join(pointer(desks), i)


@kernel
def call_alone(address, memory, first, stop):
    offer(memory, first, stop)
    work_off(address, memory, JOB_BYTES)
