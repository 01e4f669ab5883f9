"""The law, as functions that do not care how wide a number is.

Written in a few words, fma, where, at_least, bits, from_bits, widen, narrow and the choice between a float32 and a
float64 polynomial, that mean the same for a NumPy scalar (as they stand here), for a vector of many numbers on a CPU,
and for one CUDA thread: a backend gives them a meaning for its own types. A constant takes the type of the number
beside it.

Logits are worked on in float32 (float64 for float64 logits). What there is once a row is added and multiplied in
float64; divided, raised and its logarithm taken in the working precision.
"""

import numpy as np


def fma(a, b, c):
    """a·b + c, rounded once where the type can (here: where it is float32)."""
    return like(np.float64(a) * b + c, c, a, b)


def where(condition, a, b):
    return like(a if condition else b, a, b)


def like(value, *given):
    """value in the type of the first NumPy number among those given, if any."""
    for x in given:
        if isinstance(x, np.generic):
            return type(x)(value)
    return value


def maximum(a, b):
    """The larger; b where a is NaN. On a GPU a where b is NaN, too."""
    return where(a > b, a, b)


def at_least(x, lowest):
    """The larger; NaN where x is, on a GPU, too."""
    return where(lowest > x, lowest, x)


def bits(x):
    """The bits of a float, as an integer of its size."""
    return x.view(np.int32 if x.dtype == np.float32 else np.int64)


def from_bits(i):
    return i.view(np.float32 if i.dtype == np.int32 else np.float64)


def widen(x):
    return np.float64(x)


def narrow(x, like):
    """x in the precision of `like`."""
    return type(like)(x)


def exp_parts(x, power):
    return exp_parts_f32(x, power) if x.dtype == np.float32 else exp_parts_f64(x, power)


def exp_series(r, like):
    return exp_series_f32(r) if like.dtype == np.float32 else exp_series_f64(r)


def log_parts(u):
    return log_parts_f32(u) if u.dtype == np.float32 else log_parts_f64(u)


def most(x):
    return MOST_F32 if x.dtype == np.float32 else MOST_F64


def whole(x):
    return whole_f32(x) if x.dtype == np.float32 else whole_f64(x)


# --- exp, expm1, log1p, tanh ------------------------------------------------------------------------------------------
#
# e^x = 2^n·e^r with n = round(x/ln 2), |r| ≤ ln 2 / 2. Adding 1.5·2^23 (2^52) rounds x/ln 2 to an integer and leaves it
# in the lowest bits, from where a shift puts it into the exponent. ln 2 is taken off in two parts, the first so short
# that n times it is exact. Minimax polynomials whose coefficients were rounded one after the other; their own error is
# 0.05 ulp (float32) and 0.03 ulp (float64).


def exp_parts_f32(x, power):
    """(2^(n + power), r): e^x = 2^n·e^r; 0 in place of a power below the normal numbers."""
    lowest = power * -0.6931471805599453 - 87.96
    x = at_least(x, lowest)
    magic = 12582912.0 + 127.0 + power
    t = fma(x, 1.4426950408889634, magic)
    n = t - magic
    r = fma(n, -1.428606765330187e-06, fma(n, -0.693145751953125, x))
    return from_bits(bits(t) << 23), r


def exp_parts_f64(x, power):
    """As for float32."""
    lowest = power * -0.6931471805599453 - 709.03
    x = at_least(x, lowest)
    magic = 6755399441055744.0 + 1023.0 + power
    t = fma(x, 1.4426950408889634, magic)
    n = t - magic
    r = fma(n, -LN2_LO_F64, fma(n, -LN2_HI_F64, x))
    return from_bits(bits(t) << 52), r


def exp_series_f32(r):
    """q: e^r = 1 + r·(1 + r·q)."""
    q = fma(r, 0.001381874200887978, 0.0083687212318182)
    q = fma(q, r, 0.04166829213500023)
    q = fma(q, r, 0.1666652113199234)
    return fma(q, r, 0.4999999403953552)


def exp_series_f64(r):
    """As for float32."""
    q = fma(r, 2.500229211018189e-08, 2.7630651330724894e-07)
    q = fma(q, r, 2.7557579581754067e-06)
    q = fma(q, r, 2.4801492034843233e-05)
    q = fma(q, r, 0.00019841269514852384)
    q = fma(q, r, 0.0013888888944603927)
    q = fma(q, r, 0.008333333333489554)
    q = fma(q, r, 0.041666666666526526)
    q = fma(q, r, 0.16666666666666424)
    return fma(q, r, 0.5000000000000011)


POWER = 32.0  # terms of a sum are kept as 2^32·e^x, so that the smallest probability is still a normal number


def exp(x, power):
    """2^power·e^x to an ulp, 0 from half an octave below the normal numbers on; x at most some 60 for power = POWER."""
    scale, r = exp_parts(x, power)
    return exp_of(scale, r, r)


def exp_of(scale, r, like):
    """scale·e^r, by the series that is enough for `like`."""
    return scale * fma(fma(exp_series(r, like), r, 1.0), r, 1.0)


def whole_f32(x):
    """The nearest whole number, of those up to 2^22; the same for a number that is worked on in float64."""
    return narrow(narrow(x + 12582912.0, x) - 12582912.0, x)


def whole_f64(x):
    """As for float32."""
    return (x + 6755399441055744.0) - 6755399441055744.0


def expm1(x):
    """e^x − 1 for x ≤ 88; nothing cancels near 0."""
    scale, r = exp_parts(x, 0.0)
    return fma(scale, fma(exp_series(r, r) * r, r, r), scale - 1.0)


def log_parts_f32(u):
    """(k, f, s, R): u = 2^k·(1 + f), 1 + f within √½ … √2, s = f/(2 + f), log(1 + f) = f − (f²/2 − s·(f²/2 + R))."""
    i = bits(u) + (0x3F800000 - 0x3F3504F3)
    k = from_bits((i >> 23) + 0x4B000000) - (8388608.0 + 127.0)
    f = from_bits((i & 0x007FFFFF) + 0x3F3504F3) - 1.0
    s = f / (f + 2.0)
    z = s * s
    p = fma(z, 0.24279078841, 0.28498786688)
    p = fma(p, z, 0.40000972152)
    p = fma(p, z, 0.66666662693)
    return k, f, s, p * z


def log_parts_f64(u):
    """As for float32."""
    i = bits(u) + ((0x3FF00000 - 0x3FE6A09E) << 32)
    k = from_bits((i >> 52) + 0x4330000000000000) - (4503599627370496.0 + 1023.0)
    f = from_bits((i & 0x000FFFFFFFFFFFFF) + (0x3FE6A09E << 32)) - 1.0
    s = f / (f + 2.0)
    z = s * s
    p = fma(z, 1.479819860511658591e-01, 1.531383769920937332e-01)
    p = fma(p, z, 1.818357216161805012e-01)
    p = fma(p, z, 2.222219843214978396e-01)
    p = fma(p, z, 2.857142874366239149e-01)
    p = fma(p, z, 3.999999999940941908e-01)
    p = fma(p, z, 6.666666666666735130e-01)
    return k, f, s, p * z


def log1p(t, reciprocal):
    """log(1 + t) for t ≥ 0, to an ulp however small t is; `reciprocal` is 1/(1 + t), which callers have anyway."""
    u = t + 1.0
    given = u - 1.0
    lost = ((1.0 - (u - given)) + (t - given)) * reciprocal  # what u is too small by, whichever of 1 and t is larger
    k, f, s, tail = log_parts(u)
    half = f * f * 0.5
    return fma(k, LN2_HI, f - (half - (s * (half + tail) + fma(k, LN2_LO, lost))))


LN2_HI = 0.693145751953125  # 15 bits: k times it is exact in float32
LN2_LO = 1.4286068203094172e-06
LN2_HI_F64 = 6.93147180369123816490e-01  # 33 bits
LN2_LO_F64 = 1.90821492927058770002e-10


MOST_F32, MOST_F64 = 87.3, 708.3  # 1/e^y is a normal number, which a processor may be told to take others for 0


def tanh_parts(a):
    """`exp_parts` of 2|a|."""
    y = maximum(a * 2.0, a * -2.0)
    return exp_parts(where(y > most(a), most(a), y), 0.0)


def tanh_of(a, scale, r):
    """(tanh a, 1 − tanh² a) of `tanh_parts`, both to a few ulp; the second is 0 from the smallest normal numbers on."""
    e = fma(scale, fma(exp_series(r, r) * r, r, r), scale - 1.0)  # e^2|a| − 1
    reciprocal = 1.0 / (e + 2.0)
    t = e * reciprocal
    return where(a < 0.0, t * -1.0, t), where(scale * 4.0 == np.inf, 0.0, reciprocal * 2.0 * (t + 1.0))


def carried(scale):
    """The power of two for the terms of a row: a tiny scale ÷ 2^POWER would be lost, and makes it needless."""
    return where(scale * scale < 2.0**-60, scale * 0.0, POWER)


# --- the law of an element: u is the logit, or tanh(s·x/softcap); z = gain·u ------------------------------------------


def capped(x, inner):
    """(tanh, its derivative) at inner·x, and −∞ at −∞: a mask stays a mask."""
    scale, r = tanh_parts(x * inner)
    return capped_of(x, inner, scale, r)


def capped_of(x, inner, scale, r):
    """The same where its parts are known."""
    u, slope = tanh_of(x * inner, scale, r)
    return where(x == -np.inf, -np.inf, u), slope


def slope(x, inner):
    """The derivative of tanh at inner·x."""
    return capped(x, inner)[1]


def class_gradient(e, push, q, pull):
    """(mass + 2ζ·lse)·p − q, of a term e."""
    return fma(e, push, -(q * pull))


def curvature(p):
    """p·(1 − p)."""
    return fma(-p, p, p)


def top_curvature(p, p_minus_1):
    """The same where p may be near 1."""
    return p * p_minus_1 * -1.0


def soft_mass(w, t, keep, off):
    """q = w·((1 − ε)·t + ε/C)."""
    return w * fma(t, keep, off)


def in_two_parts(total, like):
    """A float64 as numbers that are computed with: a rounded one, and the rest of it."""
    near = narrow(total, like)
    return near, narrow(total - widen(near), near)


def jacobian_product(p, v, mean, rest):
    """p·(v − ⟨p, v⟩), of ⟨p, v⟩ in two parts, or it would be rounded."""
    return p * ((v - mean) - rest)


def unit(x, inner, softcap):
    """u, from which z = gain·u; `softcap` is None where there is none."""
    if softcap is None:
        return x
    return capped(x, inner)[0]


def sloped(v, x, inner, softcap):
    """v times the slope of the softcap at x: terms are stored with it, since both need the same tanh."""
    if softcap is None:
        return v
    return v * slope(x, inner)


def logit(x, law, softcap):
    """z in float64, from the same u as everywhere."""
    return law.gain * widen(unit(x, law.inner, softcap))


# --- the law of a row -------------------------------------------------------------------------------------------------
#
# z_top is the largest z, whose term is `top` and stands in `ties` places; `rest` is the sum of all that are smaller.
# (frame.py says what terms are relative to.)
# S = 1 + others, where others = Σ_{c≠k} exp(z_c − z_top) for one place k of the largest, so that log S = log1p(others)
# and p_k − 1 = −others·p_k lose nothing however confident the row is. `distance` = Σ q_c·(z_top − z_c): no term is
# negative.


def row_sums(unit, rest, ties, like):
    """(log S, p_k, p_k − 1, what a term is multiplied by to be a probability), where `unit` is 1/top."""
    others = fma(rest, widen(unit), ties - 1.0)
    p = 1.0 / (narrow(others, unit) + 1.0)
    log_s = widen(log1p(narrow(others, like), narrow(p, like)))
    log_s = where(others < 2.0**-60, others, log_s)  # a float32 may be too small for others
    return log_s, widen(p), others * widen(p) * -1.0, unit * p


def label_chance(drop, p_top, p_top_minus_1, like):
    """(p_y, p_y − 1) of the label y, `drop` = z_top − z_y below the largest."""
    p = widen(exp(narrow(drop * -1.0, like), 0.0)) * p_top
    return p, where(drop == 0.0, p_top_minus_1, p - 1.0)


def saved_chance(z, lse, like):
    """(p, p − 1) where lse is given."""
    log_p = narrow(z - lse, like)
    return widen(exp(log_p, 0.0)), widen(expm1(log_p))


def label_terms(law, w_y, drop, distance):
    """(q_y, mass, mass − q_y, distance) for the label y; `distance` comes in as Σ w_c·(z_top − z_c)."""
    on = w_y * law.keep
    return (
        on + w_y * law.off,
        on + law.off * law.total,
        (law.total - w_y) * law.off,
        distance * law.off + share(on, drop),
    )


def row_loss(mass, log_s, distance, lse, z_loss):
    """mass·lse − ⟨q, z⟩ + ζ·lse²."""
    return fma(mass, log_s, distance) + lse * (lse * z_loss)  # lse² may be ∞


def row_factor(scale, mass, lse, z_loss, to_p):
    """What a term is multiplied by in the gradient: scale·(mass + 2ζ·lse)/Σ, where to_p is 1/Σ."""
    factor = scale * mass * to_p
    if z_loss > 0.0:  # a branch, for the writing of a row need not wait for its logarithm
        factor = factor + scale * lse * (2.0 * z_loss) * to_p
    return factor


def place_gradient(mass, q, others, lse, z_loss, p, p_minus_1):
    """∂loss/∂z where p and q may both be large; `others` = mass − q and p − 1 come in without cancellation."""
    return where(p > 0.5, fma(mass, p_minus_1, others), fma(mass, p, q * -1.0)) + lse * p * (2.0 * z_loss)


def label_gradient(push, scale, top, is_top):
    """(a, b): without options scale·(p_y − 1) is a·(the label's term) + b; `top` where that is the largest, as p_y may
    be near 1.
    """
    return where(is_top, 0.0, push), where(is_top, top, -scale)


def share(q, z):
    """q·z, where a share of nothing is nothing even of ∞."""
    return where(q == 0.0, 0.0, q * z)


# What a compiling backend compiles as it stands; the other words it gives a meaning of its own.
FORMULAS = (
    exp_parts_f32, exp_parts_f64, exp_series_f32, exp_series_f64, exp, exp_of, expm1, whole_f32, whole_f64,
    log_parts_f32, log_parts_f64, log1p, tanh_parts, tanh_of, carried,
    capped, capped_of, slope, class_gradient, curvature, top_curvature, soft_mass, in_two_parts, jacobian_product,
    unit, sloped, logit, row_sums, label_chance, saved_chance, label_terms, row_loss, row_factor, place_gradient,
    label_gradient, share,
)  # fmt: skip
