"""Parts of a kernel's work, in LLVM: how one is told what to do, how it is called, and threads of the system for it."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

JOB_BYTES = 1024  # of memory, for what a part has to know
DESK = 5  # numbers: address, job, memory and number of a part, and then the thread
I32, I64, BYTES = ir.IntType(32), ir.IntType(64), ir.IntType(8).as_pointer()
PART = (types.voidptr, types.voidptr, types.int64)  # what it has to know, its own memory, its number


@intrinsic
def hand_out(typing, work, parts, memory, args):
    """work(part, scratch, *args) for the only part; for several, the address with which they are to be called."""
    job = (types.int64, types.CPointer(types.uint8), *args.types)
    work_signature = work.get_call_type(typing, job, {})

    def build(context, builder, signature, values):
        stored = values[3].type
        function = ir.Function(builder.module, part_type(context), f"{builder.function.name}.part")
        function.linkage = "internal"
        function.attributes.add("noinline")  # compiled once
        inner = ir.IRBuilder(function.append_basic_block())
        start, scratch, part = function.args[2:]
        known = inner.load(inner.bitcast(start, stored.as_pointer()), align=8)
        members = [inner.extract_value(known, i) for i in range(len(args.types))]
        context.get_function(work, work_signature)(inner, [part, scratch, *members])
        inner.ret(ir.Constant(ir.IntType(32), 0))

        data = left(context, builder, context.make_array(memory)(context, builder, values[2]).data, values[3])
        with builder.if_then(builder.icmp_signed("==", values[1], I64(1))):
            call_part(context, builder, function, data, builder.gep(data, [I64(JOB_BYTES)]), I64(0))
        return builder.ptrtoint(function, I64)

    return types.int64(work, parts, memory, args), build


def left(context, builder, data, job):
    if context.get_abi_sizeof(job.type) > JOB_BYTES:
        raise TypeError("what a part has to know is longer than JOB_BYTES")
    builder.store(job, builder.bitcast(data, job.type.as_pointer()), align=8)
    return data


@intrinsic
def leave(typing, memory, args):
    """Leave what a part has to know at the beginning of memory, as `hand_out` does."""

    def build(context, builder, signature, values):
        left(context, builder, context.make_array(memory)(context, builder, values[0]).data, values[1])
        return context.get_dummy_value()

    return types.void(memory, args), build


@intrinsic
def call(typing, address, memory, offset, part):
    """A part, whose own memory begins at memory[offset]."""

    def build(context, builder, signature, values):
        function = builder.inttoptr(values[0], part_type(context).as_pointer())
        data = context.make_array(memory)(context, builder, values[1]).data
        call_part(context, builder, function, data, builder.gep(data, [values[2]]), values[3])
        return context.get_dummy_value()

    return types.void(types.int64, memory, types.int64, types.int64), build


def part_type(context):
    return context.call_conv.get_function_type(types.none, PART)


def call_part(context, builder, function, job, scratch, part):
    """A part allocates nothing and raises nothing, so its status is not looked at."""
    unused = [builder.alloca(t.pointee) for t in part_type(context).args[:2]]
    builder.call(function, [*unused, builder.bitcast(job, BYTES), builder.bitcast(scratch, BYTES), part])


# --- threads of the system --------------------------------------------------------------------------------------------


@intrinsic
def start(typing, desks, i, address, memory, offset, part):
    """A thread for a part; desk i says which, or 0 if there is none to be had."""

    def build(context, builder, signature, values):
        desk = builder.gep(values[0], [builder.mul(values[1], I64(DESK))])
        data = context.make_array(memory)(context, builder, values[3]).data
        scratch = builder.gep(data, [values[4]])
        told = [values[2], builder.ptrtoint(data, I64), builder.ptrtoint(scratch, I64), values[5]]
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

    return types.void(desks, types.int64, types.int64, memory, types.int64, types.int64), build


def thread_main(context, module):
    """What a thread runs: the part that its desk describes."""
    name = "call_part_at_desk"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(BYTES, [BYTES]), name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    desk = builder.bitcast(function.args[0], I64.as_pointer())
    address, job, scratch, part = (builder.load(builder.gep(desk, [I64(number)])) for number in range(DESK - 1))
    called = builder.inttoptr(address, part_type(context).as_pointer())
    call_part(context, builder, called, builder.inttoptr(job, BYTES), builder.inttoptr(scratch, BYTES), part)
    builder.ret(BYTES(None))
    return function


@intrinsic
def finished(typing, desks, i):
    """Wait for the thread of desk i; False if there was none."""

    def build(context, builder, signature, values):
        place = builder.add(builder.mul(values[1], I64(DESK)), I64(DESK - 1))
        thread = builder.load(builder.gep(values[0], [place]))
        started = builder.icmp_signed("!=", thread, I64(0))
        with builder.if_then(started):
            kind = ir.FunctionType(I32, [I64, BYTES])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "pthread_join"), [thread, BYTES(None)])
        return started

    return types.boolean(desks, types.int64), build
