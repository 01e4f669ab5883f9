"""What the law's words mean in a CUDA thread.

A Single is a float32 (or the int32 of its bits) whose arithmetic takes the constants beside it into its own type, where
numba would go to float64. float64 needs no type of its own. No flag lets the compiler reorder.
"""

import operator

from llvmlite import ir

import fastsce.backends.cuda.target  # noqa: F401 - first: it prepares for the imports after it

# isort: split
from numba.cuda import cgutils, types
from numba.cuda.extending import core_models, intrinsic, overload, register_jitable, register_model

from fastsce import frame, logistic, maths

FLOAT, DOUBLE, I32, I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
INLINE = {"forceinline": True}  # a call would pass what is in registers through memory


def device(function):
    """A function that becomes part of the kernels which call it."""
    return register_jitable(**INLINE)(function)


def meaning(function):
    """What a word of the law means here, given the types of its arguments."""
    return overload(function, jit_options=INLINE)


class Single(types.Type):
    def __init__(self, dtype):
        self.dtype = dtype
        super().__init__(f"Single({dtype})")


@register_model(Single)
class SingleModel(core_models.PrimitiveModel):
    def __init__(self, manager, single):
        super().__init__(manager, single, FLOAT if single.dtype == types.float32 else I32)


SINGLE, BITS = Single(types.float32), Single(types.int32)


def single_among(*given):
    return next((t for t in given if isinstance(t, Single)), None)


def into(context, b, value, given, to):
    """A number as one of another type."""
    if given == to:
        return value
    return context.cast(b, value, given, to.dtype if isinstance(to, Single) else to)


def is_float(t):
    return (t.dtype if isinstance(t, Single) else t) in (types.float32, types.float64)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def define_operator(op, on_floats, on_integers, gives_truth=False):
    @intrinsic
    def apply(typing, a, b):
        kind = single_among(a, b)

        def build(context, builder, signature, args):
            x, y = (into(context, builder, v, t, kind) for v, t in zip(args, signature.args))
            return (on_floats if is_float(kind) else on_integers)(builder, x, y)

        return (types.boolean if gives_truth else kind)(a, b), build

    @meaning(op)
    def typed(a, b):
        if single_among(a, b) is not None:
            return lambda a, b: apply(a, b)


define_operator(operator.add, lambda b, x, y: b.fadd(x, y), lambda b, x, y: b.add(x, y))
define_operator(operator.sub, lambda b, x, y: b.fsub(x, y), lambda b, x, y: b.sub(x, y))
define_operator(operator.mul, lambda b, x, y: b.fmul(x, y), lambda b, x, y: b.mul(x, y))
define_operator(operator.truediv, lambda b, x, y: quotient(b, x, y), None)
define_operator(operator.and_, None, lambda b, x, y: b.and_(x, y))
define_operator(operator.lshift, None, lambda b, x, y: b.shl(x, y))
define_operator(operator.rshift, None, lambda b, x, y: b.ashr(x, y))
for _op, _sign in ((operator.lt, "<"), (operator.gt, ">"), (operator.eq, "==")):
    define_operator(
        _op,
        lambda b, x, y, sign=_sign: b.fcmp_ordered(sign, x, y),
        lambda b, x, y, sign=_sign: b.icmp_signed(sign, x, y),
        gives_truth=True,
    )


def quotient(b, x, y):
    """x/y within an ulp, for finite y that are not 0, without the call that makes it right for all others.

    tanh divides by up to e^87.
    """
    kind = ir.FunctionType(FLOAT, [FLOAT])
    r = b.call(ir.InlineAsm(kind, "rcp.approx.f32 $0, $1;", "=f,f"), [y])
    q = b.fmul(x, r)
    return b.fma(b.fma(b.fsub(ir.Constant(FLOAT, -0.0), y), q, x), r, q)


@intrinsic
def negative(typing, a):
    # the LLVM of NVVM has no instruction for it
    return a(a), lambda context, b, signature, args: b.fsub(ir.Constant(args[0].type, -0.0), args[0])


@meaning(operator.neg)
def neg_single(a):
    if isinstance(a, Single):
        return lambda a: negative(a)


@intrinsic
def fma(typing, a, b, c):
    kind = single_among(a, b, c) or types.float64

    def build(context, builder, signature, args):
        return builder.fma(*(into(context, builder, v, t, kind) for v, t in zip(args, signature.args)))

    return kind(a, b, c), build


@intrinsic
def select(typing, condition, a, b):
    """Both are worked out: a thread waits for neither."""
    kind = single_among(a, b) or typing.unify_types(a, b)

    def build(context, builder, signature, args):
        x, y = (into(context, builder, v, t, kind) for v, t in zip(args[1:], signature.args[1:]))
        return builder.select(args[0], x, y)

    return kind(condition, a, b), build


@intrinsic
def larger(typing, a, b):
    """The larger; the other where one is NaN."""
    kind = single_among(a, b) or types.float64
    name = "llvm.maxnum.f32" if kind == SINGLE else "llvm.maxnum.f64"

    def build(context, builder, signature, args):
        x, y = (into(context, builder, v, t, kind) for v, t in zip(args, signature.args))
        kind_of_function = ir.FunctionType(x.type, [x.type, x.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind_of_function, name), [x, y])

    return kind(a, b), build


@intrinsic
def held_above(typing, x, lowest):
    """The larger; NaN where one is. A comparison and a choice would take a predicate, of which a thread has seven."""

    def build(context, builder, signature, args):
        pair = (into(context, builder, v, t, SINGLE) for v, t in zip(args, signature.args))
        kind = ir.FunctionType(FLOAT, [FLOAT, FLOAT])
        return builder.call(ir.InlineAsm(kind, "max.NaN.f32 $0, $1, $2;", "=f,f,f"), list(pair))

    return SINGLE(x, lowest), build


@intrinsic
def reinterpret(typing, x):
    """float ↔ integer of the same size."""
    pairs = {SINGLE: BITS, types.float64: types.int64}
    other = {**pairs, **{i: f for f, i in pairs.items()}}[x]
    return other(x), lambda context, b, signature, args: b.bitcast(args[0], context.get_value_type(other))


@intrinsic
def widen(typing, x):
    """In float64."""
    return types.float64(x), lambda context, b, signature, args: context.cast(
        b, args[0], x.dtype if isinstance(x, Single) else x, types.float64
    )


@intrinsic
def narrow(typing, x, like):
    """The float type of `like`."""
    return like(x, like), lambda context, b, signature, args: into(
        context, b, args[0], x.dtype if isinstance(x, Single) and x != like else x, like
    )


# --- the law's words --------------------------------------------------------------------------------------------------


@meaning(maths.fma)
def fma_meaning(a, b, c):
    return lambda a, b, c: fma(a, b, c)


@meaning(maths.where)
def where_meaning(condition, a, b):
    return lambda condition, a, b: select(condition, a, b)


@meaning(maths.maximum)
def maximum_meaning(a, b):
    return lambda a, b: larger(a, b)


@meaning(maths.at_least)
def at_least_meaning(x, lowest):
    if x == SINGLE:
        return lambda x, lowest: held_above(x, lowest)
    return lambda x, lowest: select(lowest > x, lowest, x)


@meaning(maths.bits)
def bits_meaning(x):
    return lambda x: reinterpret(x)


@meaning(maths.from_bits)
def from_bits_meaning(i):
    return lambda i: reinterpret(i)


@meaning(maths.widen)
def widen_meaning(x):
    return lambda x: widen(x)


@meaning(maths.narrow)
def narrow_meaning(x, like):
    return lambda x, like: narrow(x, like)


@meaning(maths.exp_parts)
def exp_parts_meaning(x, power):
    if x == SINGLE:
        return lambda x, power: maths.exp_parts_f32(x, power)
    return lambda x, power: maths.exp_parts_f64(x, power)


@meaning(maths.exp_series)
def exp_series_meaning(r, like):
    if like == SINGLE:
        return lambda r, like: maths.exp_series_f32(r)
    return lambda r, like: maths.exp_series_f64(r)


@meaning(maths.log_parts)
def log_parts_meaning(u):
    if u == SINGLE:
        return lambda u: maths.log_parts_f32(u)
    return lambda u: maths.log_parts_f64(u)


@meaning(maths.most)
def most_meaning(x):
    if x == SINGLE:
        return lambda x: maths.MOST_F32
    return lambda x: maths.MOST_F64


@meaning(frame.reach)
def reach_meaning(x):
    if x == SINGLE:
        return lambda x: frame.REACH_F32
    return lambda x: frame.REACH_F64


@meaning(logistic.log_tail)
def log_tail_meaning(z):
    if z == SINGLE:
        return lambda z: logistic.log_tail_f32(z)
    return lambda z: logistic.log_tail_f64(z)


for _function in maths.FORMULAS + frame.FORMULAS + logistic.FORMULAS:
    device(_function)
