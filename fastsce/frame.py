"""What the terms of a row are relative to, in the words of maths.py.

Near 0, whole octaves come off z, which is exact; to take the largest off would round, and to compute z would, too.
"""

from typing import Any, NamedTuple

import numpy as np

from fastsce.maths import (
    LN2_HI_F64,
    LN2_LO_F64,
    POWER,
    bits,
    exp,
    exp_of,
    exp_parts,
    fma,
    from_bits,
    narrow,
    unit,
    where,
    whole,
    widen,
)

NEAR = 65536.0  # n·ln 2 is exact for every term of a row whose largest z has a smaller square than this


class At(NamedTuple):
    """What the terms of a row are relative to: a term is 2^lift·exp(rate·u − offset)."""

    rate: Any
    offset: Any
    lift: Any


def about(m, power, law):
    """Of a row whose largest u is m, and whose terms are kept as 2^power of what they are to it."""
    slant = rate(m, law)
    off = where(m * m < law.near, narrow(0.0, m), slant * m)
    return At(slant, off, power - whole(narrow(fma(slant, m, -off) * 1.4426950216293335, m)))


def rate(m, law):
    """gain; but where z is so large that no other term than the largest is to be seen, a power of two: rate·m is exact
    then, and the largest term 1, of whatever size an ulp of z is.
    """
    if law.near > 0.0:  # gain is 1; chosen from itself, for every lane
        return where(m == m, narrow(law.gain, m), narrow(law.gain, m))
    z, far = widen(m) * law.gain, reach(m)
    return narrow(where(z * z < far * far, law.gain, two_over(m) * (far * 0.5)), m)


def reach(x):
    """From where on z is so large: rate·m is once to twice as much, and the next smaller u is 2^7 (2^10) away."""
    return REACH_F32 if x.dtype == np.float32 else REACH_F64


REACH_F32, REACH_F64 = 2.0**31, 2.0**63


def two_over(m):
    """2 ÷ the power of two in m; 1 ÷ the largest would not be normal."""
    return from_bits((2047 << 52) - (bits(widen(m)) & 0x7FF0000000000000))


def exponent(x, rate, offset, inner, softcap):
    """rate·u − offset of a logit."""
    return fma(unit(x, inner, softcap), rate, -offset)


def beyond(u, at, law):
    """z − (the z of offset), in float64, in which u is given."""
    d = fma(u, widen(at.rate), -widen(at.offset))
    return d if law.near > 0.0 else d * (law.gain / widen(at.rate))


def wide_term(u, at, law):
    """The term of u, in float64."""
    return exp(beyond(u, at, law), widen(at.lift))


def inverse(u, at, law):
    """1 ÷ (the term of u), in float64, but only as closely as terms are."""
    scale, r = exp_parts(-beyond(u, at, law), -widen(at.lift))
    return exp_of(scale, r, at.rate)


def inverse_top(x, m, at, power):
    """The same of m, where x is m, gain 1 and power 0 or POWER: what octaves and offset leave of it is small.

    NaN where x is −∞, and m is 0 for the sake of its terms.
    """
    k = widen(power - at.lift)
    r = fma(k, LN2_LO_F64, fma(k, LN2_HI_F64, widen(at.offset - x)))
    return exp_of(where(power == 0.0, 1.0, 2.0**-POWER), r, m)


def against(lse, m, at, law):
    """What makes a term a probability where lse is given; as closely."""
    scale, r = exp_parts(below(lse, m, at, law), -widen(at.lift))
    return exp_of(scale, r, at.rate)


def below(lse, m, at, law):
    """From lse to the z of offset, where z of m is rounded as z is; more than 0 is rounding where numbers are huge."""
    if law.near > 0.0:
        return widen(at.offset) - lse
    z = widen(m) * law.gain - lse
    return where(widen(at.rate) == law.gain, z, where(z > 0.0, 0.0, z)) - beyond(widen(m), at, law)


def rebased(before, m, law):
    """What terms are multiplied by to make them those of another m; a power of two where both are near 0."""
    none = narrow(0.0, m)
    old, new, u = about(before, none, law), about(m, none, law), widen(before)
    factor = exp(beyond(u, new, law) - beyond(u, old, law), widen(new.lift - old.lift))
    return where(u == -np.inf, 0.0, factor)  # nothing but masks so far


def distance_to(m, at, far, mass, law):
    """Σ q·(z − z_c), where z is that of m, from `far` = Σ q·(rate·m − rate·u_c), with rate·m rounded, and Σ q."""
    if law.near > 0.0:
        return far
    slant = widen(at.rate)
    rounding = fma(slant, widen(m), -widen(at.rate * m))
    return fma(rounding, mass, far) * (law.gain / slant)


# What a compiling backend compiles as it stands.
FORMULAS = (
    about, rate, two_over, exponent, beyond, wide_term, inverse, inverse_top, against, below, rebased, distance_to,
)  # fmt: skip
