"""How numbers are stored: float32 and float64 as they are; numba has no 16-bit floats on a CPU, so a float16 is seen as
uint16 and a bfloat16 as int16. Both become float32 when loaded and are rounded, to nearest even, when stored.
"""

from functools import partial

from llvmlite import ir
from numba import types

from fastsce.backends.cpu.vectors import ELEMENT, FLOAT, I16, I32, I64, calls

HALF = ir.HalfType()
COMPUTE = {types.uint16: types.float32, types.int16: types.float32}  # others compute as they are stored
STORED = {types.uint16: I16, types.int16: I16, types.int64: I64}


def compute_type(dtype):
    return COMPUTE.get(dtype, dtype)


def stored_type(dtype):
    return STORED.get(dtype) or ELEMENT[dtype]


def decode(context, b, value, dtype, lanes):
    """A stored value as a number to compute with; `lanes` is None for a single one."""
    if dtype == types.uint16:
        if converts(context):
            return b.fpext(b.bitcast(value, shaped(HALF, lanes)), shaped(FLOAT, lanes))
        return half_to_float(b, value, lanes)
    if dtype == types.int16:
        wide = b.zext(value, shaped(I32, lanes))
        return b.bitcast(b.shl(wide, filled(I32, lanes, 16)), shaped(FLOAT, lanes))
    return value


def encode(context, b, value, dtype, lanes):
    """A number as it is stored."""
    if dtype == types.uint16:
        if converts(context):
            return b.bitcast(b.fptrunc(value, shaped(HALF, lanes)), shaped(I16, lanes))
        return float_to_half(b, value, lanes)
    if dtype == types.int16:
        i = b.bitcast(value, shaped(I32, lanes))
        up = rounded(b, i, 16, lanes)
        up = b.select(b.fcmp_unordered("uno", value, value), filled(I32, lanes, 0x7FC00000), up)
        return b.trunc(b.lshr(up, filled(I32, lanes, 16)), shaped(I16, lanes))
    return value


def converts(context):
    """Whether there is an instruction for float16; the library's function is none that compiled code could find."""
    return not calls(context, "extendhfsf2", "%h = fptrunc float %x to half %y = fpext half %h to float ret float %y }")


def half_to_float(b, value, lanes):
    """The exponent is put right by a factor of 2^112, which is exact for subnormal numbers too."""
    number = partial(filled, I32, lanes)
    wide = b.zext(value, shaped(I32, lanes))
    sign = b.shl(b.and_(wide, number(0x8000)), number(16))
    size = b.shl(b.and_(wide, number(0x7FFF)), number(13))
    grown = b.fmul(b.bitcast(size, shaped(FLOAT, lanes)), filled(FLOAT, lanes, 2.0**112))
    special = b.icmp_unsigned(">=", size, number(0x7C00 << 13))  # ∞ and NaN
    result = b.select(special, b.or_(size, number(0x7F800000)), b.bitcast(grown, shaped(I32, lanes)))
    return b.bitcast(b.or_(result, sign), shaped(FLOAT, lanes))


def float_to_half(b, value, lanes):
    """Adding ½ rounds a number below 2^-14 to a multiple of 2^-24, and leaves it in the lowest bits."""
    number = partial(filled, I32, lanes)
    i = b.bitcast(value, shaped(I32, lanes))
    size = b.and_(i, number(0x7FFFFFFF))
    normal = b.lshr(b.sub(rounded(b, size, 13, lanes), number(112 << 23)), number(13))
    small = b.fadd(b.bitcast(size, shaped(FLOAT, lanes)), filled(FLOAT, lanes, 0.5))
    small = b.sub(b.bitcast(small, shaped(I32, lanes)), number(126 << 23))
    result = b.select(b.icmp_unsigned("<", size, number(113 << 23)), small, normal)
    result = b.select(b.icmp_unsigned(">=", size, number(143 << 23)), number(0x7C00), result)
    result = b.select(b.icmp_unsigned(">", size, number(0x7F800000)), number(0x7E00), result)
    sign = b.and_(b.lshr(i, number(16)), number(0x8000))
    return b.trunc(b.or_(result, sign), shaped(I16, lanes))


def rounded(b, i, bits, lanes):
    """Bits of a float32 of which the lowest are to be cut off: to nearest even."""
    odd = b.and_(b.lshr(i, filled(I32, lanes, bits)), filled(I32, lanes, 1))
    return b.add(b.add(i, filled(I32, lanes, (1 << bits - 1) - 1)), odd)


def shaped(kind, lanes):
    return kind if lanes is None else ir.VectorType(kind, lanes)


def filled(kind, lanes, value):
    return ir.Constant(shaped(kind, lanes), value if lanes is None else [value] * lanes)
