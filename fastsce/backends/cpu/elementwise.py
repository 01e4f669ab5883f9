"""What has no maximum to find first: binary cross-entropy, and the product of a vector with softmax's Jacobian.

Both work on runs of a row. An operand is read where it lies, if its run fills whole vectors side by side; else from a
copy in scratch memory. Results are left in scratch, which stays in the L1 cache, and sent off run by run, so that
where they begin in memory decides nothing but how they are written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import logistic, maths
from fastsce.backends.cpu.ahead import prefetch
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import (
    View,
    at,
    fence,
    load,
    past_boundary,
    pointer,
    spare,
    store,
    stream,
    view,
    workspace,
)
from fastsce.backends.cpu.partial import load_part, store_part
from fastsce.backends.cpu.parts import hand_out
from fastsce.backends.cpu.reductions import total
from fastsce.backends.cpu.tuning import ELEMENTS_AHEAD, RUN
from fastsce.backends.cpu.tuning import LINE as LANES
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen

SLOT = 8 * RUN + 64  # bytes
SCRATCH = 12 * SLOT


class Operand(NamedTuple):
    data: Any
    step: int  # 0 for one number for all, of which LANES copies lie at data


# --- binary cross-entropy ---------------------------------------------------------------------------------------------


@kernel
def binary(logits, target, weight, sample_weight, pos_weight, upstream, loss, grad, hess, sums, streams, parts, memory):
    """All of shape (A, B, C); a factor may be one number for all, of shape (1, 1, 1); results not asked for are empty;
    `sums` gets the losses' sum of each run.
    """
    inputs = view(logits), view(target), factor(weight), factor(sample_weight), factor(pos_weight), factor(upstream)
    outputs = view(loss), view(grad), view(hess)
    return hand_out(binary_share, parts, memory, (inputs, outputs, pointer(sums), streams, parts))


@device
def factor(array):
    v = view(array)
    return View(v.data, v.shape, (0, 0, 0), v.item) if array.size == 1 else v


@device
def binary_share(part, scratch, inputs, outputs, sums, streams, parts):
    length = inputs[0].shape[1:]
    runs = -(-length[1] // RUN)
    count = inputs[0].shape[0] * length[0] * runs
    for r in range(part * count // parts, (part + 1) * count // parts):
        i, start = r // runs, r % runs * RUN
        n = min(RUN, length[1] - start)
        sums[r] = binary_run(i // length[0], i % length[0], start, n, inputs, outputs, scratch, streams)
    fence()


@device
def binary_run(a, b, start, n, inputs, outputs, scratch, streams):
    """Loss, gradient and Hessian of a run of elements; the sum of the losses."""
    logits, target, weight, sample_weight, pos_weight, upstream = inputs
    loss, grad, hess = outputs
    x, t = operand(logits, a, b, start, n, scratch, 0), operand(target, a, b, start, n, scratch, 1)
    w, s = operand(weight, a, b, start, n, scratch, 2), operand(sample_weight, a, b, start, n, scratch, 3)
    pos, up = operand(pos_weight, a, b, start, n, scratch, 4), operand(upstream, a, b, start, n, scratch, 5)
    share = product(w, s, n, slot(scratch, 10, logits))
    pull = product(share, up, n, slot(scratch, 11, logits))
    each, g, h = slot(scratch, 6, logits), slot(scratch, 7, logits), slot(scratch, 8, logits)
    sums = splat(narrow(0.0, load(each, 0, 0)), LANES)
    u = slot(scratch, 9, logits)
    for j in range(0, n, LANES):
        store(u, j, logistic.decay(some(x, j)))
        prefetch(x.data, j + ELEMENTS_AHEAD, LANES)
    for j in range(0, n, LANES):
        v, positive = some(x, j), some(t, j)
        right, wrong = logistic.sides(v, positive * some(pos, j), 1.0 - positive)
        large, small, log_u = logistic.sigmoid(load(u, j, LANES))
        losses = some(share, j) * logistic.loss(v, right, wrong, log_u)
        if wanted(loss):
            store(each, j, losses)
        if wanted(grad):
            store(g, j, some(pull, j) * logistic.gradient(v, right, wrong, large, small))
        if wanted(hess):
            store(h, j, some(pull, j) * logistic.curvature(right, wrong, large, small))
        if j + LANES > n:
            losses = maths.where(lane_numbers(LANES) < n - j, losses, 0.0)
        sums = sums + losses
        prefetch(t.data, j + ELEMENTS_AHEAD, LANES)
    if wanted(loss):
        send(each, n, loss, a, b, start, streams)
    if wanted(grad):
        send(g, n, grad, a, b, start, streams)
    if wanted(hess):
        send(h, n, hess, a, b, start, streams)
    return total(sums)


# --- softmax's Jacobian -----------------------------------------------------------------------------------------------


@kernel
def softmax_vjp(p, v, out, streams, parts, memory):
    """p·(v − ⟨p, v⟩), rows of shape (A, B, C)."""
    return hand_out(vjp_share, parts, memory, (view(p), view(v), view(out), streams, parts))


@device
def vjp_share(part, scratch, p, v, out, streams, parts):
    count = p.shape[0] * p.shape[1]
    for i in range(part * count // parts, (part + 1) * count // parts):
        vjp_row(i // p.shape[1], i % p.shape[1], p, v, out, scratch, streams)
    fence()


@device
def vjp_row(a, b, p, v, out, scratch, streams):
    classes, dot = p.shape[2], 0.0
    for start in range(0, classes, RUN):
        n = min(RUN, classes - start)
        x, y = operand(p, a, b, start, n, scratch, 0), operand(v, a, b, start, n, scratch, 1)
        sums = splat(0.0, LANES)
        for j in range(0, n, LANES):
            probabilities = some(x, j)
            if j + LANES > n:  # where one number stands for all, it stands beyond the end as well
                probabilities = maths.where(lane_numbers(LANES) < n - j, probabilities, 0.0)
            sums = maths.fma(widen(probabilities), widen(some(y, j)), sums)
        dot += total(sums)
    result = slot(scratch, 2, p)
    near = narrow(dot, load(result, 0, 0))
    rest = narrow(dot - widen(near), near)
    for start in range(0, classes, RUN):
        n = min(RUN, classes - start)
        x, y = operand(p, a, b, start, n, scratch, 0), operand(v, a, b, start, n, scratch, 1)
        for j in range(0, n, LANES):
            store(result, j, some(x, j) * ((some(y, j) - near) - rest))
        send(result, n, out, a, b, start, streams)


# --- runs of a row ----------------------------------------------------------------------------------------------------


@device
def slot(scratch, number, like):
    return workspace(scratch, number * SLOT, like.data)


@device
def wanted(result):
    return result.shape[2] > 0


@device
def some(o, j):
    return load(o.data, j * o.step, LANES)


@device
def operand(v, a, b, start, n, scratch, number):
    """A run of a row; zeros follow a copy up to a multiple of LANES."""
    source, p = at(v, a, b, start), spare(scratch, number * SLOT, v.data)
    step = v.strides[2]
    if step == v.item and n % LANES == 0:
        return Operand(source, 1)
    if step == 0:
        store(p, 0, splat(load(source, 0, 0), LANES))
        return Operand(p, 0)
    if step == v.item:
        for j in range(0, n, LANES):
            store(p, j, load_part(source, j, n - j, 0.0, LANES))
    else:
        for j in range(n):
            p[j] = at(v, a, b, start + j)[0]
        for j in range(n, -(-n // LANES) * LANES):
            p[j] = 0
    return Operand(p, 1)


@device
def product(one, other, n, p):
    """Of two operands, left in p; for numbers it is worked out once."""
    step = max(one.step, other.step)
    for j in range(0, n if step else LANES, LANES):
        store(p, j, some(one, j) * some(other, j))
    return Operand(p, step)


@device
def send(p, n, v, a, b, start, streams):
    """The way back."""
    target = at(v, a, b, start)
    if v.strides[2] != v.item:
        for j in range(n):
            store(at(v, a, b, start + j), 0, load(p, j, 0))
        return
    j = min(past_boundary(target, 0), n) if streams else 0
    store_part(target, 0, j, load(p, 0, LANES))
    while j + LANES <= n:
        if streams:
            stream(target, j, load(p, j, LANES))
        else:
            store(target, j, load(p, j, LANES))
        j += LANES
    store_part(target, j, n - j, load(p, j, LANES))
