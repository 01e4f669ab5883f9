"""What has no maximum to find first: binary cross-entropy, and the product of a vector with softmax's Jacobian.

Both work on runs of a row, copied into scratch memory in the working precision: so any layout and any broadcast will do.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from fastsce import maths
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import at, load, spare, store, store_part, workspace
from fastsce.backends.cpu.vectors import narrow, splat, total, widen

LANES = 32
RUN = 512  # elements: ten runs of float32 fit the L1 cache
SLOT = 8 * RUN + 64  # bytes


@kernel
def binary(logits, target, weight, sample_weight, pos_weight, upstream, loss, grad, hess, sums, parts):
    """All of shape (A, B, C), those not asked for empty; `sums` gets the losses' sum of each run."""
    runs = -(-logits.shape[2] // RUN)
    for part in prange(parts):
        scratch = np.empty(10 * SLOT, np.uint8)
        x, t = workspace(scratch, 0, logits), workspace(scratch, SLOT, logits)
        w, s = workspace(scratch, 2 * SLOT, logits), workspace(scratch, 3 * SLOT, logits)
        pos, up = workspace(scratch, 4 * SLOT, logits), workspace(scratch, 5 * SLOT, logits)
        each, g, h = (
            workspace(scratch, 6 * SLOT, logits),
            workspace(scratch, 7 * SLOT, logits),
            workspace(scratch, 8 * SLOT, logits),
        )
        for r in range(part * sums.shape[0] // parts, (part + 1) * sums.shape[0] // parts):
            i, start = r // runs, r % runs * RUN
            a, b, n = i // logits.shape[1], i % logits.shape[1], min(RUN, logits.shape[2] - start)
            read(logits, a, b, start, n, x, scratch)
            read(target, a, b, start, n, t, scratch)
            read(weight, a, b, start, n, w, scratch)
            read(sample_weight, a, b, start, n, s, scratch)
            read(pos_weight, a, b, start, n, pos, scratch)
            read(upstream, a, b, start, n, up, scratch)
            sums[r] = binary_run(x, t, w, s, pos, up, each, g, h, n)
            write(each, n, loss, a, b, start, scratch)
            write(g, n, grad, a, b, start, scratch)
            write(h, n, hess, a, b, start, scratch)
        scratch[0] = 0  # until here it must live


@device
def binary_run(x, t, w, s, pos, up, each, g, h, n):
    """Loss, gradient and Hessian of a run of elements; the sum of the losses."""
    sums = splat(0.0, LANES)
    for j in range(0, n, LANES):
        weight = load(w, j, LANES) * load(s, j, LANES)
        positive, negative = load(t, j, LANES) * load(pos, j, LANES), 1.0 - load(t, j, LANES)
        p, not_p, log_u = maths.sigmoid(load(x, j, LANES))
        losses = weight * maths.binary_loss(load(x, j, LANES), positive, negative, log_u)
        pull = weight * load(up, j, LANES)
        store(each, j, losses)
        store(g, j, pull * (negative * p - positive * not_p))
        store(h, j, pull * (positive + negative) * (p * not_p))
        sums = sums + widen(losses)
    return total(sums)


@device
def read(array, a, b, start, n, p, scratch):
    """A run of a row into scratch memory, zeros up to a multiple of LANES behind it."""
    source = at(array, a, b, 0)
    if array.strides[2] != array.itemsize:
        source = spare(scratch, 9 * SLOT, array)
        for j in range(n):
            source[j] = array[a, b, start + j]
        start = 0
    whole = n // LANES * LANES
    for j in range(0, whole, LANES):
        store(p, j, narrow(load(source, start + j, LANES), load(p, 0, 0)))
    for j in range(whole, -(-n // LANES) * LANES):
        store(p, j, load(source, start + j, 0) if j < n else 0.0)


@device
def write(p, n, array, a, b, start, scratch):
    """The way back."""
    if array.size == 0:
        return
    if array.strides[2] == array.itemsize:
        target = at(array, a, b, 0)
        for j in range(0, n, LANES):
            store_part(target, start + j, n - j, load(p, j, LANES))
        return
    target = spare(scratch, 9 * SLOT, array)
    for j in range(n):
        store(target, j, load(p, j, 0))
        array[a, b, start + j] = target[j]


@kernel
def softmax_vjp(p, v, out, parts):
    """p·(v − ⟨p, v⟩), rows of shape (A, B, C)."""
    count = p.shape[0] * p.shape[1]
    for part in prange(parts):
        scratch = np.empty(10 * SLOT, np.uint8)
        probability, value = workspace(scratch, 0, p), workspace(scratch, SLOT, p)
        for i in range(part * count // parts, (part + 1) * count // parts):
            a, b, dot = i // p.shape[1], i % p.shape[1], 0.0
            for start in range(0, p.shape[2], RUN):
                n = min(RUN, p.shape[2] - start)
                read(p, a, b, start, n, probability, scratch)
                read(v, a, b, start, n, value, scratch)
                dot += dot_run(probability, value, n)
            for start in range(0, p.shape[2], RUN):
                n = min(RUN, p.shape[2] - start)
                read(p, a, b, start, n, probability, scratch)
                read(v, a, b, start, n, value, scratch)
                vjp_run(probability, value, n, dot)
                write(value, n, out, a, b, start, scratch)
        scratch[0] = 0


@device
def dot_run(p, v, n):
    sums = splat(0.0, LANES)
    for j in range(0, n, LANES):
        sums = maths.fma(widen(load(p, j, LANES)), widen(load(v, j, LANES)), sums)
    return total(sums)


@device
def vjp_run(p, v, n, dot):
    for j in range(0, n, LANES):
        difference = narrow(widen(load(v, j, LANES)) - dot, load(p, 0, 0))
        store(v, j, load(p, j, LANES) * difference)
