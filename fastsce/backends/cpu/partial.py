"""Loads and stores of the first n numbers of a vector, which touch no others.

With the masks of AVX-512 each is an instruction. Elsewhere there may be none for 16 bits, and Zen 3 takes 13 cycles for
a masked store of 256 bits; so a whole vector goes as one, and only a part of one by halves.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsce.backends.cpu.memory import joined, loaded_type, place, size_of
from fastsce.backends.cpu.storage import compute_type, decode, encode, stored_type
from fastsce.backends.cpu.vectors import I1, I32, I64, Vector, assembly, call, shuffle, splat_value


@intrinsic(prefer_literal=True)
def load_part(typing, p, index, n, fill, lanes):
    """p[index : index + n], the other lanes filled with a number that p can hold, as it is stored without masks."""
    result = loaded_type(p, lanes)

    def build(context, b, signature, args):
        return first_loaded(context, b, p, args[:4], signature.args[3], result)

    return result(p, types.int64, types.int64, fill, lanes), build


@intrinsic
def fetch(typing, p, index, n, fill, like):
    """As load_part, with the lanes of `like`."""
    result = Vector(compute_type(p.dtype), like.lanes)

    def build(context, b, signature, args):
        return first_loaded(context, b, p, args[:4], signature.args[3], result)

    return result(p, types.int64, types.int64, fill, like), build


def first_loaded(context, b, p, args, fill_type, result):
    pointer, index, n, fill = args
    lanes, element = result.lanes, stored_type(p.dtype)
    address, vector = place(b, pointer, index, lanes), ir.VectorType(element, lanes)
    rest = splat_value(b, result, context.cast(b, fill, fill_type, result.dtype))
    if has_masks(context):
        mask, nothing = first_lanes(b, n, lanes), ir.Constant(vector, ir.Undefined)
        name = f"llvm.masked.load.{mangled(vector)}.p0"
        value = call(b, name, vector, [address, I32(size_of(p)), mask, nothing])
        return b.select(mask, decode(context, b, value, p.dtype, lanes), rest)
    filler = b.extract_element(encode(context, b, rest, p.dtype, lanes), I32(0))
    with b.if_else(b.icmp_signed(">=", n, I64(lanes))) as (whole, some):
        with whole:
            value, then = b.load(address, align=size_of(p)), b.block
        with some:
            part = b.call(loader(b.module, vector), [place(b, pointer, index), n, filler])
            otherwise = b.block
    stored = b.phi(vector)
    stored.add_incoming(value, then)
    stored.add_incoming(part, otherwise)
    return decode(context, b, stored, p.dtype, lanes)


@intrinsic
def store_part(typing, p, index, n, value):
    """p[index : index + n] = the first n lanes of value."""

    def build(context, b, signature, args):
        pointer, index, n, v = args
        encoded, address = encode(context, b, v, p.dtype, value.lanes), place(b, pointer, index, value.lanes)
        if has_masks(context):
            name = f"llvm.masked.store.{mangled(encoded.type)}.p0"
            call(b, name, ir.VoidType(), [encoded, address, I32(size_of(p)), first_lanes(b, n, value.lanes)])
            return context.get_dummy_value()
        with b.if_else(b.icmp_signed(">=", n, I64(value.lanes))) as (whole, some):
            with whole:
                b.store(encoded, address, align=size_of(p))
            with some:
                b.call(storer(b.module, encoded.type), [place(b, pointer, index), n, encoded])
        return context.get_dummy_value()

    return types.void(p, types.int64, types.int64, value), build


# --- with masks -------------------------------------------------------------------------------------------------------


def has_masks(context):
    """Whether AVX-512 has them for every type: then some of 16 small numbers are stored in one instruction."""
    asked = "define void @asked(<16 x i16> %v, ptr %p, <16 x i1> %m) { "
    asked += "call void @llvm.masked.store.v16i16.p0(<16 x i16> %v, ptr %p, i32 2, <16 x i1> %m) ret void } "
    asked += "declare void @llvm.masked.store.v16i16.p0(<16 x i16>, ptr, i32, <16 x i1>)"
    return "{%k" in assembly(context.codegen()._tm, asked)


def mangled(vector):
    kind = str(vector.element).replace("float", "f32").replace("double", "f64")
    return f"v{vector.count}{kind}"


def first_lanes(b, n, lanes):
    """A mask of the first n lanes."""
    kind = ir.IntType(lanes)
    some = b.sub(b.shl(I64(1), n), I64(1))
    return b.bitcast(
        b.trunc(b.select(b.icmp_signed("<", n, I64(lanes)), some, I64(-1)), kind), ir.VectorType(I1, lanes)
    )


# --- by halves --------------------------------------------------------------------------------------------------------


def loader(module, vector):
    """A function of a pointer, n and a number: n numbers, fewer than the vector has, and that one in their place."""

    def body(b, p, n, filler):
        one = ir.VectorType(vector.element, 1)
        fill = b.insert_element(ir.Constant(one, ir.Undefined), filler, I32(0))
        value = fill  # of the last numbers as many as the bits of n gone through say
        while value.type.count < vector.count:
            size = value.type.count
            without, before = joined(b, [value, fill]), b.block
            with b.if_then(b.icmp_signed("!=", b.and_(n, I64(size)), I64(0))):
                these = b.load(place(b, p, b.and_(n, I64(-2 * size)), size), align=bytes_of(vector))
                with_these, after = joined(b, [these, value]), b.block
            value = b.phi(without.type)
            value.add_incoming(without, before)
            value.add_incoming(with_these, after)
            fill = joined(b, [fill, fill])
        b.ret(value)

    return function(module, f"fastsce_load_{mangled(vector)}", vector, [I64, vector.element], vector, body)


def storer(module, vector):
    """A function of a pointer, n and a vector, of which it stores n numbers, fewer than there are."""

    def body(b, p, n, value):
        while value.type.count > 1:
            size = value.type.count // 2
            low, high = (shuffle(b, value, value, range(i, i + size)) for i in (0, size))
            before = b.block
            with b.if_then(b.icmp_signed("!=", b.and_(n, I64(size)), I64(0))):
                b.store(low, place(b, p, b.and_(n, I64(-2 * size)), size), align=bytes_of(vector))
                after = b.block
            value = b.phi(low.type)
            value.add_incoming(low, before)
            value.add_incoming(high, after)
        b.ret_void()

    return function(module, f"fastsce_store_{mangled(vector)}", vector, [I64, vector], ir.VoidType(), body)


def function(module, name, vector, kinds, result, body):
    """Of a module, made at the first use; with others that are linked to it, it shares one."""
    if name in module.globals:
        return module.globals[name]
    made = ir.Function(module, ir.FunctionType(result, [vector.element.as_pointer(), *kinds]), name)
    made.linkage = "linkonce_odr"
    made.attributes.add("noinline")
    made.attributes.add("cold")
    body(ir.IRBuilder(made.append_basic_block()), *made.args)
    return made


def bytes_of(vector):
    return {"i16": 2, "float": 4, "double": 8, "i64": 8}[str(vector.element)]
