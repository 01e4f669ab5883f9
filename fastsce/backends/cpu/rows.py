"""Rows whose classes lie side by side in memory: lanes run over the classes of one row.

A row is read from main memory once, in blocks that stay in the L1 cache: the block's maximum, then its terms
e = exp(z − m) and their sum, where m is the largest z so far. Then the gradient is written once. Terms are kept for it
where they fit the L2 cache beside the row, and computed again where they do not.

Rows laid out in any other way are copied, one at a time.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import (
    at,
    fence,
    load,
    load_part,
    past_boundary,
    prefetch,
    spare,
    store,
    store_part,
    stream,
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
    one_logit,
    one_slope,
    rounded_logit,
    softness,
    unit,
)
from fastsce.backends.cpu.threads import begin, room
from fastsce.backends.cpu.vectors import first, largest, narrow, total

LANES = 64  # four 512-bit registers of float32: enough independent work to hide the latency of each operation
BLOCK = 2048  # classes: with their terms 16 KB of a 32 KB L1 cache
AHEAD = 4096  # classes: memory is asked for this far ahead while terms are computed
KEEP = 65536  # classes up to which a row's terms are kept: 256 KB beside the row's 256 KB; with a Hessian always


@device
def slot_bytes(classes):
    return 8 * (classes + LANES) + 64


@device
def terms_bytes(classes, keep):
    return slot_bytes(classes if keep else BLOCK)


@device
def maxima_bytes(classes):
    return 8 * (classes // BLOCK + 1) + 64


def scratch_bytes(classes, keep, copies):
    """A row's terms, the maximum of each of its blocks, and copies of the rows that are not contiguous."""
    return terms_bytes(classes, keep) + maxima_bytes(classes) + (4 * slot_bytes(classes) if copies else 0)


@kernel
def rows(logits, target, weight, row_scale, loss, lse, grad, hess, law, softcap, plan, memory):
    """Each part takes an equal share of the rows.

    logits, grad, hess, soft target: (A, B, C); loss, lse, labels: (A·B,); row_scale likewise or (1,); softcap may be
    None; memory as `threads.run` makes it.
    """
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return begin(share, plan.parts, memory, (job, softness(target), softcap))


@device
def share(part, memory, job, soft, softcap):
    scratch = room(memory, part, job.plan.scratch)
    count = job.logits.shape[0] * job.logits.shape[1]
    for i in range(part * count // job.plan.parts, (part + 1) * count // job.plan.parts):
        one_row(i, job, soft, softcap, scratch)
    fence()


@device
def one_row(i, job, soft, softcap, scratch):
    law, plan, w, classes = job.law, job.plan, job.weight, job.logits.shape[2]
    a, b = i // job.logits.shape[1], i % job.logits.shape[1]
    y = label_of(job.labels, i, classes, plan)
    if y == IGNORED:
        ignore(i, a, b, job)
        return
    copies = terms_bytes(classes, plan.keep)
    t, maxima = workspace(scratch, 0, job.logits.data), workspace(scratch, copies, job.lse)
    copies += maxima_bytes(classes)
    x = input_row(job.logits, a, b, scratch, copies, plan.copies)
    q = input_row(job.soft, a, b, scratch, copies + slot_bytes(classes), plan.copies and y == SOFT)
    scale = job.row_scale.data[i * job.row_scale.step] * law.scale
    power = maths.carried(scale)

    m, k, top, rest, mass, distance = narrow(-np.inf, load(x, 0, 0)), -1, np.nan, 0.0, 0.0, 0.0
    if y == SOFT or not plan.saved:
        m, k, top, rest, mass, distance = statistics(
            x, q, w, t, maxima, classes, plan.keep, m, power, law, soft, softcap
        )
    z_top = np.nan if k < 0 else one_logit(load(x, k, 0), law, softcap)
    distance += mass * (z_top - np.float64(m))  # m is z_top rounded
    log_sum, log_s, p_top, p_top_minus_1, to_p = maths.row_sums(z_top, top, rest)  # a term times to_p is a probability
    if plan.saved:
        log_sum = job.lse[i]
        m = narrow(log_sum, m)
        to_p = 1.0 / maths.exp(log_sum - np.float64(m), power)
        p_top, p_top_minus_1 = maths.exp(z_top - log_sum, 0.0), maths.expm1(z_top - log_sum)

    place, p, p_minus_1 = k, p_top, p_top_minus_1  # where p and q may both be large, and must not cancel
    if y >= 0:
        w_y, z_y = np.float64(load(w, y, 0)) if plan.weighted else 1.0, one_logit(load(x, y, 0), law, softcap)
        q_y, mass, others, distance, p, p_minus_1 = maths.label_terms(
            law, w_y, z_top, z_y, y == k, p_top, p_top_minus_1, distance
        )
        if plan.saved:
            p, p_minus_1 = maths.exp(z_y - log_sum, 0.0), maths.expm1(z_y - log_sum)
        place = y
    elif y == NO_TARGET:
        q_y, mass, others, distance = 0.0, 1.0, 1.0, 0.0
    else:
        q_y = one_share(w, q, k, law, soft)
        others = mass - q_y

    if not plan.saved:
        job.lse[i] = log_sum
        job.loss[i] = log_sum if y == NO_TARGET else maths.row_loss(mass, log_s, distance, log_sum, law.z_loss)
    if plan.write == NOTHING:
        return
    g = output_row(job.grad, a, b, scratch, copies + 2 * slot_bytes(classes), plan)
    kept = plan.keep and not plan.saved
    if plan.write != LOG_SOFTMAX:
        factor = maths.row_factor(scale, mass, log_sum, law.z_loss, to_p)
        special = scale * maths.place_gradient(mass, q_y, others, log_sum, law.z_loss, p, p_minus_1)
        if place >= 0:
            special *= one_slope(load(x, place, 0), law, softcap)
        if plan.write == HESSIAN:
            h = output_row(job.hess, a, b, scratch, copies + 3 * slot_bytes(classes), plan)
            curve = scale * law.scale * mass
            write_hessian(x, t, maxima, h, classes, kept, m, power, to_p, curve, law, plan)
            if k >= 0:
                store(h, k, -curve * p_top * p_top_minus_1)
            finish_row(job.hess, a, b, h, plan)
        write_gradient(x, q, w, t, maxima, g, classes, kept, m, power, factor, scale, place, law, soft, softcap, plan)
        if place >= 0:
            store(g, place, special)
    else:
        write_log_softmax(x, g, classes, m, log_s, plan)
    finish_row(job.grad, a, b, g, plan)


# --- the pass that reads ----------------------------------------------------------------------------------------------


@device
def statistics(x, q, w, t, maxima, classes, keep, m, power, law, soft, softcap):
    """Of a row: m, the largest z; its first place k; its term; the sum of the other terms; and, where the target is
    soft or smoothed, Σ q and Σ q·(m − z). The terms are left in t, each block's relative to its entry in `maxima`.
    """
    k, top, rest, mass, distance = -1, 0.0, 0.0, 0.0, 0.0
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        base = start if keep else 0
        edge = block_largest(x, start, stop, law.inner, softcap)
        m_block = rounded_logit(edge, law, softcap)
        raised = m_block > m
        if raised:
            if k >= 0:
                down = np.float64(m) - np.float64(m_block)
                rest = (top + rest) * maths.exp(down, 0.0)
                distance -= mass * down
            m = m_block
        store(maxima, start // BLOCK, m)
        safe = narrow(0.0, m) if m == -np.inf else m  # −∞ − (−∞) would be NaN
        if soft is not None or law.off > 0.0:
            block_mass, block_distance = weighed_terms(x, q, w, t, base, start, stop, safe, power, law, soft, softcap)
            mass += block_mass
            distance += block_distance
        else:
            plain_terms(x, t, base, start, stop, safe, power, law, softcap)
        if raised:  # the largest term is kept out of the sum, so that a confident row loses nothing
            k = find(x, start, stop, edge, law.inner, softcap)
            top = np.float64(load(t, base + k - start, 0))
            store(t, base + k - start, 0.0)
        rest += block_sum(t, base, stop - start)
        if raised:
            store(t, base + k - start, top)
    return m, k, top, rest, mass, distance


@device
def block_largest(x, start, stop, inner, softcap):
    """The largest `direction`."""
    v = direction(fetch(x, start, stop - start, -np.inf), inner, softcap)
    for j in range(start + LANES, stop, LANES):
        v = maths.maximum(direction(fetch(x, j, stop - j, -np.inf), inner, softcap), v)
    return largest(v)


@device
def find(x, start, stop, edge, inner, softcap):
    """The first place where `direction` is `edge`."""
    for j in range(start, stop, LANES):
        lane = first(direction(fetch(x, j, stop - j, np.nan), inner, softcap) == edge)
        if lane < LANES:
            return j + lane
    return -1


@device
def plain_terms(x, t, base, start, stop, m, power, law, softcap):
    for j in range(start, stop, LANES):
        u = unit(fetch(x, j, stop - j, -np.inf), law.inner, softcap)
        store(t, base + j - start, maths.exp(maths.fma(u, law.gain, -m), power))
        prefetch(x, j + AHEAD, LANES)


@device
def weighed_terms(x, q, w, t, base, start, stop, m, power, law, soft, softcap):
    """As plain_terms, and Σ q, Σ q·(m − z); q = w where only smoothing asks for them."""
    mass, distance = 0.0, 0.0
    for j in range(start, stop, LANES):
        u = unit(fetch(x, j, stop - j, -np.inf), law.inner, softcap)
        d = maths.fma(u, law.gain, -m)
        store(t, base + j - start, maths.exp(d, power))
        prefetch(x, j + AHEAD, LANES)
        shares = target_share(w, q, j, stop - j, law, soft)
        mass += total(shares)
        distance -= total(maths.share(shares, d))
    return mass, distance


@device
def block_sum(t, base, count):
    """The sum of terms; beyond the last one there are zeros up to a multiple of LANES."""
    s = load(t, base, LANES)
    for j in range(base + LANES, base + count, LANES):
        s = s + load(t, j, LANES)
    return total(s)


@device
def target_share(w, q, j, n, law, soft):
    """q, or w where only smoothing asks for it."""
    if soft is None:
        return fetch(w, j, n, 0.0)
    return maths.soft_mass(fetch(w, j, n, 0.0), fetch(q, j, n, 0.0), law.keep, law.off)


@device
def one_share(w, q, k, law, soft):
    """q at one place, rounded as in the sum."""
    if soft is None or k < 0:
        return 0.0
    return np.float64(largest(maths.soft_mass(load(w, k, 1), load(q, k, 1), law.keep, law.off)))


@device
def fetch(p, j, n, fill):
    """LANES numbers from p[j] on, filled up after the first n."""
    return load(p, j, LANES) if n >= LANES else load_part(p, j, n, fill, LANES)


# --- the pass that writes ---------------------------------------------------------------------------------------------


@device
def write_gradient(x, q, w, t, maxima, g, classes, kept, m, power, factor, scale, place, law, soft, softcap, plan):
    """(mass + 2ζ·lse)·p − q, times scale and the slope of the softcap."""
    weighed = soft is not None or law.off > 0.0
    pull = scale if soft is not None else scale * law.off
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        push = factor * block_factor(maxima, start, m, kept)
        j, n = start, first_step(g, start, stop, plan)
        while j < stop:
            e = term(x, t, j, n, kept, m, power, law, softcap)
            v = e * push
            if weighed:
                v = maths.class_gradient(e, push, target_share(w, q, j, n, law, soft), pull)
            if softcap is not None:
                v = v * maths.slope(maths.angle(fetch(x, j, n, 0.0), law.inner))
            put(g, j, n, v, plan.stream and (place < j or place >= j + n))  # what follows there wants the cache line
            j, n = j + n, min(LANES, stop - j - n)


@device
def write_hessian(x, t, maxima, h, classes, kept, m, power, divide, curve, law, plan):
    """curve·p·(1 − p)."""
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        to_p = divide * block_factor(maxima, start, m, kept)
        j, n = start, first_step(h, start, stop, plan)
        while j < stop:
            p = term(x, t, j, n, kept, m, power, law, None) * to_p
            put(h, j, n, maths.curvature(p) * curve, plan.stream)
            j, n = j + n, min(LANES, stop - j - n)


@device
def write_log_softmax(x, g, classes, m, log_s, plan):
    """(x − m) − log S."""
    j, n = 0, first_step(g, 0, classes, plan)
    while j < classes:
        put(g, j, n, (fetch(x, j, n, 0.0) - m) - log_s, plan.stream)
        j, n = j + n, min(LANES, classes - j - n)


@device
def term(x, t, j, n, kept, m, power, law, softcap):
    """2^power·exp(z − m): m the largest z of the block where terms were kept, else of the row."""
    if kept:
        return load(t, j, LANES)
    return maths.exp(maths.fma(unit(fetch(x, j, n, 0.0), law.inner, softcap), law.gain, -m), power)


@device
def block_factor(maxima, start, m, kept):
    """From a block's terms to the row's."""
    return maths.exp(load(maxima, start // BLOCK, 0) - np.float64(m), 0.0) if kept else 1.0


@device
def first_step(g, start, stop, plan):
    """How far to go first, so that what follows is aligned."""
    n = past_boundary(g, start) if plan.stream else LANES
    return min(n if n > 0 else LANES, stop - start)


@device
def put(g, j, n, v, streaming):
    if n < LANES:
        store_part(g, j, n, v)
    elif streaming:
        stream(g, j, v)
    else:
        store(g, j, v)


# --- rows where they lie, or copies of them ---------------------------------------------------------------------------


@device
def label_of(labels, i, classes, plan):
    """A row's label, read once and checked again, for the caller's memory may have changed since the scan."""
    if labels is None:
        return SOFT
    if plan.untargeted:
        return NO_TARGET
    y = labels.data[i * labels.step]
    return IGNORED if y == plan.ignore_index or y < 0 or y >= classes else y


@device
def input_row(v, a, b, scratch, offset, copy):
    if not copy:
        return at(v, a, b, 0)
    p = spare(scratch, offset, v.data)
    for c in range(v.shape[2]):
        p[c] = at(v, a, b, c)[0]
    return p


@device
def output_row(v, a, b, scratch, offset, plan):
    return spare(scratch, offset, v.data) if plan.copies else at(v, a, b, 0)


@device
def finish_row(v, a, b, p, plan):
    if plan.copies:
        for c in range(v.shape[2]):
            at(v, a, b, c)[0] = p[c]


@device
def ignore(i, a, b, job):
    """Write zeros."""
    if not job.plan.saved:
        job.loss[i], job.lse[i] = 0.0, 0.0
    if job.plan.write != NOTHING:
        write_zeros(job.grad, a, b)
    if job.plan.write == HESSIAN:
        write_zeros(job.hess, a, b)


@device
def write_zeros(v, a, b):
    for c in range(v.shape[2]):
        at(v, a, b, c)[0] = 0
