"""Threads: how many, whose, and how work comes to them.

A kernel is compiled as one thread runs it. It leaves all that a part has to know at the beginning of `memory`, and does
the work itself if there is only one part; else it returns the address of the compiled code, and `drive` has each thread
call it. So no kernel enters a parallel region that it does not need, and numba's machinery for parallel loops, which
compiles its body several times over, compiles nothing but the call.
"""

from __future__ import annotations

import numba
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import moved_bytes
from fastsce.backends.cpu.tuning import ALONE
from fastsce.scratch import borrow, give_back

JOB_BYTES = 1024  # of memory, for what a part has to know
I64, BYTES = ir.IntType(64), ir.IntType(8).as_pointer()
PART = (types.voidptr, types.int64)  # the arguments of a part: memory, and its number


def thread_count() -> int:
    """How many threads a kernel uses, as `numba.set_num_threads` set it for this thread."""
    return numba.get_num_threads()


def parts_of(size: int, most: int) -> int:
    """How many threads are to share `size` bytes of input that can be cut into `most` parts."""
    return 1 if size <= ALONE else min(thread_count(), most)


def run(function, form, args, parts, scratch):
    """Run a kernel on so many threads, each with so many bytes of memory to itself."""
    memory = borrow(JOB_BYTES + parts * scratch)
    args += (memory,)
    address = function.entry(form, args)(*args)
    if parts > 1:
        drive(address, memory, parts)
    give_back(memory)


def threading_layer() -> str:
    """numba's layer in use, or the one it is set to where no kernel has run yet."""
    try:
        return numba.threading_layer()
    except ValueError:
        return f"{numba.config.THREADING_LAYER} (not started)"


def cache_directory() -> str | None:
    """Where compiled kernels are kept, or None where no place can be written to."""
    drive.enable_cache()
    return getattr(drive.dispatcher._cache, "cache_path", None)


@kernel
def drive(address, memory, parts):
    for part in prange(parts):
        call(address, memory, part)


@device
def room(memory, part, scratch):
    """A part's own memory."""
    return moved_bytes(memory, JOB_BYTES + part * scratch)


@intrinsic
def hand_out(typing, work, parts, memory, args):
    """work(part, memory, *args) for the only part; for several, the address with which `drive` is to call it."""
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
        start, part = function.args[2:]
        known = inner.load(inner.bitcast(start, stored.as_pointer()), align=8)
        members = [inner.extract_value(known, i) for i in range(len(args.types))]
        context.get_function(work, work_signature)(inner, [part, start, *members])
        inner.ret(ir.Constant(ir.IntType(32), 0))

        data = context.make_array(memory)(context, builder, values[2]).data
        builder.store(values[3], builder.bitcast(data, stored.as_pointer()), align=8)
        with builder.if_then(builder.icmp_signed("==", values[1], I64(1))):
            call_part(context, builder, function, data, I64(0))
        return builder.ptrtoint(function, I64)

    return types.int64(work, parts, memory, args), build


@intrinsic
def call(typing, address, memory, part):
    def build(context, builder, signature, values):
        function = builder.inttoptr(values[0], part_type(context).as_pointer())
        data = context.make_array(memory)(context, builder, values[1]).data
        call_part(context, builder, function, data, values[2])
        return context.get_dummy_value()

    return types.void(types.int64, memory, types.int64), build


def part_type(context):
    return context.call_conv.get_function_type(types.none, PART)


def call_part(context, builder, function, memory, part):
    """A part allocates nothing and raises nothing, so its status is not looked at."""
    unused = [builder.alloca(t.pointee) for t in part_type(context).args[:2]]
    builder.call(function, [*unused, builder.bitcast(memory, BYTES), part])
