"""Memory: pointers into arrays, vector loads and stores of every storage type, and of numbers that lie apart.

A pointer is numba's CPointer to the storage type. Nothing here is checked or aligned: the kernels' arrays were checked
before, and an unaligned access is as fast as an aligned one where it does not cross a cache line.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.storage import compute_type, decode, encode, stored_type
from fastsce.backends.cpu.vectors import I8, I32, I64, Vector, call, count_of, shuffle

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


@device
def adjoin(v):
    """Whether rows are contiguous, and one begins where the one before ends."""
    return v.strides[2] == v.item and v.strides[1] == v.item * v.shape[2]


@intrinsic
def pointer(typing, array):
    """The first element of an array; None of None."""
    if array is types.none:
        return array(array), lambda context, b, signature, args: context.get_dummy_value()

    def build(context, builder, signature, args):
        return context.make_array(array)(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), build


@intrinsic
def address_of(typing, p):
    return types.int64(p), lambda context, b, signature, args: b.ptrtoint(args[0], I64)


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
integers = define_workspace("64-byte aligned scratch for 64-bit integers.", lambda dtype: types.int64)


@intrinsic
def past_boundary(typing, p, index):
    """How many elements lie between p[index] and the next 64-byte boundary."""

    def build(context, b, signature, args):
        missing = b.and_(b.neg(b.ptrtoint(place(b, args[0], args[1]), I64)), I64(63))
        return b.udiv(missing, I64(size_of(p)))

    return types.int64(p, types.int64), build


@intrinsic
def numbers_in_line(typing, p):
    """How many elements a cache line has."""
    return types.int64(p), lambda context, b, signature, args: I64(64 // size_of(p))


def place(b, pointer, index, lanes=None):
    """The address of element `index`, as a pointer to one number or to a vector."""
    address = b.gep(pointer, [index])
    return address if lanes is None else b.bitcast(address, ir.VectorType(pointer.type.pointee, lanes).as_pointer())


def width(lanes):
    """None for a single number."""
    return count_of(lanes) or None


def loaded_type(pointer, lanes):
    dtype = compute_type(pointer.dtype)
    return dtype if width(lanes) is None else Vector(dtype, width(lanes))


# --- loads and stores -------------------------------------------------------------------------------------------------
#
# `lanes` is a constant, or a vector of as many; 0 stands for a single number. partial.py has loads and stores of a
# vector's first numbers.


@intrinsic(prefer_literal=True)
def load(typing, p, index, lanes):
    """p[index : index + lanes]."""
    n = width(lanes)

    def build(context, b, signature, args):
        value = b.load(place(b, args[0], args[1], n), align=size_of(p))
        return decode(context, b, value, p.dtype, n)

    return loaded_type(p, lanes)(p, types.int64, lanes), build


@intrinsic
def load_line(typing, p, index, like):
    """From p[index] on as many numbers as a cache line has of those that `like` points to."""
    result = Vector(compute_type(p.dtype), 64 // size_of(like))

    def build(context, b, signature, args):
        value = b.load(place(b, args[0], args[1], result.lanes), align=size_of(p))
        return decode(context, b, value, p.dtype, result.lanes)

    return result(p, types.int64, like), build


def define_store(doc, nontemporal=False):
    @intrinsic
    def store_as(typing, p, index, value):
        n = value.lanes if isinstance(value, Vector) else None
        dtype = compute_type(p.dtype)

        def build(context, b, signature, args):
            v = args[2] if n else context.cast(b, args[2], signature.args[2], dtype)
            address = place(b, args[0], args[1], n)
            encoded = encode(context, b, v, p.dtype, n)
            instruction = b.store(encoded, address, align=min(64, n * size_of(p)) if nontemporal else size_of(p))
            if nontemporal:
                instruction.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))
            return context.get_dummy_value()

        return types.void(p, types.int64, value), build

    store_as.__doc__ = doc
    return store_as


store = define_store("p[index : index + lanes] = value.")
stream = define_store("The same past the caches; p + index must be aligned to 64 bytes, or to all.", nontemporal=True)


@device
def put(p, j, v, streaming):
    if streaming:
        stream(p, j, v)
    else:
        store(p, j, v)


def define_line_copy(doc, align, nontemporal=False):
    line = ir.VectorType(I64, 8)

    @intrinsic
    def copy(typing, source, target, index):
        def build(context, b, signature, args):
            start, end = (b.bitcast(place(b, p, args[2]), line.as_pointer()) for p in args[:2])
            instruction = b.store(b.load(start, align=1), end, align=align)
            if nontemporal:
                instruction.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))
            return context.get_dummy_value()

        return types.void(source, target, types.int64), build

    copy.__doc__ = doc
    return copy


copy_line = define_line_copy("Copy the 64 bytes that begin at source[index] to target[index].", align=1)
stream_line = define_line_copy(
    "The same past the caches; target + index must be 64-byte aligned.", 64, nontemporal=True
)


@intrinsic
def fence(typing):
    """Make streamed stores visible to other threads."""

    def build(context, b, signature, args):
        if "x86" in b.module.triple or "x86" in context.codegen()._tm.triple:
            call(b, "llvm.x86.sse.sfence", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.void(), build


@intrinsic
def gather(typing, p, index):
    """p[index], lane by lane."""
    result = Vector(compute_type(p.dtype), index.lanes)

    def build(context, b, signature, args):
        v = ir.Constant(result.llvm, ir.Undefined)
        for i in range(index.lanes):
            value = b.load(place(b, args[0], lane(b, args[1], i)), align=size_of(p))
            v = b.insert_element(v, decode(context, b, value, p.dtype, None), I32(i))
        return v

    return result(p, index), build


@intrinsic(prefer_literal=True)
def load_apart(typing, p, step, lanes):
    """Numbers that lie `step` bytes apart."""
    result = loaded_type(p, lanes)

    def build(context, b, signature, args):
        stored = ir.Constant(ir.VectorType(stored_type(p.dtype), result.lanes), ir.Undefined)
        for i in range(result.lanes):
            value = b.load(moved_by(b, args[0], b.mul(args[1], I64(i))), align=size_of(p))
            stored = b.insert_element(stored, value, I32(i))
        return decode(context, b, stored, p.dtype, result.lanes)

    return result(p, types.int64, lanes), build


@intrinsic
def store_apart(typing, p, step, value):
    """The way back."""

    def build(context, b, signature, args):
        stored = encode(context, b, args[2], p.dtype, value.lanes)
        for i in range(value.lanes):
            number = b.extract_element(stored, I32(i))
            b.store(number, moved_by(b, args[0], b.mul(args[1], I64(i))), align=size_of(p))
        return context.get_dummy_value()

    return types.void(p, types.int64, value), build


def lane(b, v, i):
    number = b.extract_element(v, I32(i))
    return b.sext(number, I64) if number.type.width < 64 else number


def joined(b, vectors):
    """Vectors, end to end."""
    while len(vectors) > 1:
        n = 2 * vectors[0].type.count
        vectors = [shuffle(b, v, w, range(n)) for v, w in zip(vectors[::2], vectors[1::2])]
    return vectors[0]


def size_of(pointer):
    return pointer.dtype.bitwidth // 8
