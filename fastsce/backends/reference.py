"""The loss in NumPy float64, as readable as its formulas: the oracle the other backends are tested against.

It shares no code with them. Nothing here is fast; everything is right in float64, on confident rows too.

Arrays are NumPy views with the class axis last. `loss` and `lse` are float64, one a row, and `loss` is not yet
multiplied by `row_scale`, a `host.Scale`.
"""

from __future__ import annotations

import numpy as np

from fastsce import host as chores
from fastsce.spec import BFLOAT16, Spec


def int64_labels(target):
    """Labels as int64, side by side; those that do not fit have been refused."""
    return chores.labels(target)


def scan_labels(spec, labels, classes, weight, sample_weight, summed=True, checked=None):
    """The first bad row (or −1); Σ w_y·sample_weight over the rows not ignored, whether asked for or not; and the
    weights of classes and of rows to go on with, in float64.
    """
    flat = labels.reshape(-1)
    valid = flat != spec.ignore_index
    bad = valid & ((flat < 0) | (flat >= classes))
    if bad.any():
        return int(bad.argmax()), 0.0, None, None
    w = np.ones(classes) if weight is None else weight
    s = None if sample_weight is None else chores.numbers(sample_weight)
    each = np.broadcast_to(1.0 if s is None else s, labels.shape).reshape(-1)
    with np.errstate(all="ignore"):
        return -1, float((w[flat[valid]] * each[valid]).sum()), weight, s


def forward_backward(spec, logits, target, weight, row_scale, *, loss, lse, grad=None, hess=None, summed=False):
    """Write loss and lse of every row and, where asked for, the gradient and the diagonal of the Hessian.

    `target`: labels (one a row), probabilities (the logits' shape), or None: then q = 0 and mass = 1, so that
    the loss is lse and its gradient is the softmax. `summed`: nobody will see the losses, whose sum may be returned
    instead (which is not done here), for `reduce`.
    """
    with np.errstate(all="ignore"):
        z, slope = scaled(spec, decode(logits))
        m, k, rest = statistics(z)
        log_sum = np.log1p(rest)
        lse[...] = m + log_sum
        q, others = target_mass(spec, target, weight, z.shape, k)
        mass = others + take(q, k)
        distance = np.where(q == 0, 0, q * (m[..., None] - z)).sum(-1)
        loss[...] = mass * log_sum + distance + spec.z_loss * lse * lse
        if target is None:
            mass = others = np.ones_like(m)
            loss[...] = lse
        p = np.exp(z - m[..., None]) / (1 + rest)[..., None]
        top = -rest / (1 + rest)  # p_k − 1 of the largest logit, without cancellation
        if grad is not None:
            g = gradient(spec, mass, lse, p, q, others, k, top)
            encode(keep(spec, target, column(row_scale) * slope * g), grad)
        if hess is not None:
            h = mass[..., None] * p * (1 - p)
            put(h, k, mass * take(p, k) * -top)
            encode(keep(spec, target, column(row_scale) * spec.logit_scale**2 * h), hess)
        if is_index(target, z):
            loss[target == spec.ignore_index] = 0
            lse[target == spec.ignore_index] = 0


def backward(spec, logits, target, weight, row_scale, *, lse, grad):
    """Write the gradient from a saved lse."""
    with np.errstate(all="ignore"):
        z, slope = scaled(spec, decode(logits))
        k = np.where(np.isnan(z), -np.inf, z).argmax(-1)
        q, others = target_mass(spec, target, weight, z.shape, k)
        mass = others + take(q, k)
        p = np.exp(z - lse[..., None])
        top = np.expm1(take(z, k) - lse)
        g = gradient(spec, mass, lse, p, q, others, k, top)
        encode(keep(spec, target, column(row_scale) * slope * g), grad)


def scaled(spec: Spec, x):
    """z and dz/dx."""
    s = spec.logit_scale
    if spec.softcap is None:
        return s * x, np.full_like(x, s)
    a = s * x / spec.softcap
    u = np.exp(-2 * np.abs(a))
    z = np.where(a == -np.inf, -np.inf, spec.softcap * np.tanh(a))
    return z, s * 4 * u / (1 + u) ** 2  # 1 − tanh² a, without cancellation


def statistics(z):
    """The largest z of each row, its first place, and Σ exp(z − max) over all the other places."""
    k = np.where(np.isnan(z), -np.inf, z).argmax(-1)
    m = take(z, k)
    e = np.exp(z - m[..., None])
    put(e, k, np.where(np.isfinite(m), 0, np.nan))
    return m, k, e.sum(-1)


def target_mass(spec, target, weight, shape, k):
    """q, and Σ q_c over c ≠ k."""
    classes = shape[-1]
    w = np.ones(classes) if weight is None else weight
    eps = spec.label_smoothing
    if target is None:
        q = np.zeros(shape)
    elif target.ndim < len(shape):
        q = np.broadcast_to(w * eps / classes if eps else 0.0, shape).copy()  # a weight that nobody asks for may be ∞
        y = np.where(target == spec.ignore_index, 0, target)
        put(q, y, take(q, y) + (1 - eps) * w[y])
    else:
        q = w * ((1 - eps) * decode(target) + eps / classes)
    others = q.copy()
    put(others, k, 0)
    return q, others.sum(-1)


def gradient(spec, mass, lse, p, q, others, k, top):
    """∂loss/∂z; `top` is p_k − 1, for where most of the target is on k and p_k − q_k would cancel."""
    pull = mass + 2 * spec.z_loss * lse
    g = pull[..., None] * p - q
    at_k = others + mass * top + 2 * spec.z_loss * lse * take(p, k)
    put(g, k, np.where(2 * np.abs(take(q, k)) > np.abs(mass), at_k, take(g, k)))
    return g


def finished(losses, sample_weight, labels, ignore_index, dtype):
    """Losses times their rows' weights, where they have any, in another dtype."""
    return chores.finished(losses, sample_weight, labels, ignore_index, dtype)


def reduce(losses, divisor, *, out):
    """Write Σ losses ÷ divisor."""
    with np.errstate(all="ignore"):
        out[...] = losses.sum() / np.float64(divisor)


def log_softmax(logits, *, out):
    """Write z − lse."""
    with np.errstate(all="ignore"):
        z = decode(logits)
        m, _, rest = statistics(z)
        encode((z - m[..., None]) - np.log1p(rest)[..., None], out)


def softmax_vjp(p, v, *, out):
    """Write vᵀJ = p·(v − ⟨p, v⟩), where J is the Jacobian of softmax at p."""
    with np.errstate(all="ignore"):
        p, v = decode(p), decode(v)
        encode(p * (v - (p * v).sum(-1, keepdims=True)), out)


def binary(logits, target, weight, sample_weight, pos_weight, upstream, *, loss=None, grad=None, hess=None):
    """Sigmoid cross-entropy, element by element; sums of the losses are returned.

    The weights multiply loss and gradient, `upstream`, a `host.Scale`, the gradient only; each has the logits' shape or
    is one number.
    """
    with np.errstate(all="ignore"):
        x, t, upstream = decode(logits), decode(target), chores.scaled(upstream)
        w, pos, neg = np.multiply(weight, sample_weight, dtype=np.float64), t * pos_weight, 1 - t
        u = np.exp(-np.abs(x))
        small, large = u / (1 + u), 1 / (1 + u)  # the smaller and the larger of p and 1 − p
        p, not_p = np.where(x < 0, small, large), np.where(x < 0, large, small)

        def cost(share, x):
            """share·softplus(x), where nothing of an infinite cost is nothing"""
            return np.where((share == 0) & ~np.isnan(x), 0, share * (np.log1p(u) + np.maximum(x, 0)))

        each = w * (cost(pos, -x) + cost(neg, x))
        if loss is not None:
            loss[...] = each
        if grad is not None:
            encode(upstream * w * (neg * p - pos * not_p), grad)
        if hess is not None:
            encode(upstream * w * (pos + neg) * small * large, hess)
        return each.sum()[None]


def is_index(target, z):
    return target is not None and target.ndim < z.ndim


def keep(spec, target, g):
    """g with the rows to ignore set to 0."""
    return np.where((target == spec.ignore_index)[..., None], 0, g) if is_index(target, g) else g


def column(row_scale):
    """One number a row, or one for all, to multiply the rows with."""
    return np.asarray(chores.scaled(row_scale))[..., None]


def take(z, k):
    return np.take_along_axis(z, k[..., None], -1)[..., 0]


def put(z, k, value):
    np.put_along_axis(z, k[..., None], np.asarray(value)[..., None], -1)


def decode(x):
    """Stored values as float64; a bfloat16 is the upper half of a float32."""
    if x.dtype == BFLOAT16:
        x = (x.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float64)


def encode(values, out):
    """Store float64 values, rounded once, to nearest even."""
    if out.dtype != BFLOAT16:
        out[...] = values
        return
    _, exponent = np.frexp(values)
    step = np.ldexp(1.0, np.maximum(exponent - 8, -133))  # bfloat16 has 8 significant bits and ends at 2^−133
    rounded = (np.rint(values / step) * step).astype(np.float32)
    out.view(np.uint16)[...] = rounded.view(np.uint32) >> 16
