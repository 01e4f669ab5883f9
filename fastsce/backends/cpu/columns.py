"""Rows side by side: lanes run over samples, one class after the other.

For short rows, and for rows whose classes do not lie side by side in memory. A tile of samples is brought into the
cache as (classes, samples) numbers of the working precision, by 16 × 16 transpositions where the classes of a sample
lie side by side, and is worked on there; what comes out of it goes back the same way.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import (
    at,
    fence,
    gather,
    load,
    load_part,
    moved,
    moved_bytes,
    past_boundary,
    prefetch,
    scatter,
    store,
    store_part,
    stream,
    transpose,
    workspace,
)
from fastsce.backends.cpu.plan import (
    HESSIAN,
    IGNORED,
    LOG_SOFTMAX,
    NO_TARGET,
    NOTHING,
    SOFT,
    direction,
    job_of,
    softness,
    unit,
)
from fastsce.backends.cpu.threads import begin, room
from fastsce.backends.cpu.vectors import first, lane_numbers, narrow, same_integer, splat, widen

LANES = 16
SQUARE = 16 * 16 * 8 + 64  # bytes of a square of numbers on its way
ROW_BYTES = 16 << 10  # of a tile, wished for where rows are read: it stays in the L1 cache
COLUMN_BYTES = 256 << 10  # where columns are read: the longer its lines, the better for memory; L2 holds it
TILE_LANES = 256  # at most: 1 KB in a row of float32, enough for the memory to read it at full speed
GROUP = 8  # terms added up in the working precision before they go into a float64 sum


def tile_lanes(classes, samples, itemsize, side_by_side):
    """How many samples a tile holds."""
    wished = (ROW_BYTES if side_by_side else COLUMN_BYTES) // (padded(classes) * itemsize)
    return max(LANES, min(wished, TILE_LANES, samples + LANES - 1) // LANES * LANES)


def scratch_bytes(classes, lanes):
    return SQUARE + 3 * (tile_bytes(classes, lanes))


@device
def padded(classes):
    return (classes + 15) // 16 * 16


@device
def tile_bytes(classes, lanes):
    return 8 * padded(classes) * stride(lanes) + 64


@device
def stride(lanes):
    """From a class to the next in a tile: not a power of two, for then all of them would meet in a few cache sets."""
    return lanes + LANES


@kernel
def columns(logits, target, weight, row_scale, loss, lse, grad, hess, law, softcap, plan, memory):
    """Each part takes an equal share of the tiles; arguments as for `rows.rows`."""
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return begin(share, plan.parts, memory, (job, softness(target), softcap))


@device
def share(part, memory, job, soft, softcap):
    scratch = room(memory, part, job.plan.scratch)
    tiles = -(-job.logits.shape[1] // job.plan.lanes)
    count = job.logits.shape[0] * tiles
    for i in range(part * count // job.plan.parts, (part + 1) * count // job.plan.parts):
        tile(i // tiles, i % tiles * job.plan.lanes, job, soft, softcap, scratch)
    fence()


@device
def tile(a, b, job, soft, softcap, scratch):
    """Samples b … b + plan.lanes of block a."""
    classes, width = job.logits.shape[2], stride(job.plan.lanes)
    n = min(job.plan.lanes, job.logits.shape[1] - b)
    size = tile_bytes(classes, job.plan.lanes)
    square = workspace(scratch, 0, job.logits.data)
    x = workspace(scratch, SQUARE, job.logits.data)
    e = workspace(scratch, SQUARE + size, job.logits.data)
    bring(job.logits, a, b, n, x, width, square)
    q = workspace(scratch, SQUARE + 2 * size, x)
    if soft is not None:
        bring(job.soft, a, b, n, q, width, square)
    i = a * job.logits.shape[1] + b
    for lane in range(0, n, LANES):
        ask(job.logits, a, b + job.plan.lanes + lane)
        if job.plan.write != NOTHING and not job.plan.stream:
            ask(job.grad, a, b + lane)
        strip(i + lane, min(LANES, n - lane), lane, x, e, q, job, soft, softcap)
    if job.plan.write != NOTHING:
        take(x, width, n, job.grad, a, b, square, job.plan.stream)
    if job.plan.write == HESSIAN:
        take(e, width, n, job.hess, a, b, square, job.plan.stream)


@device
def strip(i, n, lane, x, e, q, job, soft, softcap):
    """n rows from row i on, in a tile's lanes from `lane` on. The gradient is left in x, the Hessian in e."""
    law, plan, w, classes, width = job.law, job.plan, job.weight, job.logits.shape[2], stride(job.plan.lanes)
    here = lane_numbers(LANES) + lane  # x[c·width + here]: class c of these rows
    zero = narrow(splat(0.0, LANES), load(x, 0, 0))
    y = labels_at(job.labels, i, n, classes, plan)
    ignored = y == IGNORED
    clear_ignored(y, x, lane, width, classes)
    scale = maths.where(ignored, 0.0, values(job.row_scale, i, n, 0.0) * law.scale)
    power = narrow(maths.carried(scale), zero)

    m, k = largest_logit(x, lane, width, classes, zero, law, softcap)
    poor = m == -np.inf  # nothing but −∞ and NaN
    z_top = widen(m)
    if softcap is not None or law.inner != 1.0:  # m is z_top rounded
        z_top = widen(unit(gather(x, same_integer(k, y) * width + here), law.inner, softcap)) * law.gain
    log_sum = load_part(job.lse, i, n, 0.0, LANES) if plan.saved else z_top
    if plan.saved:
        m = narrow(log_sum, zero)
    safe = maths.where(m == -np.inf, 0.0, m)
    top, rest = terms(x, e, lane, width, classes, k, safe, power, zero, law, softcap)
    mass, distance = z_top * 0.0, z_top * 0.0
    weighed = soft is not None or law.off > 0.0
    if soft is not None or (weighed and not plan.saved):
        mass, distance = weigh(x, q, w, lane, width, classes, safe, law, soft, softcap)
        distance = distance + mass * (z_top - widen(m))
    top = maths.where(poor, np.nan, top)
    saved_sum = log_sum
    log_sum, log_s, p_top, p_top_minus_1, to_p = maths.row_sums(z_top, top, rest)  # a term times to_p is a probability
    if plan.saved:
        log_sum = saved_sum
        to_p = 1.0 / maths.exp(log_sum - widen(m), widen(power))
        p_top, p_top_minus_1 = maths.exp(z_top - log_sum, 0.0), maths.expm1(z_top - log_sum)

    largest = same_integer(k, y)
    place, p, p_minus_1 = largest, p_top, p_top_minus_1  # where p and q may both be large, and must not cancel
    if soft is not None:
        q_y = widen(maths.soft_mass(gather(w, place), gather(q, place * width + here), law.keep, law.off))
        others = mass - q_y
    else:
        place = maths.where(y < 0, 0, y)
        z_y = widen(unit(gather(x, place * width + here), law.inner, softcap)) * law.gain
        w_y = widen(gather(w, place)) if plan.weighted else splat(1.0, LANES)
        q_y, mass, others, distance, p, p_minus_1 = maths.label_terms(
            law, w_y, z_top, z_y, place == largest, p_top, p_top_minus_1, distance
        )
        if plan.saved:
            p, p_minus_1 = maths.exp(z_y - log_sum, 0.0), maths.expm1(z_y - log_sum)
        if plan.untargeted:
            q_y, distance = q_y * 0.0, q_y * 0.0
            mass, others = q_y + 1.0, q_y + 1.0

    if not plan.saved:
        losses = maths.row_loss(mass, log_s, distance, log_sum, law.z_loss)
        if plan.untargeted:
            losses = log_sum
        store_part(job.lse, i, n, maths.where(ignored, 0.0, log_sum))
        store_part(job.loss, i, n, maths.where(ignored, 0.0, losses))
    if plan.write == LOG_SOFTMAX:
        write_log_softmax(x, lane, width, classes, m, narrow(log_s, zero))
    elif plan.write != NOTHING:
        push = narrow(maths.row_factor(scale, mass, log_sum, law.z_loss, to_p), zero)
        pull = narrow(scale if soft is not None else scale * law.off, zero)
        special = narrow(scale * maths.place_gradient(mass, q_y, others, log_sum, law.z_loss, p, p_minus_1), zero)
        index = place * width + here
        if softcap is not None:
            special = special * maths.slope(maths.angle(gather(x, index), law.inner))
        write_gradient(x, e, q, w, lane, width, classes, push, pull, weighed, law, soft, softcap)
        scatter(x, index, special)
        if plan.write == HESSIAN:
            curve = scale * mass * law.scale
            divide = narrow(to_p, zero)
            write_hessian(e, lane, width, classes, divide, narrow(curve, zero))
            bend = narrow(curve * p_top * p_top_minus_1 * -1.0, zero)
            scatter(e, largest * width + here, bend)


# --- the passes over a strip ------------------------------------------------------------------------------------------


@device
def largest_logit(x, lane, width, classes, zero, law, softcap):
    """The largest z in the working precision, and the first class that has it."""
    m, k = zero - np.inf, maths.bits(zero)
    for c in range(classes):
        a = direction(load(x, c * width + lane, LANES), law.inner, softcap)
        higher = a > m
        m, k = maths.where(higher, a, m), maths.where(higher, c, k)
    if softcap is not None:
        m = maths.capped(m) * law.gain
    return m, k


@device
def terms(x, e, lane, width, classes, k, m, power, zero, law, softcap):
    """Leave 2^power·exp(z − m) in e; the term of class k, and the sum of all others."""
    top, rest = zero, widen(zero)
    for start in range(0, classes, GROUP):
        part = zero
        for c in range(start, min(start + GROUP, classes)):
            u = unit(load(x, c * width + lane, LANES), law.inner, softcap)
            v = maths.exp(maths.fma(u, law.gain, -m), power)
            store(e, c * width + lane, v)
            largest = k == c
            top, part = maths.where(largest, v, top), part + maths.where(largest, 0.0, v)
        rest = rest + widen(part)
    return widen(top), rest


@device
def weigh(x, q, w, lane, width, classes, m, law, soft, softcap):
    """Σ q and Σ q·(m − z); q = w where only smoothing asks for them."""
    mass = splat(0.0, LANES)
    distance = mass
    for c in range(classes):
        u = unit(load(x, c * width + lane, LANES), law.inner, softcap)
        shares = target_share(w, q, c, lane, width, law, soft)
        mass = mass + widen(shares)
        distance = distance - widen(maths.share(shares, maths.fma(u, law.gain, -m)))
    return mass, distance


@device
def target_share(w, q, c, lane, width, law, soft):
    """q, or w where only smoothing asks for it."""
    if soft is None:
        return splat(load(w, c, 0), LANES)
    return maths.soft_mass(splat(load(w, c, 0), LANES), load(q, c * width + lane, LANES), law.keep, law.off)


@device
def write_gradient(x, e, q, w, lane, width, classes, push, pull, weighed, law, soft, softcap):
    """(mass + 2ζ·lse)·p − q, times scale and the slope of the softcap."""
    for c in range(classes):
        v = load(e, c * width + lane, LANES) * push
        if weighed:
            shares = target_share(w, q, c, lane, width, law, soft)
            v = maths.class_gradient(load(e, c * width + lane, LANES), push, shares, pull)
        if softcap is not None:
            v = v * maths.slope(maths.angle(load(x, c * width + lane, LANES), law.inner))
        store(x, c * width + lane, v)


@device
def write_hessian(e, lane, width, classes, divide, curve):
    """curve·p·(1 − p)."""
    for c in range(classes):
        p = load(e, c * width + lane, LANES) * divide
        store(e, c * width + lane, maths.curvature(p) * curve)


@device
def write_log_softmax(x, lane, width, classes, m, log_s):
    """(x − m) − log S."""
    for c in range(classes):
        store(x, c * width + lane, (load(x, c * width + lane, LANES) - m) - log_s)


# --- rows' values -----------------------------------------------------------------------------------------------------


@device
def labels_at(labels, i, n, classes, plan):
    """The labels of n rows, read once and checked again, for the caller's memory may have changed since the scan."""
    if labels is None:
        return lane_numbers(LANES) * 0 + SOFT
    if plan.untargeted:
        return lane_numbers(LANES) * 0 + NO_TARGET
    y = values(labels, i, n, IGNORED)
    y = maths.where(y == plan.ignore_index, IGNORED, y)
    return maths.where(y < 0, IGNORED, maths.where(y < classes, y, IGNORED))


@device
def values(line, i, n, fill):
    """n numbers from row i on."""
    if line.step == 0:
        return splat(load(line.data, 0, 0), LANES)
    return load_part(line.data, i, n, fill, LANES)


@device
def clear_ignored(y, x, lane, width, classes):
    """Zeros for logits that nobody is to see, whatever they are."""
    if first(y == IGNORED) < LANES:
        for c in range(classes):
            store(x, c * width + lane, maths.where(y == IGNORED, 0.0, load(x, c * width + lane, LANES)))


# --- between an array and a tile --------------------------------------------------------------------------------------


@device
def bring(v, a, b, n, x, width, square):
    """Samples b … b + n of block a into a tile, zeros in the lanes beyond them."""
    if v.strides[2] == v.item:
        bring_rows(v, a, b, n, x, width, square)
        return
    for c in range(v.shape[2]):
        for j in range(0, n, LANES):
            if v.strides[1] == v.item:
                store(x, c * width + j, load_part(at(v, a, b, c), j, n - j, 0.0, LANES))
            else:
                for s in range(j, j + LANES):
                    store(x, c * width + s, load(at(v, a, b + s, c), 0, 0) if s < n else 0.0)


@device
def bring_rows(v, a, b, n, x, width, square):
    """By squares of 16 samples and 16 classes."""
    classes, step = v.shape[2], v.strides[1]
    for j in range(0, n, LANES):
        start, whole = at(v, a, b + min(j, n - 1), 0), n - j >= LANES
        for c in range(0, classes, LANES):
            p = moved(start, c)
            for s in range(LANES):
                if whole or j + s < n:
                    store(square, LANES * s, load_part(p, 0, classes - c, 0.0, LANES))
                    p = moved_bytes(p, step)
                else:
                    store(square, LANES * s, narrow(splat(0.0, LANES), load(x, 0, 0)))
            transpose(square, LANES, moved(x, c * width + j), width)


@device
def ask(v, a, b):
    """Ask the memory for the 16 samples from b on, while others are worked on."""
    if b + LANES > v.shape[1]:
        return
    start = at(v, a, b, 0)
    if v.strides[2] != v.item:
        for c in range(v.shape[2]):
            prefetch(moved_bytes(start, c * v.strides[2]), 0, LANES)
    elif v.strides[1] == v.item * v.shape[2]:
        for offset in range(0, LANES * v.strides[1], 64):
            prefetch(moved_bytes(start, offset), 0, 1)
    else:
        for s in range(LANES):
            for c in range(0, v.shape[2], LANES):
                prefetch(moved(moved_bytes(start, s * v.strides[1]), c), 0, LANES)


@device
def take(x, width, n, v, a, b, square, streaming):
    """The way back."""
    if v.strides[2] == v.item:
        take_rows(x, width, n, v, a, b, square)
        return
    for c in range(v.shape[2]):
        p = at(v, a, b, c)
        whole_lines = streaming and v.item * LANES >= 64 and past_boundary(p, 0) == 0
        for j in range(0, n, LANES):
            if v.strides[1] != v.item:
                for s in range(j, min(j + LANES, n)):
                    store(at(v, a, b + s, c), 0, load(x, c * width + s, 0))
            elif whole_lines and n - j >= LANES:
                stream(p, j, load(x, c * width + j, LANES))
            else:
                store_part(p, j, n - j, load(x, c * width + j, LANES))


@device
def take_rows(x, width, n, v, a, b, square):
    classes, step = v.shape[2], v.strides[1]
    for j in range(0, n, LANES):
        start = at(v, a, b + j, 0)
        for c in range(0, classes, LANES):
            p = moved(start, c)
            transpose(moved(x, c * width + j), width, square, LANES)
            for s in range(min(LANES, n - j)):
                store_part(p, 0, classes - c, load(square, LANES * s, LANES))
                p = moved_bytes(p, step)
