"""Threads: how many, whose, and how work comes to them.

A kernel is compiled as one thread runs it, and its work is cut into parts. If there is only one, the kernel does it.
Else it leaves what a part has to know at the beginning of `memory` and returns the address of the compiled code, which
threads call part by part. So no kernel enters a parallel region that it does not need, numba's machinery for parallel
loops compiles nothing but the call, and a long call is back in Python between rounds, where Ctrl-C is seen.

The threads are numba's. Where those cannot be used they are Python's: numba's `workqueue` layer ends the process when
two threads enter it at once, and a forked child has none of the threads that its parent started.
"""

from __future__ import annotations

import os
import threading

import numba
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from fastsce.backends.cpu.jit import kernel
from fastsce.backends.cpu.tuning import ALONE, ROUND
from fastsce.scratch import borrow, give_back

JOB_BYTES = 1024  # of memory, for what a part has to know
I64, BYTES = ir.IntType(64), ir.IntType(8).as_pointer()
PART = (
    types.voidptr,
    types.voidptr,
    types.int64,
)  # what it has to know, its own memory, its number

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
            drive(address, memory, scratch, first, min(threads, parts - first), args)
    give_back(memory)


def drive(address, memory, scratch, first, count, arrays):
    """Have a round done: `count` parts from `first` on, each by a thread."""
    if count == 1:
        call_one(address, memory, scratch, 0, first)
    elif forked or numba.threading_layer() == "workqueue":
        call_by_python(address, memory, scratch, first, count, arrays)
    else:
        args = (address, memory, scratch, first, count)
        call_all.entry(None, args)(*args)


def call_by_python(address, memory, scratch, first, count, arrays):
    def work(i, arrays):  # it holds the arrays, should the wait for it be ended
        call_one(address, memory, scratch, i, first + i)

    started = []
    try:
        for i in range(1, count):
            thread = threading.Thread(target=work, args=(i, arrays))
            try:
                thread.start()
                started.append(thread)
            except RuntimeError:  # there can be no more
                work(i, arrays)
        work(0, arrays)
    finally:
        join(started)


def join(threads):
    """Wait for all, and if that is interrupted too, once more: nothing is to be written after a call's end."""
    try:
        for thread in threads:
            thread.join()
    except BaseException:
        for thread in threads:
            thread.join()
        raise


def threading_layer() -> str:
    """numba's layer in use, or the one it is set to where no kernel has run yet."""
    try:
        return numba.threading_layer()
    except ValueError:
        return f"{numba.config.THREADING_LAYER} (not started)"


def cache_directory() -> str | None:
    """Where compiled kernels are kept, or None where no place can be written to."""
    call_one.enable_cache()
    return getattr(call_one.dispatcher._cache, "cache_path", None)


@kernel
def call_all(address, memory, scratch, first, count):
    for i in prange(count):
        call(address, memory, JOB_BYTES + i * scratch, first + i)


@kernel
def call_one(address, memory, scratch, i, part):
    call(address, memory, JOB_BYTES + i * scratch, part)


@intrinsic
def hand_out(typing, work, parts, memory, args):
    """work(part, scratch, *args) for the only part; for several, the address with which they are to be called."""
    job = (types.int64, types.CPointer(types.uint8), *args.types)
    work_signature = work.get_call_type(typing, job, {})

    def build(context, builder, signature, values):
        stored = values[3].type
        if context.get_abi_sizeof(stored) > JOB_BYTES:
            raise TypeError("what a part has to know is longer than JOB_BYTES")
        function = ir.Function(builder.module, part_type(context), f"{builder.function.name}.part")
        function.linkage = "internal"
        function.attributes.add("noinline")  # compiled once
        inner = ir.IRBuilder(function.append_basic_block())
        start, scratch, part = function.args[2:]
        known = inner.load(inner.bitcast(start, stored.as_pointer()), align=8)
        members = [inner.extract_value(known, i) for i in range(len(args.types))]
        context.get_function(work, work_signature)(inner, [part, scratch, *members])
        inner.ret(ir.Constant(ir.IntType(32), 0))

        data = context.make_array(memory)(context, builder, values[2]).data
        builder.store(values[3], builder.bitcast(data, stored.as_pointer()), align=8)
        with builder.if_then(builder.icmp_signed("==", values[1], I64(1))):
            call_part(context, builder, function, data, I64(JOB_BYTES), I64(0))
        return builder.ptrtoint(function, I64)

    return types.int64(work, parts, memory, args), build


@intrinsic
def call(typing, address, memory, offset, part):
    """A part, whose own memory begins at memory[offset]."""

    def build(context, builder, signature, values):
        function = builder.inttoptr(values[0], part_type(context).as_pointer())
        data = context.make_array(memory)(context, builder, values[1]).data
        call_part(context, builder, function, data, *values[2:])
        return context.get_dummy_value()

    return types.void(types.int64, memory, types.int64, types.int64), build


def part_type(context):
    return context.call_conv.get_function_type(types.none, PART)


def call_part(context, builder, function, memory, offset, part):
    """A part allocates nothing and raises nothing, so its status is not looked at."""
    unused = [builder.alloca(t.pointee) for t in part_type(context).args[:2]]
    scratch = builder.gep(memory, [offset])
    builder.call(function, [*unused, builder.bitcast(memory, BYTES), builder.bitcast(scratch, BYTES), part])
