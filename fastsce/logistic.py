"""The law of binary cross-entropy, for one element; in maths.py's words."""

import numpy as np

from fastsce.maths import POWER, exp, fma, share, where


def log_tail(z):
    return log_tail_f32(z) if z.dtype == np.float32 else log_tail_f64(z)


def decay(x):
    """e^−|x|."""
    return exp(where(x > 0.0, x * -1.0, x), POWER) * 2.0**-POWER


def sigmoid(u):
    """(σ(|x|), σ(−|x|), log(1 + e^−|x|)) of u = e^−|x|, with one division; nothing cancels."""
    over = 1.0 / ((u + 1.0) * (u + 2.0))
    large = (u + 2.0) * over
    s = (u + 1.0) * over * u
    return large, u * large, fma(s, fma(s * s, log_tail(s * s), u * -1.0), u)


def log_tail_f32(z):
    """R of log(1 + u) = u − s·(u − z·R), where s = u/(2 + u), z = s² and 0 ≤ u ≤ 1; minimax as in maths.py."""
    q = fma(z, 0.2800637185573578, 0.2800309658050537)
    q = fma(q, z, 0.4002143442630768)
    return fma(q, z, 0.666664183139801)


def log_tail_f64(z):
    """As for float32."""
    q = fma(z, 0.17010024733412382, 0.08344762084196267)
    q = fma(q, z, 0.12105010748623983)
    q = fma(q, z, 0.13301110282124945)
    q = fma(q, z, 0.15386549500666938)
    q = fma(q, z, 0.1818174441140331)
    q = fma(q, z, 0.22222223956146608)
    q = fma(q, z, 0.2857142854806521)
    q = fma(q, z, 0.4000000000015567)
    return fma(q, z, 0.6666666666666631)


def sides(x, positive, negative):
    """(what speaks for the sign of x, what speaks against it)."""
    return where(x < 0.0, negative, positive), where(x < 0.0, positive, negative)


def loss(x, right, wrong, log_u):
    """right·softplus(−|x|) + wrong·softplus(|x|)."""
    return fma(right + wrong, log_u, share(wrong, where(x < 0.0, x * -1.0, x)))


def gradient(x, right, wrong, large, small):
    """negative·σ(x) − positive·σ(−x)."""
    g = fma(wrong, large, right * small * -1.0)
    return where(x < 0.0, g * -1.0, g)


def curvature(right, wrong, large, small):
    return (right + wrong) * (large * small)


FORMULAS = (decay, sigmoid, log_tail_f32, log_tail_f64, sides, loss, gradient, curvature)  # see maths.py
