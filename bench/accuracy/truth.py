"""The loss and its gradient in mpmath, and how far rounding z − max once may take a result from them.

The law is that of `fastsce.spec.Spec`, written once more from its formulas, on the logits exactly as they are stored.

What the goal allows beyond its ulps: every d_c = z_c − max is rounded once in the working precision (float32, also for
16-bit logits; float64 for float64), which is an error of at most b_c, half the spacing of that precision's numbers at
d_c. It is a relative error of exp(d_c), between ½ and 1 times |d_c|·2⁻²⁴ in float32. Carried on to first order, with
p = softmax(z), P = mass + 2ζ·lse, and signs left out so that errors never cancel:

    loss        Σ_c |∂loss/∂z_c|·b_c, where ∂loss/∂z_c = P·p_c − q_c. On a row that is confident of its label y, which
                is the maximum, b_y = 0 and this is Σ_{c≠y} p_c·b_c: the loss is about Σ_{c≠y} p_c, so its relative
                error is the mean of the b_c. On an unsure row P·p_y − q_y is near −1, and it is z_y − max rounded.
    gradient    ∂²loss/∂z_c∂z_j = P·p_c·([c = j] − p_j) + 2ζ·p_c·p_j, so with B = Σ_j p_j·b_j
                P·p_c·((1 − p_c)·b_c + B − p_c·b_c) + 2ζ·p_c·B.
                At a confident label b_y = 0 leaves p_y·B: again the mean of the others' errors, relative to 1 − p_y.
    from lse    where lse is given, it has an error of B and of a float64's rounding, and z_c − lse is rounded. Both
                together, b_c, enter p_c alone: P·p_c·b_c + 2ζ·p_c·(error of lse).

All times what multiplies the row's loss or gradient. These absolute errors are divided by the ulp of the true value.
Binary cross-entropy subtracts no maximum, and is allowed nothing.

A gradient is a difference of two terms, mass·p − q or (mass − q) − mass·(1 − p), and where they are nearly equal its
ulps are small beside theirs. So the larger term of the better form is noted as well (2ζ·lse·p counts as a term).
"""

from __future__ import annotations

from typing import NamedTuple

import mpmath
import numpy as np

from bench.accuracy.cases import Batch
from bench.accuracy.ruler import Exact, exact, spacing

# Bits to compute with: 1 − p may cancel down to the smallest number of the dtype, and 128 bits are to be left of it.
PRECISION = {"float32": 149 + 128, "float64": 1074 + 128}

number = np.frompyfunc(lambda x: mpmath.mpf(float(x)), 1, 1)
exp = np.frompyfunc(mpmath.exp, 1, 1)
log1p = np.frompyfunc(mpmath.log1p, 1, 1)
tanh = np.frompyfunc(mpmath.tanh, 1, 1)
sech = np.frompyfunc(mpmath.sech, 1, 1)


class Truth(NamedTuple):
    loss: Exact
    grad: Exact
    loss_allowance: np.ndarray
    grad_allowance: np.ndarray
    saved_allowance: np.ndarray  # of a gradient that is made from a saved lse
    terms: np.ndarray  # the larger number that a gradient is the difference of


class Row(NamedTuple):
    """Of one row, not yet multiplied by anything: exact numbers; errors that are allowed, and the larger term."""

    loss: object
    grad: np.ndarray
    loss_allowance: float
    columns: np.ndarray  # grad_allowance, saved_allowance, terms


def truth(batch: Batch) -> Truth:
    with mpmath.workprec(PRECISION[batch.working]):
        return binary(batch) if batch.binary else softmax(batch)


# --- softmax ----------------------------------------------------------------------------------------------------------


def softmax(batch: Batch) -> Truth:
    rows = [row(batch, i) for i in range(len(batch.logits))]
    factor, divisor = factors(batch)
    upstream = number(np.broadcast_to(batch.options.get("grad_output", 1.0), len(rows)))
    loss = np.array([f * r.loss for f, r in zip(factor, rows)], object)
    allowed = np.array([abs(float(f)) * r.loss_allowance for f, r in zip(factor, rows)])
    if batch.options["reduction"] == "mean":
        loss, allowed = np.sum(loss) / divisor, allowed.sum() / abs(float(divisor))
    scales = factor * upstream / divisor
    grad = [exact(r.grad * s) for s, r in zip(scales, rows)]  # an mpf times an array would first write it out in words
    near = np.stack([abs(float(s)) * r.columns for s, r in zip(scales, rows)])
    return Truth(
        exact(loss),
        Exact(np.stack([g.near for g in grad]), np.stack([g.rest for g in grad])),
        allowed,
        *np.moveaxis(near, 1, 0),
    )


def factors(batch: Batch):
    """What multiplies each row's loss, and what the reduction divides by."""
    n, options = len(batch.logits), batch.options
    factor = number(np.broadcast_to(options.get("sample_weight", 1.0), n))
    if not batch.labelled:
        return factor, n if options["reduction"] == "mean" else 1
    valid = batch.target != options.get("ignore_index", -100)
    factor = np.where(valid, factor, 0)
    if options["reduction"] == "none":
        return factor, 1
    w = number(options.get("weight", np.ones(batch.logits.shape[1])))
    return factor, np.sum(factor * w[np.where(valid, batch.target, 0)])


def row(batch: Batch, i: int) -> Row:
    options, classes = batch.options, batch.logits.shape[1]
    x, places = np.unique(batch.logits[i].astype(np.float64), return_inverse=True)  # equal logits are worked out once
    label = batch.target[i] if batch.labelled else None
    if label == options.get("ignore_index", -100):
        return Row(mpmath.mpf(0), number(np.zeros(classes)), 0.0, np.zeros((3, classes)))
    if not np.isfinite(x[-1]):  # NaN is sorted to the end; only −∞ does no harm
        return Row(mpmath.nan, np.full(classes, mpmath.nan), 0.0, np.zeros((3, classes)))
    z, slope = scaled(number(x), options)
    d = z - z[-1]
    e = exp(d)
    others = np.sum((e * number(np.bincount(places)))[:-1]) + (np.count_nonzero(places == len(x) - 1) - 1)
    log_s, p = mpmath.log1p(others), e / (1 + others)
    lse, z_loss = z[-1] + log_s, number(options.get("z_loss", 0.0))
    q, mass = shares(batch, i, label)
    some = np.flatnonzero(q)
    loss = mass * log_s + mpmath.fsum(q[some] * -d[places[some]]) + z_loss * lse**2
    dz = (p * (mass + 2 * z_loss * lse))[places]
    dz[some] -= q[some]
    slope = slope[places]
    near = Near(p.astype(float)[places], q.astype(float), float(mass), 2 * float(z_loss), float(lse))
    blur, saved = (half_ulp(differences, batch.working)[places] for differences in (d, z - lse))
    lse_error = half_ulp(lse, "float64") + near.p @ blur
    columns = (near.allowed(blur), near.allowed_saved(saved + lse_error, lse_error), near.terms())
    return Row(loss, dz * slope, np.abs(dz.astype(float)) @ blur, np.stack(columns) * np.abs(slope.astype(float)))


class Near(NamedTuple):
    """A row in float64, for what need not be exact."""

    p: np.ndarray
    q: np.ndarray
    mass: float
    ripple: float  # 2ζ
    lse: float

    def allowed(self, blur):
        own, mean = self.p * blur, self.p @ blur
        return (
            abs(self.mass + self.ripple * self.lse) * self.p * ((1 - self.p) * blur + mean - own)
            + self.ripple * self.p * mean
        )

    def allowed_saved(self, blur, lse_error):
        return self.p * (abs(self.mass + self.ripple * self.lse) * blur + self.ripple * lse_error)

    def terms(self):
        plain = np.maximum(self.mass * self.p, self.q)
        mirrored = np.maximum(self.mass - self.q, self.mass * (1 - self.p))
        return np.maximum(np.minimum(plain, mirrored), self.ripple * np.abs(self.lse) * self.p)


def scaled(x, options):
    """z and dz/dx; −∞ stays −∞."""
    s, cap = number(options.get("logit_scale", 1.0)), options.get("softcap")
    if cap is None:
        return x * s, np.full_like(x, s)
    finite = x != -mpmath.inf
    a = np.where(finite, x, 0) * s / number(cap)
    return np.where(finite, tanh(a) * number(cap), -mpmath.inf), np.where(finite, sech(a) ** 2 * s, 0)


def half_ulp(d, dtype) -> np.ndarray:
    """The largest error of rounding d, none of −∞."""
    near = np.asarray(d).astype(np.float64)
    return np.where(np.isfinite(near), spacing(near, dtype) / 2, 0)


def shares(batch: Batch, i: int, label):
    """q of a row, and its sum."""
    classes, smoothing = batch.logits.shape[1], number(batch.options.get("label_smoothing", 0.0))
    w = batch.options.get("weight")
    w = np.ones(classes) if w is None else w
    if batch.labelled:
        q = number(w) * (smoothing / classes) if smoothing else np.zeros(classes, object)
        q[label] += (1 - smoothing) * number(w[label])
    else:
        q = number(w) * (number(batch.target[i]) * (1 - smoothing) + smoothing / classes)
    return q, np.sum(q)


# --- binary -----------------------------------------------------------------------------------------------------------


def binary(batch: Batch) -> Truth:
    """share·softplus(x), element by element."""
    x, t = number(batch.logits), number(batch.target)
    positive = t * number(batch.options.get("pos_weight", 1.0))
    negative, u = 1 - t, exp(-abs(x))
    p = np.where(x < 0, u, 1) / (1 + u)
    not_p = np.where(x < 0, 1, u) / (1 + u)
    loss = (positive + negative) * log1p(u) + np.where(x < 0, positive, negative) * abs(x)
    for_it, against = negative * p, positive * not_p
    nothing = np.zeros(x.shape)
    return Truth(
        exact(loss), exact(for_it - against), nothing, nothing, nothing, np.maximum(for_it, against).astype(float)
    )
