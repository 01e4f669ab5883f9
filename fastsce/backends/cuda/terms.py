"""What of the kernel depends on how numbers are stored: how a row's largest is found, and how terms are worked out."""

import numpy as np
from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from fastsce import maths
from fastsce.backends.cuda.scalars import FLOAT, I32, SINGLE, device, meaning
from fastsce.backends.cuda.words import (
    BFLOAT16,
    FLOAT16,
    I16,
    asm,
    decode,
    each,
    each_number,
    get,
    number,
    register,
    width,
)


def is_half(p):
    return p.dtype in (FLOAT16, BFLOAT16)


# --- the largest number of a row --------------------------------------------------------------------------------------
#
# Numbers of 16 bits are compared two by two, as they are stored; NaN loses against any number.


def lowest(p):
    """What is larger than nothing: −∞, or two of it."""


@meaning(lowest)
def lowest_meaning(p):
    if is_half(p):
        return lambda p: lowest_pair(p)
    return lambda p: number(-np.inf, p)


def larger(top, held, j, p):
    """The larger of `top` and the numbers of raw word j."""


@meaning(larger)
def larger_meaning(top, held, j, p):
    if is_half(p):
        return lambda top, held, j, p: each(4, larger_pair, top, (held, 4 * j, p))
    return lambda top, held, j, p: each_number(p, larger_number, top, (held, width(p) * j, p))


def largest(top, p):
    """As it is worked on."""


@meaning(largest)
def largest_meaning(top, p):
    if is_half(p):
        return lambda top, p: larger_of_pair(top, p)
    return lambda top, p: top


@device
def larger_number(k, top, held, start, p):
    return maths.maximum(top, get(held, start + k, p))


@device
def larger_pair(k, top, held, start, p):
    return maximum_pair(top, held, start + k, p)


@intrinsic
def lowest_pair(typing, p):
    value = 0xFC00FC00 if p.dtype == FLOAT16 else 0xFF80FF80
    return types.int32(p), lambda context, b, signature, args: I32(value)


@intrinsic
def maximum_pair(typing, pair, held, n, p):
    kind = "f16x2" if p.dtype == FLOAT16 else "bf16x2"

    def build(context, b, signature, args):
        other = b.load(register(context, b, held, args[1], signature.args[2], args[2], 0))
        return asm(b, f"max.{kind} $0, $1, $2;", I32, "=r,r,r", [args[0], other])

    return types.int32(pair, held, n, p), build


@intrinsic
def larger_of_pair(typing, pair, p):
    def build(context, b, signature, args):
        halves = [decode(b, b.trunc(b.lshr(args[0], I32(bits)), I16), p.dtype) for bits in (0, 16)]
        kind = ir.FunctionType(FLOAT, [FLOAT, FLOAT])
        return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.maxnum.f32"), halves)

    return SINGLE(pair, p), build


# --- exp --------------------------------------------------------------------------------------------------------------


@intrinsic
def exp2(typing, x):
    """2^x as the hardware has it, within 2 ulp; 0 for what is below the normal numbers."""
    return SINGLE(x), lambda context, b, signature, args: asm(b, "ex2.approx.ftz.f32 $0, $1;", FLOAT, "=f,f", [args[0]])


def raised(p, z, power):
    """2^power·e^z; for 16-bit numbers as good as their rounding asks for, and without the power."""


@meaning(raised)
def raised_meaning(p, z, power):
    if is_half(p):
        return lambda p, z, power: exp2(z * 1.4426950408889634)
    return lambda p, z, power: maths.exp(z, power)


def power_of(p, scale):
    """The power of two with which terms are kept, narrowed."""


@meaning(power_of)
def power_of_meaning(p, scale):
    if is_half(p):
        return lambda p, scale: number(0.0, p)
    return lambda p, scale: number(maths.carried(scale), p)
