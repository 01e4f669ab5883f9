"""The terms of a row: 2^lift·exp(rate·u − offset) of each logit (../../frame.py), and the loop that adds them up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.ahead import prefetch, prefetch_far
from fastsce.backends.cpu.coefficients import LIFT, OFFSET, PLACE, RATE, X_TOP, M
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.makings import Makings, begin_capped, begin_term, capped_made, term_made, term_of
from fastsce.backends.cpu.memory import address_of, at, load, moved, moved_bytes, store, stream
from fastsce.backends.cpu.partial import fetch
from fastsce.backends.cpu.plan import IGNORED
from fastsce.backends.cpu.tuning import BLOCK, LANES
from fastsce.backends.cpu.vectors import few_registers, lane_numbers, narrow, splat, widen
from fastsce.frame import At

STRETCH = 32 * LANES  # classes whose numbers are added up in the working precision
TWO_STEPS = few_registers()  # 16 hold half of what a term takes: 1024 classes in L3 11.9 → 9.6 ns for 16 (Zen 3)
# Where, in `part` and in `sums`, Σ w·(rate·m − rate·u) is, which smoothing asks for. Before it, in `part`, are two sums
# of terms that take turns: 32 equal terms added up one after the other may all round one way.
PART_FAR, PART_SIZE = 2 * LANES, 3 * LANES
SUM_FAR, SUM_SIZE = LANES * LANES, 2 * LANES * LANES
MAKINGS_ALIGNED = 4 * STRETCH  # bytes, half a page: scale and r are as far from each other, or twice as far
MAKINGS_BYTES = 8 * (PART_SIZE + 2 * STRETCH) + 64 + MAKINGS_ALIGNED  # and of the sums of a stretch
TOPS_BYTES = 8 * LANES * (BLOCK // STRETCH) + 64  # of a block, whose stretches are no fewer than those of rows together


class Rows(NamedTuple):
    data: Any
    step: Any  # bytes from one to the next; 0 where they take each other's place


@device
def rows_at(v, a, b):
    """Those of an array from row b of block a on."""
    return Rows(at(v, a, b, 0), v.strides[1])


@device
def row(rows, r):
    return moved_bytes(rows.data, r * rows.step)


@device
def at_row(f, r):
    return At(load(f, RATE + r, 0), load(f, OFFSET + r, 0), load(f, LIFT + r, 0))


class Notes(NamedTuple):
    """What the loops over a row leave for one another."""

    tops: Any  # the largest numbers: of every stretch, those of LANES rows
    tail: Any  # of every row, the last classes, if they fill no vector, and then −∞
    makings: Makings  # of a stretch
    part: Any  # of every lane, the sums of a stretch
    sums: Any  # of every lane, those of all stretches of LANES rows, in float64
    counts: Any  # of every lane, how many terms are not in that sum


@device
def notes_of(r, notes):
    """Those of rows from row r on; the rest is each row's anew."""
    tops, tail, makings, part, sums, counts = notes
    return Notes(
        moved(tops, r), moved(tail, r * LANES), makings, part, moved(sums, r * LANES), moved(counts, r * LANES)
    )


@device
def notes_beside(x, notes):
    """With makings as far into half a page as the row x: else what is stored of some classes may look, to the loads
    of others, as if it were theirs.
    """
    tops, tail, makings, part, sums, counts = notes
    further = (address_of(x) - address_of(makings.scale)) & (MAKINGS_ALIGNED - 64)
    makings = Makings(moved_bytes(makings.scale, further), moved_bytes(makings.r, further))
    return Notes(tops, tail, makings, part, sums, counts)


class Shares(NamedTuple):
    """What smoothing asks for beside terms: how far classes are below m."""

    w: Any  # how much that counts
    from_m: Any  # rate·m


@device
def shares_of(w, f):
    return Shares(w, load(f, RATE, 0) * load(f, M, 0))


class Middle(NamedTuple):
    """What is to be streamed of a row beside classes begin … stop of another, and what is left of it after these: whole
    lines of one block; begin = stop = 0: nothing. t, g and q are moved: both rows count from the same class.
    """

    t: Any
    g: Any
    begin: Any
    stop: Any
    push: Any
    pull: Any  # None where nothing is taken from terms
    q: Any  # how much of that a class has
    place: Any
    special: Any


@device
def add_rows(x, t, soon, n, classes, ahead, f, places, notes, job, labels, soft, softcap):
    """`add_terms` of rows, while nothing else is streamed. One of labels and soft is None, and is not compiled for."""
    inner = job.law.inner
    if soft is not None:  # they have a loop of their own for shares
        add_rows_with(x, t, soon, n, classes, ahead, f, places, notes, None, True, inner, softcap)
    if labels is not None:
        if job.law.off == 0.0:
            add_rows_with(x, t, soon, n, classes, ahead, f, places, notes, None, True, inner, softcap)
        else:
            shares = shares_of(job.weight, f)
            add_rows_with(x, t, soon, n, classes, ahead, f, places, notes, shares, None, inner, softcap)


@apart
def add_rows_with(x, t, soon, n, classes, ahead, f, places, notes, shares, alone, inner, softcap):
    for r in range(n):
        if places[PLACE + r] == IGNORED:
            continue
        here, there, later, f_r, notes_r = row(x, r), row(t, r), row(soon, r), moved(f, r), notes_of(r, notes)
        if alone is not None:  # then there are no shares
            add_terms(here, there, later, classes, ahead, f_r, notes_r, None, alone, inner, softcap, None)
        if shares is not None:
            of_r = shares_of(shares.w, f_r)
            add_terms(here, there, later, classes, ahead, f_r, notes_r, of_r, alone, inner, softcap, None)


@device
def add_row(x, t, soon, w, classes, ahead, f, notes, job, labels, soft, softcap, meanwhile):
    """The same of a row or a block, while some of another row is streamed."""
    inner = job.law.inner
    if soft is not None:
        add_row_with(x, t, soon, classes, ahead, f, notes, None, True, inner, softcap, meanwhile)
    if labels is not None:
        if job.law.off == 0.0:
            add_row_with(x, t, soon, classes, ahead, f, notes, None, True, inner, softcap, bare(meanwhile))
        else:
            add_row_with(x, t, soon, classes, ahead, f, notes, shares_of(w, f), None, inner, softcap, meanwhile)


@apart
def add_row_with(x, t, soon, classes, ahead, f, notes, shares, alone, inner, softcap, meanwhile):
    add_terms(x, t, soon, classes, ahead, f, notes, shares, alone, inner, softcap, meanwhile)


@device
def bare(middle):
    t, g, begin, stop, push, _, _, place, special = middle
    return Middle(t, g, begin, stop, push, None, None, place, special)


@device
def add_terms(x, t, soon, classes, ahead, f, notes, shares, alone, inner, softcap, meanwhile):
    """Leave the terms of a row, or of a block, in t, and note the sum of those that are not the largest, and how many
    are. Where a stretch has none as large, nothing is compared, if terms are `alone`, which is None beside shares.

    What comes so far ahead and what lies at `soon` is asked for. `shares`: what else is to be noted; `meanwhile`: what
    is to be streamed of another row; or None.
    """
    at, edge = at_row(f, 0), load(f, X_TOP, 0)
    edge = narrow(np.inf, edge) if edge == -np.inf else edge  # no term of a row of −∞ is kept out of its sum
    if in_two_steps(softcap):
        notes = notes_beside(x, notes)
    for start in range(0, classes, STRETCH):
        p, e, later, size, j = moved(x, start), moved(t, start), moved(soon, start), min(STRETCH, classes - start), 0
        if in_two_steps(softcap):
            begin_terms(p, e, size, start, at, notes, shares, inner, softcap)
        compared = load(notes.tops, start // STRETCH * LANES, 0) == edge
        how = (start, ahead, at, compared, edge, notes, shares, alone, softcap)
        if meanwhile is not None:
            idle, busy = min(size, max(0, meanwhile.begin - start)), min(size, meanwhile.stop - start)
            if idle < busy:
                add_some(p, e, p, 0, idle, *how, None)
                add_some(p, e, p, idle, busy, *how, meanwhile)
                j = busy
        add_some(p, e, later, j, size, *how, None)
        add_stretch_to(notes.sums, load(notes.part, 0, LANES) + load(notes.part, LANES, LANES), start)
        if shares is not None:
            add_stretch_to(moved(notes.sums, SUM_FAR), load(notes.part, PART_FAR, LANES), start)
    if meanwhile is not None:
        for j in range(max(meanwhile.begin, classes // LANES * LANES), meanwhile.stop, LANES):
            stream_some(meanwhile, j)


@device
def add_stretch_to(sums, v, start):
    store(sums, 0, load(sums, 0, LANES) + widen(v) if start > 0 else widen(v))


@device
def add_some(x, t, soon, begin, stop, start, ahead, at, compared, edge, notes, shares, alone, softcap, meanwhile):
    """Beside shares it is always compared, lest there be twice as many loops to compile."""
    if begin >= stop:
        return
    if alone is not None:
        if compared:
            add_stretch(x, t, soon, begin, stop, start, ahead, at, edge, notes, shares, softcap, meanwhile)
        else:
            add_stretch(x, t, soon, begin, stop, start, ahead, at, None, notes, shares, softcap, meanwhile)
    else:
        add_stretch(x, t, soon, begin, stop, start, ahead, at, edge, notes, shares, softcap, meanwhile)


@apart
def add_stretch(x, t, soon, begin, stop, start, ahead, at, edge, notes, shares, softcap, meanwhile):
    """Of the stretch that begins with class `start`. `edge` is None where none is as large; `meanwhile` may be, too."""
    whole, zero = stop // LANES * LANES, splat(narrow(0.0, at.rate), LANES)
    (a, b), count, far = (zero, zero), maths.bits(zero), zero
    if begin > 0:
        a, b = load(notes.part, 0, LANES), load(notes.part, LANES, LANES)
    if shares is not None and begin > 0:
        far = load(notes.part, PART_FAR, LANES)
    for j in range(begin, whole, LANES):
        v = load(x, j, LANES)
        e, count = add_term(v, t, j, at, edge, count, notes, softcap)
        a, b = b, a + e
        if shares is not None:
            far = add_share(v, start + j, at, shares, far, softcap)
        ask_for_logits(x, j + ahead, softcap)
        if meanwhile is None:
            prefetch(soon, j, LANES)
        else:
            stream_some(meanwhile, start + j)
    if whole < stop:
        v = load(notes.tail, 0, LANES)
        e, count = add_term(v, t, whole, at, edge, count, notes, softcap)
        a, b = b, a + e
        ask_for_logits(x, whole + ahead, softcap)
        if meanwhile is None:
            prefetch(soon, whole, LANES)
        if shares is not None:
            far = add_last_share(v, start + whole, stop - whole, at, shares, far, softcap)
    if shares is not None and not in_two_steps(softcap):
        store(notes.part, PART_FAR, far)
    many = narrow(count, zero)
    store(notes.part, 0, a)
    store(notes.part, LANES, b)
    store(notes.counts, 0, load(notes.counts, 0, LANES) + many if start + begin > 0 else many)


@device
def ask_for_logits(x, j, softcap):
    """What comes from main memory; to L1 with a softcap, where arithmetic is what takes time."""
    if softcap is None:
        prefetch_far(x, j, LANES)
    else:
        prefetch(x, j, LANES)


@device
def add_term(v, t, j, at, edge, count, notes, softcap):
    """Work it out, and leave it in t: what of it is to be added, and how many are not."""
    e = term_made(notes.makings, j) if in_two_steps(softcap) else term_of(v, at, 0.0, None)
    store(t, j, e if softcap is None else load(t, j, LANES) * e)
    if edge is None:
        return e, count
    return maths.where(v == edge, 0.0, e), maths.where(v == edge, count + 1, count)


@device
def in_two_steps(softcap):
    """Whether what a term is made with is worked out first, so that the constants of either step find registers; or,
    with a softcap, so that more terms are under way at once.
    """
    if softcap is None:
        return TWO_STEPS
    return True


@apart
def begin_terms(x, t, size, start, at, notes, shares, inner, softcap):
    whole, zero = size // LANES * LANES, splat(narrow(0.0, at.rate), LANES)
    far = zero
    if softcap is not None:
        for j in range(0, whole, LANES):
            begin_capped(load(x, j, LANES), j, notes.makings, inner)
        if whole < size:
            begin_capped(load(notes.tail, 0, LANES), whole, notes.makings, inner)
    for j in range(0, whole, LANES):
        u = unit_begun(load(x, j, LANES), t, j, notes.makings, inner, softcap)
        begin_term(u, j, at, notes.makings)
        if shares is not None:
            d = frame.exponent(u, at.rate, shares.from_m, 0.0, None)
            far = add_weight(shares.w, start + j, d, far)
    if whole < size:
        u = unit_begun(load(notes.tail, 0, LANES), t, whole, notes.makings, inner, softcap)
        begin_term(u, whole, at, notes.makings)
        if shares is not None:
            d = frame.exponent(u, at.rate, shares.from_m, 0.0, None)
            far = add_last_weight(shares.w, start + whole, size - whole, d, far, zero)
    if shares is not None:
        store(notes.part, PART_FAR, far)


@device
def unit_begun(v, t, j, makings, inner, softcap):
    """u, whose slope is left in t."""
    if softcap is None:
        return v
    u, slope = capped_made(v, j, makings, inner)
    store(t, j, slope)
    return u


@device
def add_share(v, j, at, shares, far, softcap):
    """Unless that was done with the first of two steps."""
    if in_two_steps(softcap):
        return far
    return add_weight(shares.w, j, frame.exponent(v, at.rate, shares.from_m, 0.0, None), far)


@device
def add_last_share(v, j, n, at, shares, far, softcap):
    """The same of the first n lanes."""
    if in_two_steps(softcap):
        return far
    d, zero = frame.exponent(v, at.rate, shares.from_m, 0.0, None), splat(narrow(0.0, at.rate), LANES)
    return add_last_weight(shares.w, j, n, d, far, zero)


@device
def add_weight(w, j, d, far):
    return far - maths.share(load(w, j, LANES), d)


@device
def add_last_weight(w, j, n, d, far, zero):
    return far - maths.share(fetch(w, j, n, 0.0, zero), d)


@device
def stream_some(middle, j):
    v = gradient_at(load(middle.t, j, LANES), middle.push, middle.pull, middle.q, j)
    stream(middle.g, j, marked(v, j, middle.place, middle.special))


@device
def gradient_at(e, push, pull, q, j):
    if pull is None:
        return e * push
    return maths.class_gradient(e, push, load(q, j, LANES), pull)


@device
def marked(v, j, place, special):
    """The number at the label is another."""
    if (place - j) & -LANES == 0:  # just where 0 ≤ place − j < LANES
        return maths.where(lane_numbers(LANES) == place - j, special, v)
    return v
