"""Parts of a kernel's work, in LLVM: how threads take them, what they are told, and threads of the system for it.

A thread takes a part, works on it and takes the next, until there is none left: one that is held up gets fewer.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.vectors import I8, I32, I64

JOB_BYTES = 1024  # of memory, for what a part has to know
NEXT_PART = JOB_BYTES - 64  # where the number of the next part is, and then the end of the round
DESK = 4  # numbers: address, job and memory, and then the thread
BYTES = I8.as_pointer()
PARTS = (types.voidptr, types.voidptr)  # what they have to know, and the memory of the thread that works on them


@intrinsic
def hand_out(typing, work, parts, memory, args):
    """work(queue, scratch, *args), which takes parts until there is none left, for the only part; for several, the
    address with which threads are to be called.
    """
    job = (types.CPointer(types.uint8), types.CPointer(types.uint8), *args.types)
    work_signature = work.get_call_type(typing, job, {})

    def build(context, builder, signature, values):
        function = ir.Function(builder.module, parts_type(context), f"{builder.function.name}.parts")
        function.linkage = "internal"
        function.attributes.add("noinline")  # compiled once
        inner = ir.IRBuilder(function.append_basic_block())
        job, scratch = function.args[2:]
        known = inner.load(inner.bitcast(job, values[3].type.as_pointer()), align=8)
        members = [inner.extract_value(known, i) for i in range(len(args.types))]
        context.get_function(work, work_signature)(inner, [job, scratch, *members])
        inner.ret(ir.Constant(I32, 0))

        data = left(context, builder, context.make_array(memory)(context, builder, values[2]).data, values[3])
        with builder.if_then(builder.icmp_signed("==", values[1], I64(1))):
            call_for_parts(context, builder, function, data, builder.gep(data, [I64(JOB_BYTES)]))
        return builder.ptrtoint(function, I64)

    return types.int64(work, parts, memory, args), build


@intrinsic
def next_part(typing, queue):
    """The number of a part that nobody has taken; −1 if there is none."""

    def build(context, builder, signature, values):
        taken, count = (number_at(builder, values[0], NEXT_PART + i * 8) for i in range(2))
        part = builder.atomic_rmw("add", taken, I64(1), "monotonic")
        return builder.select(builder.icmp_signed("<", part, builder.load(count)), part, I64(-1))

    return types.int64(queue), build


@device
def next_share(queue, count, parts):
    """Where the next part begins and ends, of so many things that are cut in so many parts; twice the same if there is
    none.
    """
    part = next_part(queue)
    while part >= 0 and part * count // parts == (part + 1) * count // parts:
        part = next_part(queue)
    return max(part, 0) * count // parts, (part + 1) * count // parts


def left(context, builder, data, job):
    if context.get_abi_sizeof(job.type) > NEXT_PART:
        raise TypeError("what a part has to know is longer than there is room for")
    builder.store(job, builder.bitcast(data, job.type.as_pointer()), align=8)
    for i, number in enumerate((0, 1)):  # there is one part, until `offer` says what else
        builder.store(I64(number), number_at(builder, data, NEXT_PART + i * 8))
    return data


@intrinsic
def leave(typing, memory, args):
    """Leave what the only part has to know at the beginning of memory, as `hand_out` does."""

    def build(context, builder, signature, values):
        left(context, builder, context.make_array(memory)(context, builder, values[0]).data, values[1])
        return context.get_dummy_value()

    return types.void(memory, args), build


@intrinsic
def offer(typing, memory, first, stop):
    """These parts may be taken."""

    def build(context, builder, signature, values):
        data = context.make_array(memory)(context, builder, values[0]).data
        for i, number in enumerate(values[1:]):
            builder.store(number, number_at(builder, data, NEXT_PART + i * 8))
        return context.get_dummy_value()

    return types.void(memory, types.int64, types.int64), build


@intrinsic
def work_off(typing, address, memory, offset):
    """Have this thread, whose own memory begins at memory[offset], take parts until there is none left."""

    def build(context, builder, signature, values):
        function = builder.inttoptr(values[0], parts_type(context).as_pointer())
        data = context.make_array(memory)(context, builder, values[1]).data
        call_for_parts(context, builder, function, data, builder.gep(data, [values[2]]))
        return context.get_dummy_value()

    return types.void(types.int64, memory, types.int64), build


def number_at(builder, data, offset):
    return builder.bitcast(builder.gep(data, [I64(offset)]), I64.as_pointer())


def parts_type(context):
    return context.call_conv.get_function_type(types.none, PARTS)


def call_for_parts(context, builder, function, job, scratch):
    """A part allocates nothing and raises nothing, so no status is looked at."""
    unused = [builder.alloca(t.pointee) for t in parts_type(context).args[:2]]
    builder.call(function, [*unused, builder.bitcast(job, BYTES), builder.bitcast(scratch, BYTES)])


# --- threads of the system --------------------------------------------------------------------------------------------


@intrinsic
def start(typing, desks, i, address, memory, offset):
    """A thread that works parts off; desk i holds it, or 0 if there is none to be had."""

    def build(context, builder, signature, values):
        desk = builder.gep(values[0], [builder.mul(values[1], I64(DESK))])
        data = context.make_array(memory)(context, builder, values[3]).data
        scratch = builder.gep(data, [values[4]])
        told = [values[2], builder.ptrtoint(data, I64), builder.ptrtoint(scratch, I64)]
        for number, value in enumerate(told):
            builder.store(value, builder.gep(desk, [I64(number)]))
        thread = builder.gep(desk, [I64(DESK - 1)])
        main = thread_main(context, builder.module)
        kind = ir.FunctionType(I32, [thread.type, BYTES, main.type, BYTES])
        create = cgutils.get_or_insert_function(builder.module, kind, "pthread_create")
        failed = builder.call(create, [thread, BYTES(None), main, builder.bitcast(desk, BYTES)])
        with builder.if_then(builder.icmp_signed("!=", failed, I32(0))):
            builder.store(I64(0), thread)
        return context.get_dummy_value()

    return types.void(desks, types.int64, types.int64, memory, types.int64), build


def thread_main(context, module):
    """What a thread runs: what its desk says."""
    name = "work_off_at_desk"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(BYTES, [BYTES]), name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    desk = builder.bitcast(function.args[0], I64.as_pointer())
    address, job, scratch = (builder.load(builder.gep(desk, [I64(number)])) for number in range(DESK - 1))
    called = builder.inttoptr(address, parts_type(context).as_pointer())
    call_for_parts(context, builder, called, builder.inttoptr(job, BYTES), builder.inttoptr(scratch, BYTES))
    builder.ret(BYTES(None))
    return function


@intrinsic
def join(typing, desks, i):
    """Wait for the thread of desk i, if there was one."""

    def build(context, builder, signature, values):
        place = builder.add(builder.mul(values[1], I64(DESK)), I64(DESK - 1))
        thread = builder.load(builder.gep(values[0], [place]))
        started = builder.icmp_signed("!=", thread, I64(0))
        with builder.if_then(started):
            kind = ir.FunctionType(I32, [I64, BYTES])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "pthread_join"), [thread, BYTES(None)])
        return context.get_dummy_value()

    return types.void(desks, types.int64), build
