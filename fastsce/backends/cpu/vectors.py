"""Explicit SIMD for numba: one vector type and its arithmetic.

A Vector is an LLVM `<lanes x dtype>`; LLVM splits one that is wider than a register. Comparisons give a Vector of
booleans. Arithmetic with a number takes the number as one of the vector's own type. No flag ever lets LLVM reorder or
contract: the same operations give the same bits on every machine with an instruction for fma (`fuses`).
"""

import itertools
import operator
import re
from functools import cache

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.core.registry import cpu_target
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.core.typing.templates import signature as signature_of
from numba.extending import intrinsic, lower_builtin

from fastsce import frame, logistic, maths
from fastsce.backends.cpu.jit import device, overload

I1, I8, I16, I32, I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
ELEMENT = {
    types.boolean: I1,
    types.int32: I32,
    types.int64: I64,
    types.float32: FLOAT,
    types.float64: DOUBLE,
}
INTEGER = {types.float32: types.int32, types.float64: types.int64}


class Vector(types.Type):
    def __init__(self, dtype, lanes):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(f"Vector({dtype}, {lanes})")

    @property
    def llvm(self):
        return ir.VectorType(ELEMENT[self.dtype], self.lanes)

    @property
    def mangled(self):
        """As LLVM names it in its intrinsics: v16f32."""
        letter = "f" if isinstance(self.dtype, types.Float) else "i"
        return f"v{self.lanes}{letter}{self.dtype.bitwidth}"


@register_default(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        super().__init__(manager, vector, vector.llvm)


def is_float(t):
    return isinstance(t.dtype if isinstance(t, Vector) else t, types.Float)


# --- building blocks in LLVM ------------------------------------------------------------------------------------------


def indices(values):
    return ir.Constant(ir.VectorType(I32, len(values)), list(values))


def shuffle(b, v, w, values):
    return b.shuffle_vector(v, w, indices(values))


def splat_value(b, vector, value):
    undefined = ir.Constant(vector.llvm, ir.Undefined)
    return shuffle(b, b.insert_element(undefined, value, I32(0)), undefined, [0] * vector.lanes)


def widened(context, b, value, given, vector):
    """An argument as a vector: a number is put into every lane."""
    if isinstance(given, Vector):
        return value
    return splat_value(b, vector, context.cast(b, value, given, vector.dtype))


def call(b, name, result, args):
    function = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, function, name), args)


def vector_among(*given):
    return next((t for t in given if isinstance(t, Vector)), None)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def define(function, kinds, result_of, build):
    """Give a function or an operator a meaning for arguments of these kinds, if `result_of` has a type for it.

    An overload of numba's is a function of its own, which takes 7 ms to compile for every new types of its arguments.
    """

    class Meaning(AbstractTemplate):
        key = function

        def generic(self, args, kws):
            given = [types.unliteral(a) for a in args]
            result = result_of(*given)
            return None if result is None else signature_of(result, *given)

    infer_global(function)(Meaning)
    for given in kinds:
        lower_builtin(function, *given)(build)


ANY = (Vector, types.Number)
ONE = tuple((kind,) for kind in ANY)
PAIRS = ((Vector, Vector), (Vector, types.Number), (types.Number, Vector))


def define_operator(op, on_floats, on_integers, gives_mask=False):
    def result_of(a, b):
        vector = vector_among(a, b)
        return Vector(types.boolean, vector.lanes) if vector and gives_mask else vector

    def build(context, builder, signature, args):
        vector = vector_among(*signature.args)
        x, y = (widened(context, builder, v, t, vector) for v, t in zip(args, signature.args))
        return (on_floats if is_float(vector) else on_integers)(builder, x, y)

    define(op, PAIRS, result_of, build)


define_operator(operator.add, lambda b, x, y: b.fadd(x, y), lambda b, x, y: b.add(x, y))
define_operator(operator.sub, lambda b, x, y: b.fsub(x, y), lambda b, x, y: b.sub(x, y))
define_operator(operator.mul, lambda b, x, y: b.fmul(x, y), lambda b, x, y: b.mul(x, y))
define_operator(operator.truediv, lambda b, x, y: b.fdiv(x, y), None)
define_operator(operator.and_, None, lambda b, x, y: b.and_(x, y))
define_operator(operator.lshift, None, lambda b, x, y: b.shl(x, y))
define_operator(operator.rshift, None, lambda b, x, y: b.lshr(x, y))
for _op, _sign in ((operator.lt, "<"), (operator.gt, ">"), (operator.eq, "==")):
    define_operator(
        _op,
        lambda b, x, y, sign=_sign: b.fcmp_ordered(sign, x, y),
        lambda b, x, y, sign=_sign: b.icmp_signed(sign, x, y),
        gives_mask=True,
    )
define_operator(  # true of NaN
    operator.ne,
    lambda b, x, y: b.fcmp_unordered("!=", x, y),
    lambda b, x, y: b.icmp_signed("!=", x, y),
    gives_mask=True,
)


define(
    operator.neg,
    [(Vector,)],
    lambda a: a if isinstance(a, Vector) else None,
    lambda context, b, signature, args: b.fneg(args[0]),
)


def fused_type(a, b, c):
    number = next((t for t in (c, a, b) if isinstance(t, types.Float) and t != types.float64), types.float64)
    return vector_among(a, b, c) or number


def fused(context, builder, signature, args):
    kind = signature.return_type
    if isinstance(kind, Vector):
        values = [widened(context, builder, v, t, kind) for v, t in zip(args, signature.args)]
        name, result = f"llvm.fma.{kind.mangled}", kind.llvm
    else:
        values = [context.cast(builder, v, t, kind) for v, t in zip(args, signature.args)]
        name, result = f"llvm.fma.f{kind.bitwidth}", ELEMENT[kind]
    if fuses(context):
        return call(builder, name, result, values)
    x, y, z = (cast_value(builder, v, element(kind), types.float64) for v in values)
    return cast_value(builder, builder.fadd(builder.fmul(x, y), z), types.float64, element(kind))


define(maths.fma, itertools.product(ANY, repeat=3), fused_type, fused)


def fuses(context):
    """Whether there is an instruction for fma; the C library's function, a call for every lane, is slow.

    Without one, a float32 is multiplied exactly and added in float64: one result in some 2^29 differs from that of an
    instruction. A float64 is rounded twice.
    """
    asked = "%y = call float @llvm.fma.f32(float %x, float %x, float %x)"
    return not calls(context, "fmaf", f"{asked} ret float %y }} declare float @llvm.fma.f32(float, float, float)")


def calls(context, function, code):
    """Whether LLVM calls this function of a library where code for a float32 %x has no instruction of its own."""
    return function in assembly(context.codegen()._tm, f"define float @asked(float %x) {{ {code}")


@cache
def assembly(target, code):
    return target.emit_assembly(binding.parse_assembly(code))


def few_registers():
    """Whether an x86 CPU has 16 vector registers, as without AVX-512, not 32."""
    return bool(re.search("%[xy]mm", sum_of_vectors()))


def wide_registers():
    """Whether a vector register holds 64 bytes, as with AVX-512."""
    return "%zmm" in sum_of_vectors()


def from_amd():
    """Whether kernels are made for an AMD of Zen 1 or later."""
    return cpu_target.target_context.codegen()._get_host_cpu_name().startswith("znver")


def sum_of_vectors():
    asked = "define <16 x float> @asked(<16 x float> %x) { %y = fadd <16 x float> %x, %x ret <16 x float> %y }"
    return assembly(cpu_target.target_context.codegen()._tm, asked)


def selected_type(mask, a, b):
    if isinstance(mask, Vector):
        number = a if isinstance(a, types.Float) and a != types.float64 else b
        return vector_among(a, b) or Vector(number, mask.lanes)
    return None


def select(context, builder, signature, args):
    x, y = (widened(context, builder, v, t, signature.return_type) for v, t in zip(args[1:], signature.args[1:]))
    return builder.select(args[0], x, y)


define(maths.where, itertools.product((Vector,), ANY, ANY), selected_type, select)


@overload(maths.where)
def where_overload(condition, a, b):
    if not isinstance(condition, Vector):
        return lambda condition, a, b: a if condition else b
    return None


def reinterpreted_type(x):
    """float ↔ integer of the same size."""
    other = {**INTEGER, **{i: f for f, i in INTEGER.items()}}[element(x)]
    return Vector(other, x.lanes) if isinstance(x, Vector) else other


def reinterpret(context, b, signature, args):
    return b.bitcast(args[0], context.get_value_type(signature.return_type))


for _function in (maths.bits, maths.from_bits):
    define(_function, ONE, reinterpreted_type, reinterpret)


def element(t):
    return t.dtype if isinstance(t, Vector) else t


@overload(maths.exp_parts)
def exp_parts_overload(x, power):
    if element(x) == types.float32:
        return lambda x, power: maths.exp_parts_f32(x, power)
    return lambda x, power: maths.exp_parts_f64(x, power)


@overload(maths.exp_series)
def exp_series_overload(r, like):
    if element(like) == types.float32:
        return lambda r, like: maths.exp_series_f32(r)
    return lambda r, like: maths.exp_series_f64(r)


@overload(maths.log_parts)
def log_parts_overload(u):
    if element(u) == types.float32:
        return lambda u: maths.log_parts_f32(u)
    return lambda u: maths.log_parts_f64(u)


@overload(maths.most)
def most_overload(x):
    if element(x) == types.float32:
        return lambda x: maths.MOST_F32
    return lambda x: maths.MOST_F64


@overload(maths.whole)
def whole_overload(x):
    if element(x) == types.float32:
        return lambda x: maths.whole_f32(x)
    return lambda x: maths.whole_f64(x)


@overload(frame.reach)
def reach_overload(x):
    if element(x) == types.float32:
        return lambda x: frame.REACH_F32
    return lambda x: frame.REACH_F64


@overload(logistic.log_tail)
def log_tail_overload(z):
    if element(z) == types.float32:
        return lambda z: logistic.log_tail_f32(z)
    return lambda z: logistic.log_tail_f64(z)


for _formula in (maths.maximum, maths.at_least, *maths.FORMULAS, *frame.FORMULAS, *logistic.FORMULAS):
    device(_formula)


# --- between types ----------------------------------------------------------------------------------------------------


def cast_value(b, value, given, to):
    """A value, number or vector, as a float type."""
    if given == to:
        return value
    kind = ELEMENT[to]
    if isinstance(value.type, ir.VectorType):
        kind = ir.VectorType(kind, value.type.count)
    if isinstance(given, types.Integer):
        return b.sitofp(value, kind)
    return b.fpext(value, kind) if given.bitwidth < to.bitwidth else b.fptrunc(value, kind)


def widened_type(x, like=None):
    """float64, or the float type of `like`."""
    to = types.float64 if like is None else element(like)
    return Vector(to, x.lanes) if isinstance(x, Vector) else to


def convert(context, b, signature, args):
    return cast_value(b, args[0], element(signature.args[0]), element(signature.return_type))


define(maths.widen, ONE, widened_type, convert)
define(maths.narrow, itertools.product(ANY, ANY), widened_type, convert)
widen, narrow = maths.widen, maths.narrow


def count_of(lanes):
    """A constant, or as many as another vector has."""
    return lanes.lanes if isinstance(lanes, Vector) else lanes.literal_value


@intrinsic(prefer_literal=True)
def splat(typing, x, lanes):
    """A number in every lane."""
    vector = Vector(x, count_of(lanes))
    return vector(x, lanes), lambda context, b, signature, args: splat_value(b, vector, args[0])


@intrinsic(prefer_literal=True)
def lane_numbers(typing, lanes):
    """0, 1, 2, …"""
    vector = Vector(types.int64, count_of(lanes))
    return vector(lanes), lambda context, b, signature, args: ir.Constant(vector.llvm, list(range(vector.lanes)))


@intrinsic
def frozen(typing, x):
    """x, the same at every use: what another thread may write meanwhile could be one number here, another there."""

    def build(context, b, signature, args):
        instruction = ir.Instruction(b.block, args[0].type, "freeze", args[:1])
        b._insert(instruction)
        return instruction

    return x(x), build


@intrinsic
def same_integer(typing, x, like):
    """An integer vector in the integer type of `like`."""
    result = Vector(like.dtype, x.lanes)

    def build(context, b, signature, args):
        if x.dtype.bitwidth == like.dtype.bitwidth:
            return args[0]
        return (b.trunc if x.dtype.bitwidth > like.dtype.bitwidth else b.sext)(args[0], result.llvm)

    return result(x, like), build
