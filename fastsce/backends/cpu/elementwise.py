"""What has no maximum to find first: binary cross-entropy, and the product of a vector with softmax's Jacobian.

Both work on runs of a row, copied into scratch memory in the working precision, so that any layout will do.
"""

from __future__ import annotations

from fastsce import maths
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import View, at, load, pointer, spare, store, store_part, view, workspace
from fastsce.backends.cpu.threads import hand_out, room
from fastsce.backends.cpu.vectors import narrow, splat, total, widen

LANES = 32
RUN = 512  # elements: ten runs of float32 fit the L1 cache
SLOT = 8 * RUN + 64  # bytes
SCRATCH = 10 * SLOT


@kernel
def binary(logits, target, weight, sample_weight, pos_weight, upstream, loss, grad, hess, sums, parts, memory):
    """All of shape (A, B, C); a factor may be one number for all, of shape (1, 1, 1); results not asked for are empty;
    `sums` gets the losses' sum of each run.
    """
    factors = factor(weight), factor(sample_weight), factor(pos_weight), factor(upstream)
    inputs = view(logits), view(target), *factors
    outputs = view(loss), view(grad), view(hess)
    return hand_out(binary_share, parts, memory, (inputs, outputs, pointer(sums), parts))


@device
def factor(array):
    v = view(array)
    return View(v.data, v.shape, (0, 0, 0), v.item) if array.size == 1 else v


@device
def binary_share(part, memory, inputs, outputs, sums, parts):
    scratch = room(memory, part, SCRATCH)
    length = inputs[0].shape[1:]
    runs = -(-length[1] // RUN)
    count = inputs[0].shape[0] * length[0] * runs
    for r in range(part * count // parts, (part + 1) * count // parts):
        i, start = r // runs, r % runs * RUN
        n = min(RUN, length[1] - start)
        sums[r] = binary_run(i // length[0], i % length[0], start, n, inputs, outputs, scratch)


@device
def binary_run(a, b, start, n, inputs, outputs, scratch):
    """Loss, gradient and Hessian of a run of elements; the sum of the losses."""
    logits, target, weight, sample_weight, pos_weight, upstream = inputs
    loss, grad, hess = outputs
    x = read(logits, a, b, start, n, scratch, 0, logits)
    t = read(target, a, b, start, n, scratch, 1, logits)
    w = read(weight, a, b, start, n, scratch, 2, logits)
    s = read(sample_weight, a, b, start, n, scratch, 3, logits)
    pos = read(pos_weight, a, b, start, n, scratch, 4, logits)
    up = read(upstream, a, b, start, n, scratch, 5, logits)
    each, g, h = slot(scratch, 6, logits), slot(scratch, 7, logits), slot(scratch, 8, logits)
    sums = splat(0.0, LANES)
    for j in range(0, n, LANES):
        factor = load(w, j, LANES) * load(s, j, LANES)
        positive, negative = load(t, j, LANES) * load(pos, j, LANES), 1.0 - load(t, j, LANES)
        p, not_p, log_u = maths.sigmoid(load(x, j, LANES))
        losses = factor * maths.binary_loss(load(x, j, LANES), positive, negative, log_u)
        pull = factor * load(up, j, LANES)
        store(each, j, losses)
        store(g, j, pull * maths.binary_gradient(p, not_p, positive, negative))
        store(h, j, pull * maths.binary_curvature(p, not_p, positive, negative))
        sums = sums + widen(losses)
    write(each, n, loss, a, b, start, scratch)
    write(g, n, grad, a, b, start, scratch)
    write(h, n, hess, a, b, start, scratch)
    return total(sums)


@device
def slot(scratch, number, like):
    return workspace(scratch, number * SLOT, like.data)


@device
def read(v, a, b, start, n, scratch, number, like):
    """A run of a row, in the working precision of `like`; zeros up to a multiple of LANES behind it."""
    p, source = slot(scratch, number, like), at(v, a, b, start)
    if v.strides[2] != v.item:
        source = spare(scratch, 9 * SLOT, v.data)
        for j in range(n):
            source[j] = at(v, a, b, start + j)[0]
    whole = n // LANES * LANES
    for j in range(0, whole, LANES):
        store(p, j, narrow(load(source, j, LANES), load(p, 0, 0)))
    for j in range(whole, -(-n // LANES) * LANES):
        store(p, j, load(source, j, 0) if j < n else 0.0)
    return p


@device
def write(p, n, v, a, b, start, scratch):
    """The way back, if anybody wants it."""
    if v.shape[2] == 0:
        return
    if v.strides[2] == v.item:
        for j in range(0, n, LANES):
            store_part(at(v, a, b, start), j, n - j, load(p, j, LANES))
        return
    target = spare(scratch, 9 * SLOT, v.data)
    for j in range(n):
        store(target, j, load(p, j, 0))
        at(v, a, b, start + j)[0] = target[j]


@kernel
def softmax_vjp(p, v, out, parts, memory):
    """p·(v − ⟨p, v⟩), rows of shape (A, B, C)."""
    return hand_out(vjp_share, parts, memory, (view(p), view(v), view(out), parts))


@device
def vjp_share(part, memory, p, v, out, parts):
    count = p.shape[0] * p.shape[1]
    for i in range(part * count // parts, (part + 1) * count // parts):
        vjp_row(i // p.shape[1], i % p.shape[1], p, v, out, room(memory, part, SCRATCH))


@device
def vjp_row(a, b, p, v, out, scratch):
    classes, dot = p.shape[2], 0.0
    for start in range(0, classes, RUN):
        n = min(RUN, classes - start)
        x, y = read(p, a, b, start, n, scratch, 0, p), read(v, a, b, start, n, scratch, 1, p)
        sums = splat(0.0, LANES)
        for j in range(0, n, LANES):
            sums = maths.fma(widen(load(x, j, LANES)), widen(load(y, j, LANES)), sums)
        dot += total(sums)
    for start in range(0, classes, RUN):
        n = min(RUN, classes - start)
        x, y = read(p, a, b, start, n, scratch, 0, p), read(v, a, b, start, n, scratch, 1, p)
        for j in range(0, n, LANES):
            difference = narrow(widen(load(y, j, LANES)) - dot, load(x, 0, 0))
            store(y, j, load(x, j, LANES) * difference)
        write(y, n, out, a, b, start, scratch)
