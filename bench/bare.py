"""Few classes with nothing but the formula: what the arithmetic takes, beside copies, which have none.

Logits lie classes first, so that nothing need be transposed (what brings them there is outside the clock); labels are
believed, every row counts, no logit is NaN or infinite, and exp, log, sums and the division have the logits' precision.
"""

from __future__ import annotations

import numba
import numpy as np
from numba import prange

from bench.batches import aligned
from fastsce import maths
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import load, pointer, store
from fastsce.backends.cpu.reductions import total
from fastsce.backends.cpu.vectors import same_integer, splat, widen

LANES = 16
FAR = -1000.0  # of rows that fill the last strip: label 0, whose logit is 0, and no loss


def loop(given):
    n, classes = given.logits.shape
    padded = -(-n // LANES) * LANES
    logits, grad = (aligned((classes, padded), given.logits.dtype) for _ in range(2))
    labels, lse = aligned((padded,), np.int64), aligned((padded,), np.float64)
    logits[1:, n:] = FAR
    logits[:, :n], labels[:n] = given.logits.T, given.target
    losses = np.zeros(numba.get_num_threads())

    def run():
        strips(logits, labels, lse, grad, 1.0 / n, losses, len(losses))
        return losses.sum() / n, grad.T[:n]

    return run


@kernel
def strips(logits, labels, lse, grad, scale, losses, parts):
    """(C, N) logits and gradient."""
    classes, n = logits.shape
    for part in prange(parts):
        p, y, out, g = pointer(logits), pointer(labels), pointer(lse), pointer(grad)
        losses[part] = share(p, y, out, g, classes, n, np.float32(scale), part, parts)


@device
def share(p, labels, lse, grad, classes, n, scale, part, parts):
    losses, count = splat(0.0, LANES), n // LANES
    for i in range(part * count // parts * LANES, (part + 1) * count // parts * LANES, LANES):
        losses = losses + widen(strip(p, labels, lse, grad, i, classes, n, scale))
    return total(losses)


@device
def strip(p, labels, lse, grad, i, classes, n, scale):
    m = load(p, i, LANES)
    for c in range(1, classes):
        m = maths.maximum(load(p, c * n + i, LANES), m)
    s = m * 0.0
    for c in range(classes):
        term = maths.exp(load(p, c * n + i, LANES) - m, m * 0.0)
        store(grad, c * n + i, term)
        s = s + term
    log_sum = m + log(s)
    store(lse, i, widen(log_sum))
    label, x_y, push = same_integer(load(labels, i, LANES), maths.bits(m)), m * 0.0, scale / s
    for c in range(classes):
        term = load(grad, c * n + i, LANES) * push
        store(grad, c * n + i, term - maths.where(label == c, scale, m * 0.0))
        x_y = maths.where(label == c, load(p, c * n + i, LANES), x_y)
    return log_sum - x_y


@device
def log(u):
    k, f, s, tail = maths.log_parts(u)
    half = f * f * 0.5
    return maths.fma(k, 0.6931472, f - (half - s * (half + tail)))
