"""The loops over the classes of a row that lie side by side: WIDE of them at a step, LANES where fewer are left. Rows
of up to TOGETHER classes have loops of their own, in together.py, made of the same steps.

Terms are read and written at most in blocks of BLOCK classes, which stay in the L1 cache from loop to loop.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.ahead import ask, prefetch
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import fetch, load, past_boundary, put, store
from fastsce.backends.cpu.plan import NOTHING
from fastsce.backends.cpu.reductions import first, fold_largest, fold_sum, largest
from fastsce.backends.cpu.tuning import AHEAD, BLOCK, LANES, WIDE
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen

FAR = 2.0**-20  # of the largest term: what multiplies smaller blocks is not kept beside them

# --- to read ----------------------------------------------------------------------------------------------------------


@device
def block_largest(x, start, stop):
    whole = start + (stop - start) // WIDE * WIDE
    v = fetch(x, whole, stop - whole, -np.inf, splat(narrow(0.0, load(x, 0, 0)), LANES))
    v = maths.where(v == v, v, -np.inf)
    for j in range(whole + LANES, stop, LANES):
        v = maths.maximum(fetch(x, j, stop - j, -np.inf, v), v)
    if whole > start:
        u = load(x, start, WIDE)
        u = maths.where(u == u, u, -np.inf)
        for j in range(start + WIDE, whole, WIDE):
            u = maths.maximum(load(x, j, WIDE), u)
        v = maths.maximum(fold_largest(u), v)
    return largest(v)


@device
def find(x, classes, value):
    """The first place of a number; −1 if it has none."""
    like = splat(value, LANES)
    for j in range(0, classes, LANES):
        lane = first(fetch(x, j, classes - j, np.nan, like) == value)
        if lane < LANES:
            return j + lane
    return -1


@device
def terms(x, t, soon, start, stop, m, edge, power, rest, ties, law, softcap):
    """Leave 2^power·(the term of z) in t. To `rest` add all but those where x = edge; to `ties`, how many those are."""
    whole = start + (stop - start) // WIDE * WIDE
    lift, offset = power - maths.octaves(m, law.near), maths.offset(m, law.near)
    part = splat(m, LANES) * 0.0
    count = part
    for j in range(whole, stop, LANES):
        v = fetch(x, j, stop - j, -np.inf, part)
        part, count = step_terms(v, t, j, offset, edge, lift, part, count, law, softcap)
    rest, ties = rest + widen(part), ties + widen(count)
    if whole > start:
        many = splat(m, WIDE) * 0.0
        number = many
        for j in range(start, whole, WIDE):
            many, number = step_terms(load(x, j, WIDE), t, j, offset, edge, lift, many, number, law, softcap)
            prefetch(x, j + AHEAD, WIDE)
            ask(soon, j)
        rest, ties = rest + fold_sum(widen(many)), ties + widen(fold_sum(number))
    return rest, ties


@device
def step_terms(v, t, j, offset, edge, lift, part, count, law, softcap):
    e = maths.exp(maths.fma(maths.unit(v, law.inner, softcap), law.gain, -offset), lift)
    store(t, j, maths.sloped(e, v, law.inner, softcap))
    return maths.where(v == edge, part, part + e), maths.where(v == edge, count + 1.0, count)


@device
def weigh(x, q, w, start, stop, m, mass, distance, law, soft, softcap):
    """Add Σ q and Σ q·(m − z), in float64 where q is the target; q = w where only smoothing asks for it."""
    whole = start + (stop - start) // WIDE * WIDE
    few, many = splat(m, LANES) * 0.0, splat(m, WIDE) * 0.0
    if soft is not None:
        few, many = widen(few), widen(many)
    near, far = few, many
    for j in range(whole, stop, LANES):
        few, near = step_weigh(x, q, w, j, stop - j, m, few, near, law, soft, softcap)
    mass, distance = mass + widen(few), distance + widen(near)
    if whole > start:
        for j in range(start, whole, WIDE):
            many, far = step_weigh(x, q, w, j, WIDE, m, many, far, law, soft, softcap)
            if soft is not None:
                prefetch(q, j + AHEAD, WIDE)
        mass, distance = mass + fold_sum(widen(many)), distance + fold_sum(widen(far))
    return mass, distance


@device
def step_weigh(x, q, w, j, n, m, mass, distance, law, soft, softcap):
    v = fetch(x, j, n, -np.inf, narrow(distance, m))
    d = narrow(maths.fma(maths.unit(v, law.inner, softcap), law.gain, -m), distance)
    shares = narrow(target_share(w, q, j, n, v, law, soft), distance)
    return mass + shares, distance - maths.share(shares, d)


@device
def target_share(w, q, j, n, like, law, soft):
    """q, or w where only smoothing asks for it."""
    if soft is None:
        return fetch(w, j, n, 0.0, like)
    return maths.soft_mass(fetch(w, j, n, 0.0, like), fetch(q, j, n, 0.0, like), law.keep, law.off)


# --- to write ---------------------------------------------------------------------------------------------------------


@device
def write_gradient(x, q, w, t, maxima, g, classes, m, power, push, pull, place, law, soft, softcap, plan):
    """(mass + 2ζ·lse)·p − q, times scale and the slope of the softcap."""
    wide, some = splat(m, WIDE), splat(m, LANES)
    j, head = 0, aligned_after(g, classes, plan)
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        factor = narrow(push * block_factor(maxima, classes, start, m, plan.keep, law.near), m)
        while j < stop:
            if j >= head and j + WIDE <= classes:
                factors = splat(factor, WIDE)
                if j + WIDE > stop:
                    following = narrow(push * block_factor(maxima, classes, stop, m, plan.keep, law.near), m)
                    factors = maths.where(lane_numbers(WIDE) < stop - j, factors, splat(following, WIDE))
                v = step_gradient(x, q, w, t, j, WIDE, plan.keep, m, power, factors, pull, wide, law, soft, softcap)
                elsewhere = place < j or place >= j + WIDE  # a number that is stored there soon wants its line cached
                put(g, j, WIDE, v, plan.stream and elsewhere)
                j += WIDE
            else:
                n = min(LANES, (head if j < head else stop) - j)
                u = step_gradient(x, q, w, t, j, n, plan.keep, m, power, factor, pull, some, law, soft, softcap)
                put(g, j, n, u, False)
                j += n


@device
def step_gradient(x, q, w, t, j, n, kept, m, power, push, pull, like, law, soft, softcap):
    e = term(x, t, j, n, kept, m, power, like, law, softcap)
    return gradient(e, x, q, w, j, n, push, pull, law, soft, softcap)


@device
def gradient(e, x, q, w, j, n, push, pull, law, soft, softcap):
    if soft is None and law.off == 0.0:
        return e * push
    shares = maths.sloped(target_share(w, q, j, n, e, law, soft), fetch(x, j, n, 0.0, e), law.inner, softcap)
    return maths.class_gradient(e, push, shares, pull)


@device
def write_hessian(t, maxima, h, classes, m, to_p, curve, near):
    """curve·p·(1 − p)."""
    like = splat(m, LANES)
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        to_p_block = narrow(to_p * block_factor(maxima, classes, start, m, True, near), m)
        for j in range(start, stop, LANES):
            p = fetch(t, j, stop - j, 0.0, like) * to_p_block
            put(h, j, stop - j, maths.curvature(p) * curve, False)


@device
def write_log_softmax(x, g, classes, m, log_s):
    """(x − m) − log S."""
    like = splat(m, LANES)
    for j in range(0, classes, LANES):
        put(g, j, classes - j, (fetch(x, j, classes - j, 0.0, like) - m) - log_s, False)


@device
def term(x, t, j, n, kept, m, power, like, law, softcap):
    """2^power·(the term of z)·(slope of the softcap): m of the block where terms were kept, else of the row."""
    if kept:
        return fetch(t, j, n, 0.0, like)
    v = fetch(x, j, n, 0.0, like)
    z = maths.fma(maths.unit(v, law.inner, softcap), law.gain, -maths.offset(m, law.near))
    return maths.sloped(maths.exp(z, power - maths.octaves(m, law.near)), v, law.inner, softcap)


@device
def rebase(t, maxima, classes, m, near):
    """Make terms of blocks far below the row's largest its own, lest what multiplies them be no normal number."""
    for start in range(0, classes, BLOCK):
        factor = maths.rebased(load(maxima, start // BLOCK, 0), m, near)
        if factor < FAR:
            for j in range(start, min(start + BLOCK, classes), LANES):
                store(t, j, load(t, j, LANES) * narrow(factor, m))
            store(maxima, start // BLOCK, m)


@device
def block_factor(maxima, classes, start, m, kept, near):
    """From a block's terms to the row's."""
    if classes <= BLOCK or not kept:
        return 1.0
    return maths.rebased(load(maxima, start // BLOCK, 0), m, near)


@device
def aligned_after(g, classes, plan):
    """How many classes come before the first that can be streamed."""
    return min(past_boundary(g, 0), classes) if plan.stream else 0


@device
def ask_ordinary(g, classes, place, plan):
    """Where a streamed gradient is written through the caches after all: about its ends, and about the label."""
    if plan.stream and plan.write != NOTHING:
        prefetch(g, 0, LANES)
        prefetch(g, classes - 1, LANES)
        head = aligned_after(g, classes, plan)
        if place >= head:
            prefetch(g, head + (place - head) // WIDE * WIDE, WIDE)
