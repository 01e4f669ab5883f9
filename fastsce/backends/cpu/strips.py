"""The passes over a strip: LANES samples side by side, class by class. x[c·width + lane …]: class c of them."""

from __future__ import annotations

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.coefficients import (
    BEND,
    CURVE,
    DISTANCE,
    LOG_S,
    MASS,
    PLACE,
    PULL,
    PUSH,
    SPECIAL,
    TO_P,
    TOP_PLACE,
    M,
    takes,
)
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.makings import begin_capped, begin_term, capped_made, term_made, term_of
from fastsce.backends.cpu.memory import load, moved, store
from fastsce.backends.cpu.plan import IGNORED
from fastsce.backends.cpu.reductions import first
from fastsce.backends.cpu.tiles import move_some
from fastsce.backends.cpu.tuning import LANES, STEP
from fastsce.backends.cpu.vectors import lane_numbers, narrow, same_integer, splat, widen


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
def terms(x, e, makings, lane, width, classes, x_top, about, moving, job, softcap):
    """Leave the terms in e. Returns the sum of all but the largest, how many are the largest, and what still moves."""
    law, ties = job.law, narrow(splat(0.0, LANES), x_top)
    rest, fours, x, e = splat(0.0, LANES), classes // 4 * 4, moved(x, lane), moved(e, lane)
    for start in range(0, fours, STEP):
        part = splat(0.0, LANES)  # float64 logits have no wider type to be summed in: steps first, then their sums
        stop = min(start + STEP, fours)
        begin_terms(x, e, makings, width, stop - start, about, law, softcap)
        for c in range(start, stop, 4):  # four terms are added up in the working precision
            v0, ties = term(x, e, 0, x_top, about, ties, makings, c - start, law, softcap)
            v1, ties = term(x, e, width, x_top, about, ties, makings, c - start + 1, law, softcap)
            v2, ties = term(x, e, 2 * width, x_top, about, ties, makings, c - start + 2, law, softcap)
            v3, ties = term(x, e, 3 * width, x_top, about, ties, makings, c - start + 3, law, softcap)
            part = part + widen((v0 + v1) + (v2 + v3))
            moving = move_some(moving, c, width, job)
            x, e = moved(x, 4 * width), moved(e, 4 * width)
        rest = rest + part
    begin_terms(x, e, makings, width, classes - fours, about, law, softcap)
    for c in range(fours, classes):
        v0, ties = term(x, e, 0, x_top, about, ties, makings, c - fours, law, softcap)
        rest = rest + widen(v0)
        x, e = moved(x, width), moved(e, width)
    return rest, widen(ties), move_some(moving, fours, width, job)


@device
def term(x, e, i, x_top, about, ties, makings, c, law, softcap):
    v = load(x, i, LANES)
    largest = v == x_top
    if softcap is None:
        t = term_of(v, about, law.inner, None)
        store(e, i, t)
    else:
        t = term_made(makings, c * LANES)
        store(e, i, load(e, i, LANES) * t)
    return maths.where(largest, 0.0, t), maths.where(largest, ties + 1.0, ties)


@device
def begin_terms(x, e, makings, width, classes, about, law, softcap):
    """With a softcap: what terms are made with, in two loops, and slopes, in e."""
    if softcap is not None:
        for c in range(classes):
            begin_capped(load(x, c * width, LANES), c * LANES, makings, law.inner)
        for c in range(classes):
            u, slope = capped_made(load(x, c * width, LANES), c * LANES, makings, law.inner)
            store(e, c * width, slope)
            begin_term(u, c * LANES, about, makings)


@device
def weigh(x, q, lane, j, m, about, facts, job, soft, softcap):
    """Note Σ q and Σ q·(z of m − z); where only smoothing asks for them q = w, whose sum is known."""
    if soft is not None:
        weigh_targets(x, q, lane, j, m, about, facts, job, softcap)
        return
    if job.plan.weighted:
        far = distances(x, job.weight, lane, m, about, job, softcap)
    else:
        far = distances(x, None, lane, m, about, job, softcap)
    store(facts.sums, DISTANCE + j, frame.distance_to(m, about, far, splat(job.law.total, LANES), job.law))


@device
def weigh_targets(x, q, lane, j, m, about, facts, job, softcap):
    """In float64: Σ q may be near one q."""
    law, width, classes = job.law, job.plan.width, job.logits.shape[2]
    mass, level = splat(0.0, LANES), about.rate * m
    distance = mass
    for start in range(0, classes, STEP):
        part, some = splat(0.0, LANES), splat(0.0, LANES)  # of a weight that is ∞, mass · 0 is none
        for c in range(start, min(start + STEP, classes)):
            d = frame.exponent(load(x, c * width + lane, LANES), about.rate, level, law.inner, softcap)
            shares = widen(target_share(job.weight, q, c, lane, width, law, job.soft))
            part = part - maths.share(shares, widen(d))
            some = some + shares
        mass, distance = mass + some, distance + part
    store(facts.sums, MASS + j, mass)
    store(facts.sums, DISTANCE + j, frame.distance_to(m, about, distance, mass, law))


@device
def distances(x, w, lane, m, about, job, softcap):
    """Σ w·(rate·m − rate·u); w is None where it is 1."""
    law, width, classes = job.law, job.plan.width, job.logits.shape[2]
    level, distance, zero = about.rate * m, splat(0.0, LANES), splat(narrow(0.0, load(x, 0, 0)), LANES)
    for start in range(0, classes, STEP):
        stop, part, other = min(start + STEP, classes), zero, zero  # a sum waits for the one before: two take turns
        pairs = start + (stop - start) // 2 * 2
        for c in range(start, pairs, 2):
            d = frame.exponent(load(x, c * width + lane, LANES), about.rate, level, law.inner, softcap)
            part = part - weighed(w, c, d)
            d = frame.exponent(load(x, (c + 1) * width + lane, LANES), about.rate, level, law.inner, softcap)
            other = other - weighed(w, c + 1, d)
        if pairs < stop:
            d = frame.exponent(load(x, pairs * width + lane, LANES), about.rate, level, law.inner, softcap)
            part = part - weighed(w, pairs, d)
        distance = distance + widen(part + other)
    return distance


@device
def weighed(w, c, d):
    if w is None:
        return d
    return maths.share(splat(load(w, c, 0), LANES), d)


@device
def target_share(w, q, c, lane, width, law, soft):
    """q, or w where only smoothing asks for it."""
    if soft is None:
        return splat(load(w, c, 0), LANES)
    return maths.soft_mass(splat(load(w, c, 0), LANES), load(q, c * width + lane, LANES), law.keep, law.off)


@device
def write_gradient(x, e, q, lane, j, facts, job, soft, softcap):
    """(mass + 2ζ·lse)·p − q, times scale and the slope of the softcap."""
    law, width, classes = job.law, job.plan.width, job.logits.shape[2]
    push, pull = load(facts.numbers, PUSH + j, LANES), load(facts.numbers, PULL + j, LANES)
    special, place = load(facts.numbers, SPECIAL + j, LANES), load(facts.places, PLACE + j, LANES)
    place = same_integer(place, maths.bits(push))
    for c in range(classes):
        v = load(e, c * width + lane, LANES) * push
        if takes(law, soft):
            shares = target_share(job.weight, q, c, lane, width, law, soft)
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
