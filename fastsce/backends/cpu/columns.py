"""Rows side by side: lanes run over samples, one class after the other.

For rows of few classes, and for rows whose classes do not lie side by side in memory. A tile of samples is brought into
the cache as (classes, samples) numbers of the working precision, is worked on there in strips of LANES samples, and
what comes out of it goes back the same way.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.ahead import ask, ask_numbers, lines_of
from fastsce.backends.cpu.coefficients import (
    BEND,
    CURVE,
    DISTANCE,
    FACTS_BYTES,
    LOG_S,
    MASS,
    PLACE,
    POWER,
    PULL,
    PUSH,
    Q_K,
    REST,
    SPECIAL,
    TIES,
    TO_P,
    TOP_PLACE,
    X_K,
    X_TOP,
    M,
    begin,
    facts_at,
    settle,
    shift,
)
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import at, fence, gather, load, moved, past_boundary, spare, store, workspace
from fastsce.backends.cpu.parts import hand_out
from fastsce.backends.cpu.plan import (
    HESSIAN,
    IGNORED,
    LOG_SOFTMAX,
    NOTHING,
    Line,
    job_of,
    softness,
)
from fastsce.backends.cpu.reductions import first
from fastsce.backends.cpu.tiles import Coming, Part, bring, bring_rest, bring_some, desk_bytes, stride, take, tile_bytes
from fastsce.backends.cpu.tuning import COLUMN_BYTES, GROUP, LANES, ROW_BYTES, STEP, TILE_LANES
from fastsce.backends.cpu.vectors import lane_numbers, narrow, same_integer, splat, widen


def tile_lanes(classes, samples, itemsize, side_by_side):
    """How many samples a tile holds."""
    wished = (ROW_BYTES if side_by_side else COLUMN_BYTES) // (classes * itemsize)
    return max(LANES, min(wished, TILE_LANES, samples + LANES - 1) // LANES * LANES)


def scratch_bytes(classes, lanes):
    return FACTS_BYTES + 4 * tile_bytes(classes, lanes) + desk_bytes(classes)


@kernel
def columns(logits, target, weight, row_scale, loss, lse, grad, hess, law, softcap, plan, memory):
    """Each part takes an equal share of the tiles; arguments as for `rows.rows`."""
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return hand_out(share, plan.parts, memory, (job, softness(target), softcap))


@device
def share(part, scratch, job, soft, softcap):
    lanes = job.plan.lanes
    missing = before_boundary(job.grad)
    tiles = -(-(job.logits.shape[1] + missing) // lanes)
    count = job.logits.shape[0] * tiles
    start, stop = part * count // job.plan.parts, (part + 1) * count // job.plan.parts
    side_by_side = job.logits.strides[1] == job.logits.item
    x = workspace(scratch, FACTS_BYTES, job.logits.data)
    other = workspace(scratch, FACTS_BYTES + tile_bytes(job.logits.shape[2], lanes), job.logits.data)
    for i in range(start, stop):
        here = samples_of(i, tiles, lanes, missing, x, job.logits)
        after = samples_of(i + 1, tiles, lanes, missing, other, job.logits)
        if i == start or not side_by_side:
            bring(job.logits, here, stride(lanes))
        if i + 1 == stop or not side_by_side:
            after = Part(other, 0, 0, 0)
        tile(here, after, job, soft, softcap, scratch)
        x, other = other, x
    fence()


@device
def samples_of(i, tiles, lanes, missing, x, v):
    """Tile i."""
    start = i % tiles * lanes - missing
    b = max(start, 0)
    return Part(x, i // tiles, b, min(start + lanes, v.shape[1]) - b)


@device
def before_boundary(v):
    """How many samples a first tile is short of, so that those after it begin with a cache line."""
    if v.shape[2] == 0 or v.strides[1] != v.item:
        return 0
    return -past_boundary(v.data, 0) % LANES


@device
def tile(here, after, job, soft, softcap, scratch):
    """Work on a tile. Where its samples lie side by side, the tile after it is brought meanwhile, four steps after each
    four terms, so that memory need not wait for arithmetic: what is still to come goes from function to function.
    """
    plan, classes, width = job.plan, job.logits.shape[2], stride(job.plan.lanes)
    size = tile_bytes(classes, plan.lanes)
    x, e = here.x, here.x  # terms take the logits' place, unless both are asked for
    if softcap is not None or plan.write == HESSIAN or plan.write == LOG_SOFTMAX:
        e = workspace(scratch, FACTS_BYTES + 2 * size, job.logits.data)
    q = workspace(scratch, FACTS_BYTES + 3 * size, x)
    if soft is not None:
        bring(job.soft, Part(q, here.a, here.b, here.n), width)
    desk = spare(scratch, FACTS_BYTES + 4 * size, job.logits.data)
    facts = facts_at(scratch, job)
    coming = Coming(after, 0, 0)
    for lane in range(0, here.n, GROUP):
        some = min(GROUP, here.n - lane)
        coming = group(here.a, here.b + lane, some, lane, x, e, q, desk, coming, facts, job, soft, softcap)
    if after.n > 0:
        bring_rest(job.logits, coming, width)


@device
def group(a, b, n, lane, x, e, q, desk, coming, facts, job, soft, softcap):
    """n samples from b on, in a tile's lanes from `lane` on. The gradient is left in x, the Hessian in e."""
    i = a * job.logits.shape[1] + b
    for j in range(0, n, LANES):
        at_hand = at(job.logits, a, b + j, 0)
        later = lines_of(job.logits, a, b + j + job.plan.lanes, True, at_hand)
        soon = lines_of(job.grad, a, b + j, job.plan.write != NOTHING and not job.plan.stream, at_hand)
        coming = read_strip(
            i + j, min(LANES, n - j), lane + j, j, x, e, q, coming, later, soon, facts, job, soft, softcap
        )
        ask_numbers(job.labels, i + j + GROUP)
        ask_numbers(Line(job.lse, 1), i + j + GROUP)
        ask_numbers(Line(job.loss, 1), i + j + GROUP)
    settle(i, n, facts, job, soft, softcap)
    if job.plan.write != NOTHING:
        for j in range(0, n, LANES):
            write_strip(lane + j, j, x, e, q, facts, job, soft, softcap)
        take(moved(x, lane), stride(job.plan.lanes), n, job.grad, a, b, job.plan.stream, desk)
    if job.plan.write == HESSIAN:
        take(moved(e, lane), stride(job.plan.lanes), n, job.hess, a, b, job.plan.stream, desk)
    return coming


@device
def read_strip(i, n, lane, j, x, e, q, coming, later, soon, facts, job, soft, softcap):
    """x[c·width + lane …]: class c of these rows; facts[… + j …]: theirs."""
    law, plan, w, classes, width = job.law, job.plan, job.weight, job.logits.shape[2], stride(job.plan.lanes)
    y = begin(i, n, j, facts, job)
    clear_ignored(y, x, lane, width, classes)
    x_top = largest_logit(x, lane, width, classes)
    k = maths.where(y < 0, 0, y)
    if soft is not None or plan.write == HESSIAN:
        top_place = first_largest(x, lane, width, classes, x_top)
        store(facts.places, TOP_PLACE + j, top_place)
        if soft is not None:
            k = top_place
            store(facts.places, PLACE + j, k)
            store(facts.numbers, Q_K + j, gather(q, k * width + (lane_numbers(LANES) + lane)))
    store(facts.numbers, X_TOP + j, x_top)
    store(facts.numbers, X_K + j, gather(x, k * width + (lane_numbers(LANES) + lane)))
    m = shift(i, n, x_top, job, softcap)
    m = maths.where(m == -np.inf, 0.0, m)  # −∞ − (−∞) would be NaN
    m = maths.where(y == IGNORED, 0.0, m)  # an lse that is given may be anything there
    if soft is not None or law.off > 0.0:
        weigh(x, q, w, lane, j, width, classes, m, facts, law, soft, softcap)
    return terms(x, e, lane, j, width, classes, x_top, m, coming, later, soon, facts, job, softcap)


@device
def write_strip(lane, j, x, e, q, facts, job, soft, softcap):
    plan, classes, width = job.plan, job.logits.shape[2], stride(job.plan.lanes)
    if plan.write == LOG_SOFTMAX:
        write_log_softmax(x, lane, j, width, classes, facts)
        return
    write_gradient(x, e, q, job.weight, lane, j, width, classes, facts, job.law, soft, softcap)
    if plan.write == HESSIAN:
        write_hessian(e, lane, j, width, classes, facts)


# --- the passes over a strip ------------------------------------------------------------------------------------------


@device
def largest_logit(x, lane, width, classes):
    m = load(x, lane, LANES)
    m = maths.where(m == m, m, -np.inf)
    for c in range(1, classes):
        m = maths.maximum(load(x, c * width + lane, LANES), m)
    return m


@device
def first_largest(x, lane, width, classes, x_top):
    """The first class with the largest logit; 0 where all are NaN."""
    k = lane_numbers(LANES) * 0
    for c in range(classes - 1, -1, -1):
        k = maths.where(load(x, c * width + lane, LANES) == x_top, c, k)
    return k


@device
def terms(x, e, lane, j, width, classes, x_top, m, coming, later, soon, facts, job, softcap):
    """Leave 2^power·(the term of z) in e; note the sum of all but the largest, and how many are the largest. Returns
    what is still to come of the next tile.
    """
    law = job.law
    power = load(facts.numbers, POWER + j, LANES) - maths.octaves(m, law.near)
    m = maths.offset(m, law.near)
    ties = m * 0.0
    rest = widen(ties)
    for start in range(0, classes, STEP):
        stop = min(start + STEP, classes)
        whole = start + (stop - start) // 4 * 4
        part = widen(ties) * 0.0  # float64 logits have no wider type to be summed in: steps first, then their sums
        for c in range(start, whole, 4):  # four terms are added up in the working precision
            v0, ties = term(x, e, c * width + lane, x_top, m, power, ties, law, softcap)
            v1, ties = term(x, e, (c + 1) * width + lane, x_top, m, power, ties, law, softcap)
            v2, ties = term(x, e, (c + 2) * width + lane, x_top, m, power, ties, law, softcap)
            v3, ties = term(x, e, (c + 3) * width + lane, x_top, m, power, ties, law, softcap)
            part = part + widen((v0 + v1) + (v2 + v3))
            if coming.part.n >= LANES:
                coming = bring_some(job.logits, coming, width)
            else:
                ask(later, c)
                ask(soon, c)
        for c in range(whole, stop):
            v0, ties = term(x, e, c * width + lane, x_top, m, power, ties, law, softcap)
            part = part + widen(v0)
        rest = rest + part
    if coming.part.n >= LANES:
        coming = bring_some(job.logits, coming, width)
    else:
        ask(later, classes // 4 * 4)
        ask(soon, classes // 4 * 4)
    store(facts.sums, REST + j, rest)
    store(facts.sums, TIES + j, widen(ties))
    return coming


@device
def term(x, e, at, x_top, m, power, ties, law, softcap):
    v = load(x, at, LANES)
    largest = v == x_top
    t = maths.exp(maths.fma(maths.unit(v, law.inner, softcap), law.gain, -m), power)
    store(e, at, maths.sloped(t, v, law.inner, softcap))
    return maths.where(largest, 0.0, t), maths.where(largest, ties + 1.0, ties)


@device
def weigh(x, q, w, lane, j, width, classes, m, facts, law, soft, softcap):
    """Note Σ q and Σ q·(m − z); q = w where only smoothing asks for them."""
    mass = splat(0.0, LANES)
    distance = mass
    for start in range(0, classes, STEP):
        part = wide_zero(m, soft)
        for c in range(start, min(start + STEP, classes)):
            d = maths.fma(maths.unit(load(x, c * width + lane, LANES), law.inner, softcap), law.gain, -m)
            shares = narrow(target_share(w, q, c, lane, width, law, soft), part)
            part = part - maths.share(shares, narrow(d, part))
            if soft is not None:  # Σ q may be near one q, and must be exact
                mass = mass + shares
        distance = distance + widen(part)
    store(facts.sums, MASS + j, mass)
    store(facts.sums, DISTANCE + j, distance)


@device
def wide_zero(m, soft):
    """0 of the precision in which shares are summed: float64 where they are the target."""
    if soft is None:
        return m * 0.0
    return widen(m) * 0.0


@device
def target_share(w, q, c, lane, width, law, soft):
    """q, or w where only smoothing asks for it."""
    if soft is None:
        return splat(load(w, c, 0), LANES)
    return maths.soft_mass(splat(load(w, c, 0), LANES), load(q, c * width + lane, LANES), law.keep, law.off)


@device
def write_gradient(x, e, q, w, lane, j, width, classes, facts, law, soft, softcap):
    """(mass + 2ζ·lse)·p − q, times scale and the slope of the softcap."""
    push, pull = load(facts.numbers, PUSH + j, LANES), load(facts.numbers, PULL + j, LANES)
    special, place = load(facts.numbers, SPECIAL + j, LANES), load(facts.places, PLACE + j, LANES)
    place = same_integer(place, maths.bits(push))
    weighed = soft is not None or law.off > 0.0
    for c in range(classes):
        v = load(e, c * width + lane, LANES) * push
        if weighed:
            shares = target_share(w, q, c, lane, width, law, soft)
            shares = maths.sloped(shares, load(x, c * width + lane, LANES), law.inner, softcap)
            v = maths.class_gradient(load(e, c * width + lane, LANES), push, shares, pull)
            v = maths.where(place == IGNORED, 0.0, v)  # a weight may be ∞
        store(x, c * width + lane, maths.where(place == c, special, v))


@device
def write_hessian(e, lane, j, width, classes, facts):
    """curve·p·(1 − p)."""
    to_p, curve = load(facts.numbers, TO_P + j, LANES), load(facts.numbers, CURVE + j, LANES)
    bend, place = load(facts.numbers, BEND + j, LANES), load(facts.places, TOP_PLACE + j, LANES)
    place = same_integer(place, maths.bits(to_p))
    for c in range(classes):
        v = maths.curvature(load(e, c * width + lane, LANES) * to_p) * curve
        store(e, c * width + lane, maths.where(place == c, bend, v))


@device
def write_log_softmax(x, lane, j, width, classes, facts):
    """(x − m) − log S."""
    m, log_s = load(facts.numbers, M + j, LANES), load(facts.numbers, LOG_S + j, LANES)
    for c in range(classes):
        store(x, c * width + lane, (load(x, c * width + lane, LANES) - m) - log_s)


@device
def clear_ignored(y, x, lane, width, classes):
    """Zeros for logits that nobody is to see, whatever they are."""
    if first(y == IGNORED) < LANES:
        for c in range(classes):
            store(x, c * width + lane, maths.where(y == IGNORED, 0.0, load(x, c * width + lane, LANES)))
