"""Memory: pointers into arrays, vector loads and stores of every storage type, and transposition in registers.

A pointer is numba's CPointer to the storage type. Nothing here is checked or aligned: the kernels' arrays were checked
before, and an unaligned access is as fast as an aligned one where it does not cross a cache line.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.vectors import (
    COMPUTE,
    ELEMENT,
    FLOAT,
    HALF,
    I8,
    I16,
    I32,
    I64,
    Vector,
    call,
    shuffle,
    splat_value,
)

STORED = {types.uint16: I16, types.int16: I16, types.uint8: I8, types.int64: I64}


def compute_type(dtype):
    return COMPUTE.get(dtype, dtype)


def stored_type(dtype):
    return STORED.get(dtype) or ELEMENT[dtype]


# --- pointers ---------------------------------------------------------------------------------------------------------


class View(NamedTuple):
    """An array of three axes without the counting of references to it, which costs as much as a short row."""

    data: Any
    shape: Any
    strides: Any
    item: Any  # bytes


@device
def view(array):
    return View(pointer(array), array.shape, array.strides, array.itemsize)


@device
def at(v, a, b, c):
    """Where element (a, b, c) of a view is."""
    return moved_bytes(v.data, a * v.strides[0] + b * v.strides[1] + c * v.strides[2])


@intrinsic
def pointer(typing, array):
    """The first element of an array."""

    def build(context, builder, signature, args):
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), build


@intrinsic
def moved(typing, p, index):
    """The address of p[index]."""
    return p(p, types.int64), lambda context, b, signature, args: place(b, args[0], args[1])


def moved_by(b, p, count):
    """A pointer some bytes further on."""
    return b.bitcast(b.gep(b.bitcast(p, I8.as_pointer()), [count]), p.type)


@intrinsic
def moved_bytes(typing, p, count):
    return p(p, types.int64), lambda context, b, signature, args: moved_by(b, *args)


def define_workspace(doc, element_of):
    @intrinsic
    def workspace_of(typing, scratch, offset, p):
        result = types.CPointer(element_of(p.dtype))

        def build(context, builder, signature, args):
            address = builder.add(builder.ptrtoint(args[0], I64), builder.add(args[1], I64(63)))
            return builder.inttoptr(builder.and_(address, I64(-64)), context.get_value_type(result))

        return result(scratch, types.int64, p), build

    workspace_of.__doc__ = doc
    return workspace_of


workspace = define_workspace("64-byte aligned scratch for what elements of p are computed in.", compute_type)
spare = define_workspace("64-byte aligned scratch for elements as p stores them.", lambda dtype: dtype)


@intrinsic
def past_boundary(typing, p, index):
    """How many elements lie between p[index] and the next 64-byte boundary."""

    def build(context, b, signature, args):
        missing = b.and_(b.neg(b.ptrtoint(place(b, args[0], args[1]), I64)), I64(63))
        return b.udiv(missing, I64(size_of(p)))

    return types.int64(p, types.int64), build


def place(b, pointer, index, lanes=None):
    """The address of element `index`, as a pointer to one number or to a vector."""
    address = b.gep(pointer, [index])
    return address if lanes is None else b.bitcast(address, ir.VectorType(pointer.type.pointee, lanes).as_pointer())


def shaped(kind, lanes):
    return kind if lanes is None else ir.VectorType(kind, lanes)


def filled(kind, lanes, value):
    return ir.Constant(shaped(kind, lanes), value if lanes is None else [value] * lanes)


def decode(b, value, dtype, lanes):
    """A stored value as a number to compute with."""
    if dtype == types.uint16:
        return b.fpext(b.bitcast(value, shaped(HALF, lanes)), shaped(FLOAT, lanes))
    if dtype == types.int16:
        wide = b.zext(value, shaped(I32, lanes))
        return b.bitcast(b.shl(wide, filled(I32, lanes, 16)), shaped(FLOAT, lanes))
    return value


def encode(b, value, dtype, lanes):
    """A number as it is stored."""
    if dtype == types.uint16:
        return b.bitcast(b.fptrunc(value, shaped(HALF, lanes)), shaped(I16, lanes))
    if dtype == types.int16:
        i = b.bitcast(value, shaped(I32, lanes))
        odd = b.and_(b.lshr(i, filled(I32, lanes, 16)), filled(I32, lanes, 1))
        up = b.add(b.add(i, filled(I32, lanes, 0x7FFF)), odd)
        up = b.select(b.fcmp_unordered("uno", value, value), filled(I32, lanes, 0x7FC00000), up)
        return b.trunc(b.lshr(up, filled(I32, lanes, 16)), shaped(I16, lanes))
    return value


def width(lanes):
    """None for a single number."""
    return None if lanes.literal_value == 0 else lanes.literal_value


def loaded_type(pointer, lanes):
    dtype = compute_type(pointer.dtype)
    return dtype if width(lanes) is None else Vector(dtype, width(lanes))


# --- loads and stores -------------------------------------------------------------------------------------------------
#
# `lanes` is a constant; 0 stands for a single number. The _part forms touch the first n lanes only.


@intrinsic(prefer_literal=True)
def load(typing, p, index, lanes):
    """p[index : index + lanes]."""
    n = width(lanes)

    def build(context, b, signature, args):
        value = b.load(place(b, args[0], args[1], n), align=size_of(p))
        return decode(b, value, p.dtype, n)

    return loaded_type(p, lanes)(p, types.int64, lanes), build


@intrinsic(prefer_literal=True)
def load_part(typing, p, index, n, fill, lanes):
    """p[index : index + n], the other lanes filled with a number."""
    result = loaded_type(p, lanes)

    def build(context, b, signature, args):
        count = width(lanes)
        stored = ir.VectorType(stored_type(p.dtype), count)
        mask = first_lanes(b, args[2], count)
        address = place(b, args[0], args[1], count)
        nothing = ir.Constant(stored, ir.Undefined)
        name = f"llvm.masked.load.{mangled(p, count)}.p0"
        value = call(b, name, stored, [address, I32(size_of(p)), mask, nothing])
        rest = splat_value(b, result, context.cast(b, args[3], signature.args[3], result.dtype))
        return b.select(mask, decode(b, value, p.dtype, count), rest)

    return result(p, types.int64, types.int64, fill, lanes), build


def define_store(doc, align=None, nontemporal=False):
    @intrinsic
    def store_as(typing, p, index, value):
        n = value.lanes if isinstance(value, Vector) else None
        dtype = compute_type(p.dtype)

        def build(context, b, signature, args):
            v = args[2] if n else context.cast(b, args[2], signature.args[2], dtype)
            instruction = b.store(encode(b, v, p.dtype, n), place(b, args[0], args[1], n), align=align or size_of(p))
            if nontemporal:
                instruction.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))
            return context.get_dummy_value()

        return types.void(p, types.int64, value), build

    store_as.__doc__ = doc
    return store_as


store = define_store("p[index : index + lanes] = value.")
stream = define_store("The same past the caches; p + index must be 64-byte aligned.", align=64, nontemporal=True)


@intrinsic
def store_part(typing, p, index, n, value):
    """p[index : index + n] = the first n lanes of value."""

    def build(context, b, signature, args):
        encoded = encode(b, args[3], p.dtype, value.lanes)
        name = f"llvm.masked.store.{mangled(p, value.lanes)}.p0"
        address = place(b, args[0], args[1], value.lanes)
        call(b, name, ir.VoidType(), [encoded, address, I32(size_of(p)), first_lanes(b, args[2], value.lanes)])
        return context.get_dummy_value()

    return types.void(p, types.int64, types.int64, value), build


@intrinsic
def fence(typing):
    """Make streamed stores visible to other threads."""

    def build(context, b, signature, args):
        if "x86" in b.module.triple or "x86" in context.codegen()._tm.triple:
            call(b, "llvm.x86.sse.sfence", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), build


@intrinsic(prefer_literal=True)
def prefetch(typing, p, index, lanes):
    """Ask for the cache lines of p[index : index + lanes]; any address will do."""

    def build(context, b, signature, args):
        for i in range(0, lanes.literal_value, max(64 // size_of(p), 1)):
            address = b.bitcast(place(b, args[0], b.add(args[1], I64(i))), I8.as_pointer())
            call(b, "llvm.prefetch.p0", ir.VoidType(), [address, I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(p, types.int64, lanes), build


@intrinsic
def gather(typing, p, index):
    """p[index], lane by lane."""
    result = Vector(compute_type(p.dtype), index.lanes)

    def build(context, b, signature, args):
        v = ir.Constant(result.llvm, ir.Undefined)
        for i in range(index.lanes):
            value = b.load(place(b, args[0], lane(b, args[1], i)), align=size_of(p))
            v = b.insert_element(v, decode(b, value, p.dtype, None), I32(i))
        return v

    return result(p, index), build


@intrinsic
def scatter(typing, p, index, value):
    """p[index] = value, lane by lane."""

    def build(context, b, signature, args):
        for i in range(index.lanes):
            number = encode(b, b.extract_element(args[2], I32(i)), p.dtype, None)
            b.store(number, place(b, args[0], lane(b, args[1], i)), align=size_of(p))
        return context.get_dummy_value()

    return types.void(p, index, value), build


def lane(b, v, i):
    number = b.extract_element(v, I32(i))
    return b.sext(number, I64) if number.type.width < 64 else number


@intrinsic
def transpose(typing, source, source_step, target, target_step):
    """target[target_step·i + j] = source[source_step·j + i] for 16 × 16 numbers, in registers."""

    def build(context, b, signature, args):
        def line(p, step, i):
            return place(b, p, b.mul(step, I64(i)), 16)

        rows = [b.load(line(args[0], args[1], i), align=size_of(source)) for i in range(16)]
        for span in (8, 4, 2, 1):
            rows = exchanged(b, rows, span)
        for i, values in enumerate(rows):
            b.store(values, line(args[2], args[3], i), align=size_of(target))
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), build


def exchanged(b, rows, span):
    """Swap the upper-right with the lower-left block of every 2·span × 2·span square on the diagonal."""
    result = list(rows)
    for i in range(16):
        if i & span:
            continue
        upper, lower = rows[i], rows[i + span]
        result[i] = shuffle(b, upper, lower, [16 + (j - span) if j & span else j for j in range(16)])
        result[i + span] = shuffle(b, upper, lower, [16 + j if j & span else j + span for j in range(16)])
    return result


def size_of(pointer):
    return pointer.dtype.bitwidth // 8


def mangled(pointer, lanes):
    letter = "f" if isinstance(pointer.dtype, types.Float) else "i"
    return f"v{lanes}{letter}{pointer.dtype.bitwidth}"


def first_lanes(b, n, lanes):
    """A mask of the first n lanes."""
    numbers = Vector(types.int64, lanes)
    return b.icmp_signed("<", ir.Constant(numbers.llvm, list(range(lanes))), splat_value(b, numbers, n))
