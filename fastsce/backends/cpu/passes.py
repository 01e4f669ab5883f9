"""The loops over classes that lie side by side, LANES of them at a step, for some rows or for a block of one.

Each is a function of its own, whose constants then find registers. A row after the other is gone through: the processor
has several steps under way at once, and so needs no longer ones to be busy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.ahead import prefetch_far
from fastsce.backends.cpu.coefficients import BEND, CURVE, PLACE, PULL, PUSH, SPECIAL, TO_P, M, takes
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.makings import term_of
from fastsce.backends.cpu.memory import (
    load,
    moved,
    numbers_in_line,
    past_boundary,
    put,
    store,
    stream,
)
from fastsce.backends.cpu.partial import fetch, store_part
from fastsce.backends.cpu.plan import IGNORED
from fastsce.backends.cpu.reductions import first, largest
from fastsce.backends.cpu.terms import STRETCH, at_row, marked, row
from fastsce.backends.cpu.tuning import AHEAD, BLOCK, LANES
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen

FAR = 2.0**-20  # of the largest term: what multiplies smaller blocks is not kept beside them


# --- to read ----------------------------------------------------------------------------------------------------------


@apart
def find_largest(x, n, classes, places, tails, found):
    """`largest_lanes` of each row; of a row to leave out, anything."""
    for r in range(n):
        if places[PLACE + r] != IGNORED:
            store(found, r * LANES, largest_lanes(row(x, r), classes, moved(tails, r * LANES)))


@apart
def find_tops(x, classes, tail, tops):
    """The largest number of each stretch of a row, and of all; its last classes as `largest_lanes` notes them."""
    edge = narrow(-np.inf, load(x, 0, 0))
    for start in range(0, classes, STRETCH):
        top = largest(largest_lanes(moved(x, start), min(STRETCH, classes - start), tail))
        store(tops, start // STRETCH * LANES, top)
        edge = max(edge, top)
    return edge


@device
def largest_lanes(x, classes, tail):
    """Of every lane, −∞ where there is none; `tail` gets the last classes if they fill no vector, and then −∞."""
    whole = classes // LANES * LANES
    pairs = whole // (2 * LANES) * (2 * LANES)
    v = splat(narrow(-np.inf, load(x, 0, 0)), LANES)
    u = v  # a maximum waits for the one before, so two of them take turns
    for j in range(0, pairs, 2 * LANES):
        v, u = maths.maximum(load(x, j, LANES), v), maths.maximum(load(x, j + LANES, LANES), u)
    v = maths.maximum(u, v)
    for j in range(pairs, whole, LANES):
        v = maths.maximum(load(x, j, LANES), v)
    if whole < classes:
        last = fetch(x, whole, classes - whole, -np.inf, v)
        store(tail, 0, last)
        v = maths.maximum(last, v)
    return v


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
def add_shares(x, q, w, n, classes, f, masses, distances, job, softcap):
    """Of every lane, Σ q and Σ q·(z of m − z), in float64."""
    law = job.law
    if job.plan.weighted or law.off > 0.0 or law.keep != 1.0:
        add_shares_with(x, q, w, n, classes, f, masses, distances, law, softcap)
    else:
        add_shares_with(x, q, None, n, classes, f, masses, distances, law, softcap)


@apart
def add_shares_with(x, q, w, n, classes, f, masses, distances, law, softcap):
    """w is None where q is the target as it is given."""
    whole = classes // LANES * LANES
    for r in range(n):
        p, target, m, at = row(x, r), row(q, r), load(f, M + r, 0), at_row(f, r)
        mass, distance, from_m = splat(0.0, LANES), splat(0.0, LANES), at.rate * m
        for start in range(0, classes, STRETCH):
            part, far = splat(0.0, LANES), splat(0.0, LANES)
            for j in range(start, min(start + STRETCH, whole), LANES):
                d = frame.exponent(load(p, j, LANES), at.rate, from_m, law.inner, softcap)
                share = widen(given_share(w, load(target, j, LANES), j, LANES, law))
                part, far = part + share, far - maths.share(share, widen(d))
                prefetch_far(target, j + AHEAD, LANES)
            mass, distance = mass + part, distance + far
        if whole < classes:
            left, like = classes - whole, splat(m, LANES)
            prefetch_far(target, whole + AHEAD, LANES)
            d = frame.exponent(fetch(p, whole, left, -np.inf, like), at.rate, from_m, law.inner, softcap)
            share = widen(given_share(w, fetch(target, whole, left, 0.0, like), whole, left, law))
            mass, distance = mass + share, distance - maths.share(share, widen(d))
        store(masses, r * LANES, mass)
        store(distances, r * LANES, frame.distance_to(m, at, distance, mass, law))


@device
def given_share(w, q, j, n, law):
    if w is None:
        return q
    return maths.soft_mass(fetch(w, j, n, 0.0, q), q, law.keep, law.off)


@device
def target_share(w, q, j, n, like, law, soft):
    """q, or w where only smoothing asks for it."""
    if soft is None:
        return fetch(w, j, n, 0.0, like)
    return given_share(w, fetch(q, j, n, 0.0, like), j, n, law)


# --- to write ---------------------------------------------------------------------------------------------------------


@apart
def scale_terms(t, blocks, g, n, classes, f, places, streaming):
    """(mass + 2ζ·lse)·p, times scale and the slope of the softcap, and the label's gradient, of rows whose terms were
    kept. Streamed rows have one block.
    """
    for r in range(n):
        there, m, push, place = row(g, r), load(f, M + r, 0), load(f, PUSH + r, 0), places[PLACE + r]
        if place == IGNORED:
            clear(there, classes, m)
            continue
        special = load(f, SPECIAL + r, 0)
        for start in range(0, classes, BLOCK):
            e, to, size = moved(row(t, r), start), moved(there, start), min(BLOCK, classes - start)
            factor = narrow(push * block_factor(blocks, classes, start, True), m)
            j, whole = whole_steps(to, 0, size, size, streaming)
            if streaming:  # such lines are not to be touched again
                for i in range(j, whole, LANES):
                    stream(to, i, marked(load(e, i, LANES) * factor, i, place, special))
            else:
                for i in range(j, whole, LANES):
                    store(to, i, load(e, i, LANES) * factor)
            for i in range(0, j, LANES):
                store_part(to, i, j - i, load(e, i, LANES) * factor)
            for i in range(whole, size, LANES):
                store_part(to, i, size - i, load(e, i, LANES) * factor)
        if place >= 0 and not (streaming and j <= place and place < whole):
            store(there, place, special)


@apart
def write_gradients(given, blocks, g, n, begin, end, edges, classes, f, places, law, soft, softcap, streaming):
    """(mass + 2ζ·lse)·p − q, times scale and the slope of the softcap, of the blocks between two classes, or of their
    edges. Terms were kept, or are worked out again.
    """
    for r in range(n):
        here, there, kept = given_row(given, r), row(g, r), given.kept
        m, at, push, pull = load(f, M + r, 0), at_row(f, r), load(f, PUSH + r, 0), load(f, PULL + r, 0)
        place, special = places[PLACE + r], load(f, SPECIAL + r, 0)
        if place == IGNORED:
            if begin == 0:
                clear(there, classes, m)
            continue
        if begin == 0:
            head, _ = whole_steps(there, 0, 0, classes, streaming)
            factor = narrow(push * block_factor(blocks, classes, 0, kept), m)
            for i in range(0, head, LANES):
                v = gradient(here, i, head - i, at, factor, pull, law, soft, softcap)
                store_part(there, i, head - i, marked(v, i, place, special))
        for start in range(begin, end, BLOCK):
            stop = min(start + BLOCK, classes)
            factor = narrow(push * block_factor(blocks, classes, start, kept), m)
            j, whole = whole_steps(there, start, stop, classes, streaming)
            for i in range(whole if edges else j, whole, LANES):
                v = gradient(here, i, LANES, at, factor, pull, law, soft, softcap)
                if streaming:
                    stream(there, i, marked(v, i, place, special))
                else:
                    store(there, i, v)
            following = factor
            if stop < classes:
                following = narrow(push * block_factor(blocks, classes, stop, kept), m)
            after, _ = whole_steps(there, stop, stop, classes, streaming)
            for i in range(whole, min(after, classes), LANES):
                left = min(LANES, classes - i)
                factors = maths.where(lane_numbers(LANES) < stop - i, splat(factor, LANES), splat(following, LANES))
                v = marked(gradient(here, i, left, at, factors, pull, law, soft, softcap), i, place, special)
                if streaming and after <= classes:
                    stream(there, i, v)
                else:
                    store_part(there, i, left, v)
        if place >= 0 and not streaming and end == classes:  # for streamed lines are not to be touched again
            store(there, place, special)


@device
def whole_steps(g, start, stop, classes, streaming):
    """Where the whole steps of a block begin and end. Those that are streamed are whole cache lines; what is left of a
    block goes with the beginning of the next.
    """
    j, size = min(past_boundary(g, 0), classes) if streaming else 0, steps_of(g, streaming)
    if start > j:
        j += (start - j + size - 1) // size * size
    return j, max(j, j + (stop - j) // size * size)


@device
def steps_of(g, streaming):
    return max(LANES, numbers_in_line(g)) if streaming else LANES


class Given(NamedTuple):
    """What gradients are made of: of some rows, or of one."""

    x: Any
    q: Any
    w: Any
    t: Any
    kept: Any  # whether t has terms, or they are worked out again


@device
def given_row(given, r):
    x, q, w, t, kept = given
    return Given(row(x, r), row(q, r), w, row(t, r), kept)


@device
def gradient(given, j, n, at, push, pull, law, soft, softcap):
    x, q, w, t, kept = given
    like = splat(at.offset, LANES)
    e = term(x, t, j, n, kept, at, like, law, softcap)
    if not takes(law, soft):
        return e * push
    shares = maths.sloped(target_share(w, q, j, n, like, law, soft), fetch(x, j, n, 0.0, like), law.inner, softcap)
    return maths.class_gradient(e, push, shares, pull)


@device
def write_hessian(t, blocks, h, classes, f, place, streaming):
    """curve·p·(1 − p), and what it is for the largest logit, at its place."""
    curve, bend = load(f, CURVE, 0), load(f, BEND, 0)
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        to_p = narrow(load(f, TO_P, 0) * block_factor(blocks, classes, start, True), curve)
        j, whole = whole_steps(h, start, stop, classes, streaming)
        for i in range(j, whole, LANES):
            put(h, i, curved(t, i, to_p, curve, place, bend), streaming)
        for i in range(start, min(j, stop), LANES):
            store_part(h, i, min(j, stop) - i, curved(t, i, to_p, curve, place, bend))
        for i in range(whole, stop, LANES):
            store_part(h, i, stop - i, curved(t, i, to_p, curve, place, bend))


@device
def curved(t, i, to_p, curve, place, bend):
    return marked(maths.curvature(load(t, i, LANES) * to_p) * curve, i, place, bend)


@device
def write_log_softmax(x, g, classes, m, log_s, streaming):
    """(x − m) − log S."""
    like = splat(m, LANES)
    j, whole = whole_steps(g, 0, classes, classes, streaming)
    for i in range(j, whole, LANES):
        put(g, i, (load(x, i, LANES) - m) - log_s, streaming)
    for i in range(0, j, LANES):
        store_part(g, i, j - i, (fetch(x, i, j - i, 0.0, like) - m) - log_s)
    for i in range(whole, classes, LANES):
        store_part(g, i, classes - i, (fetch(x, i, classes - i, 0.0, like) - m) - log_s)


@device
def clear(p, classes, like):
    zeros = splat(narrow(0.0, like), LANES)
    for j in range(0, classes, LANES):
        store_part(p, j, classes - j, zeros)


@device
def term(x, t, j, n, kept, at, like, law, softcap):
    """A term times the slope of the softcap: one that was kept, for `block_factor`, or one that is the row's."""
    if kept:
        return load(t, j, LANES)
    v = fetch(x, j, n, 0.0, like)
    return maths.sloped(term_of(v, at, law.inner, softcap), v, law.inner, softcap)


@device
def rebase(t, blocks, classes, m, law):
    """Put in the place of each block's m what makes its terms the row's. Those far below the row's largest are made so
    at once, lest what multiplies them be no normal number.
    """
    before, factor = narrow(np.nan, m), 1.0
    for start in range(0, classes, BLOCK):
        here = narrow(load(blocks, start // BLOCK, 0), m)
        if here != before:  # few blocks have a largest logit beyond all before
            before, factor = here, rebased(here, m, law)
        if factor < FAR:
            for j in range(start, min(start + BLOCK, classes), LANES):
                store(t, j, load(t, j, LANES) * narrow(factor, m))
        store(blocks, start // BLOCK, 1.0 if factor < FAR else factor)


@device
def block_factor(blocks, classes, start, kept):
    """From a block's terms to the row's."""
    if classes <= BLOCK or not kept:
        return 1.0
    return load(blocks, start // BLOCK, 0)


@apart
def rebased(before, m, law):
    return frame.rebased(before, m, law)
