"""What the terms of a row are relative to: with m the largest u, a term is exp(rate·u − offset)/2^octaves.

In the words of maths.py. To take m off z rounds, and so would z itself where it is computed; an octave is exact.
"""

import numpy as np

from fastsce.maths import (
    LN2_HI_F64,
    LN2_LO_F64,
    POWER,
    bits,
    exp,
    exp_begun,
    exp_of,
    fma,
    from_bits,
    narrow,
    where,
    whole,
    widen,
)

NEAR = 65536.0  # n·ln 2 is exact for every term of a row whose largest z has a smaller square than this


def octaves(m, law):
    return where(m * m < law.near, whole(narrow(m * 1.4426950216293335, m)), narrow(0.0, m))


def rate(m, law):
    """gain; but where z is so large that no other term than the largest is to be seen, a power of two: rate·m is exact
    then, and the largest term 1, of whatever size an ulp of z is.
    """
    if law.near > 0.0:  # gain is 1
        return where(m == m, narrow(law.gain, m), narrow(law.gain, m))
    z, far = widen(m) * law.gain, reach(m)
    return narrow(where(z * z < far * far, law.gain, below_one(m) * far), m)


def reach(x):
    """From where on z is so large: rate·m is once to twice as much, and the next smaller u is 2^7 (2^10) away."""
    return REACH_F32 if x.dtype == np.float32 else REACH_F64


REACH_F32, REACH_F64 = 2.0**31, 2.0**63


def below_one(m):
    """1 ÷ the power of two in m."""
    return from_bits((2046 << 52) - (bits(widen(m)) & 0x7FF0000000000000))


def offset(m, law):
    """What comes off rate·u all the same: m's where z is computed or far from 0, and its ulp not to be seen."""
    return where(m * m < law.near, narrow(0.0, m), rate(m, law) * m)


def beyond(u, m, law):
    """z − offset in float64, in which u is given."""
    slant = widen(rate(m, law))
    d = fma(u, slant, -widen(offset(m, law)))
    return d if law.near > 0.0 else d * (law.gain / slant)


def relative(u, m, power, law):
    """2^power·(the term of u), in float64."""
    return exp(beyond(u, m, law), power - widen(octaves(m, law)))


def inverse(u, m, power, law):
    """2^−power ÷ (the term of u), in float64, but only as closely as m has it."""
    scale, r = exp_begun(-beyond(u, m, law), widen(octaves(m, law)) - power)
    return exp_of(scale, r, m)


def against(lse, m, power, law):
    """What makes 2^power·(a term) a probability where lse is given; as closely."""
    scale, r = exp_begun(below(lse, rate(m, law), offset(m, law), law), widen(octaves(m, law)) - power)
    return exp_of(scale, r, m)


def below(lse, rate, offset, law):
    """From lse to the z of offset; of the largest z itself, whose numbers may be huge, more than 0 is rounding."""
    ratio = law.gain / widen(rate)
    z = widen(offset) * ratio - lse
    return where(ratio == 1.0, z, where(z > 0.0, 0.0, z))


def inverse_top(z, m, power, law):
    """`inverse` for a power that is 0 or POWER, where m is z, and gain 1: what octaves and offset leave of it is small.

    NaN where z is −∞, and m is 0 for the sake of its terms.
    """
    k = widen(octaves(m, law))
    r = fma(k, LN2_LO_F64, fma(k, LN2_HI_F64, widen(offset(m, law)) - z))
    one = power * 0.0 + 1.0
    return exp_of(widen(where(power == 0.0, one, 2.0**-POWER)), r, m)


def rebased(before, m, law):
    """What terms are multiplied by to make them those of another m; a power of two where both are near 0."""
    u = widen(before)
    return exp(beyond(u, m, law) - beyond(u, before, law), widen(octaves(before, law) - octaves(m, law)))


def distance_to(m, far, mass, law):
    """Σ q·(z − z_c), where z is that of m, from `far` = Σ q·(rate·m − rate·u_c), with rate·m rounded, and Σ q."""
    if law.near > 0.0:
        return far
    slant = rate(m, law)
    rounding = fma(widen(slant), widen(m), -widen(slant * m))
    return fma(rounding, mass, far) * (law.gain / widen(slant))


# What a compiling backend compiles as it stands.
FORMULAS = (
    octaves, rate, below_one, offset, beyond, relative, inverse, against, below, inverse_top, rebased, distance_to,
)  # fmt: skip
