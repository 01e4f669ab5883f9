"""Rows of up to TOGETHER classes: what there is once a row, from the largest logit on, is worked out for LANES of them
at once. They are gone through one after the other all the same, so that nothing has to be turned.

A step is LANES classes, for the processor has many rows under way and needs no longer ones to be busy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.ahead import prefetch
from fastsce.backends.cpu.coefficients import (
    DISTANCE,
    LIFT,
    MASS,
    OFFSET,
    PLACE,
    POWER,
    PULL,
    PUSH,
    REST,
    SPECIAL,
    TIES,
    X_K,
    X_TOP,
    M,
    shift,
)
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.memory import fetch, gather, load, moved, moved_bytes, store, store_part, workspace
from fastsce.backends.cpu.passes import gradient, step_terms, weigh
from fastsce.backends.cpu.plan import IGNORED
from fastsce.backends.cpu.reductions import rows_largest, rows_sum, total
from fastsce.backends.cpu.tuning import AHEAD, LANES
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen

FOLD_BYTES = 2 * 8 * LANES * LANES + 64


class Rows(NamedTuple):
    data: Any
    step: Any  # bytes from one to the next; 0 if they take each other's place


@device
def row(rows, r):
    return moved_bytes(rows.data, r * rows.step)


@device
def read_together(i, n, y, lane, x, q, t, soon, facts, job, soft, softcap, scratch):
    """Note the facts of n rows from row i on, and leave their terms in t; of `soon` is asked for ahead."""
    law, f, classes = job.law, facts.numbers, job.logits.shape[2]
    numbers, sums = workspace(scratch, 0, job.logits.data), workspace(scratch, 0, job.lse)
    counts = workspace(scratch, 8 * LANES * LANES, job.logits.data)
    largest_of(x, n, classes, numbers)
    x_top = rows_largest(numbers)
    m = shift(i, n, x_top, job, softcap)
    m = maths.where(m == -np.inf, 0.0, m)  # −∞ − (−∞) would be NaN
    store(f, X_TOP + lane, x_top)
    store(f, M + lane, m)
    store(f, LIFT + lane, load(f, POWER + lane, LANES) - maths.octaves(m, law.near))
    store(f, OFFSET + lane, maths.offset(m, law.near))
    terms_of(x, t, soon, n, classes, moved(f, lane), sums, counts, law, softcap)
    store(facts.sums, REST + lane, rows_sum(sums))
    store(facts.sums, TIES + lane, widen(rows_sum(counts)))
    if soft is not None or law.off > 0.0:
        weigh_all(x, q, job.weight, n, classes, moved(f, lane), moved(facts.sums, lane), law, soft, softcap)
    if soft is None:
        places = maths.where(y < 0, 0, y) + lane_numbers(LANES) * (x.step // job.logits.item)
        store(f, X_K + lane, gather(x.data, maths.where(lane_numbers(LANES) < n, places, 0)))


@apart
def largest_of(x, n, classes, found):
    """The largest logit of every lane."""
    whole = classes // LANES * LANES
    for r in range(n):
        p = row(x, r)
        v = splat(narrow(-np.inf, load(p, 0, 0)), LANES)
        for j in range(0, whole, LANES):
            v = maths.maximum(load(p, j, LANES), v)
        if whole < classes:
            v = maths.maximum(fetch(p, whole, classes - whole, -np.inf, v), v)
        store(found, r * LANES, v)


@apart
def terms_of(x, t, soon, n, classes, f, sums, counts, law, softcap):
    """Leave 2^lift·exp(z − offset) in t; of every lane, the sum of all but the largest, and how many those are."""
    whole, ahead = classes // LANES * LANES, max(AHEAD, LANES * classes)
    for r in range(n):
        p, here, later = row(x, r), row(t, r), row(soon, r)
        offset, lift, edge = load(f, OFFSET + r, 0), load(f, LIFT + r, 0), load(f, X_TOP + r, 0)
        edge = narrow(np.inf, edge) if edge == -np.inf else edge  # no term of a row of −∞ is kept out of its sum
        count = splat(offset, LANES) * 0.0
        rest = count
        for j in range(0, whole, LANES):
            rest, count = step_terms(load(p, j, LANES), here, j, offset, edge, lift, rest, count, law, softcap)
            prefetch(p, j + ahead, LANES)
            prefetch(later, j, LANES)
        if whole < classes:
            v = fetch(p, whole, classes - whole, -np.inf, rest)
            rest, count = step_terms(v, here, whole, offset, edge, lift, rest, count, law, softcap)
        store(sums, r * LANES, widen(rest))
        store(counts, r * LANES, count)


@apart
def weigh_all(x, q, w, n, classes, f, sums, law, soft, softcap):
    """Σ q and Σ q·(m − z), or of w."""
    zero = splat(0.0, LANES)
    for r in range(n):
        m = load(f, M + r, 0)
        mass, distance = weigh(row(x, r), row(q, r), w, 0, classes, m, zero, zero, law, soft, softcap)
        store(sums, MASS + r, total(mass))
        store(sums, DISTANCE + r, total(distance))


@apart
def write_together(x, q, w, t, g, n, classes, f, places, law, soft, softcap):
    """The gradients of n rows."""
    whole = classes // LANES * LANES
    for r in range(n):
        p, shares, here, there = row(x, r), row(q, r), row(t, r), row(g, r)
        push, pull, place = load(f, PUSH + r, 0), load(f, PULL + r, 0), places[PLACE + r]
        if place == IGNORED:
            for j in range(0, classes, LANES):
                store_part(there, j, classes - j, splat(push, LANES) * 0.0)
        else:
            for j in range(0, whole, LANES):
                e = load(here, j, LANES)
                store(there, j, gradient(e, p, shares, w, j, LANES, push, pull, law, soft, softcap))
            if whole < classes:
                e, left = load(here, whole, LANES), classes - whole
                store_part(there, whole, left, gradient(e, p, shares, w, whole, left, push, pull, law, soft, softcap))
            if place >= 0:
                store(there, place, load(f, SPECIAL + r, 0))
