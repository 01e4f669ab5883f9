"""The terms of a row: 2^lift·exp(rate·u − offset) of each logit (../../frame.py), and the loop that adds them up."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.ahead import prefetch, prefetch_beside
from fastsce.backends.cpu.coefficients import LIFT, OFFSET, PLACE, RATE, X_TOP
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.memory import load, moved, moved_bytes, store, stream
from fastsce.backends.cpu.plan import IGNORED
from fastsce.backends.cpu.tuning import BLOCK, LANES
from fastsce.backends.cpu.vectors import few_registers, lane_numbers, narrow, splat, widen
from fastsce.frame import At

STRETCH = 32 * LANES  # classes whose numbers are added up in the working precision
TWO_STEPS = few_registers()  # 16 hold half of what a term takes: 1024 classes in L3 11.9 → 9.6 ns for 16 (Zen 3)
MAKINGS_BYTES = 8 * (LANES + (2 * STRETCH if TWO_STEPS else 0)) + 64  # and of the sum of a stretch
TOPS_BYTES = 8 * LANES * (BLOCK // STRETCH) + 64  # of a block, whose stretches are no fewer than those of rows together


class Rows(NamedTuple):
    data: Any
    step: Any  # bytes from one to the next; 0 where they take each other's place


@device
def row(rows, r):
    return moved_bytes(rows.data, r * rows.step)


@device
def at_row(f, r):
    return At(load(f, RATE + r, 0), load(f, OFFSET + r, 0), load(f, LIFT + r, 0))


@device
def term_of(v, at, inner, softcap):
    return maths.exp(frame.exponent(v, at.rate, at.offset, inner, softcap), at.lift)


class Notes(NamedTuple):
    """What the loops over a row leave for one another."""

    tops: Any  # the largest numbers: of every stretch, those of LANES rows
    tail: Any  # of every row, the last classes, if they fill no vector, and then −∞
    makings: Any  # what the terms of a stretch are made with
    part: Any  # of every lane, the sum of a stretch
    sums: Any  # of every lane, the sum of terms, in float64
    counts: Any  # of every lane, how many terms are not in that sum


@device
def notes_of(r, notes):
    """Those of rows from row r on; the rest is each row's anew."""
    tops, tail, makings, part, sums, counts = notes
    return Notes(
        moved(tops, r), moved(tail, r * LANES), makings, part, moved(sums, r * LANES), moved(counts, r * LANES)
    )


class Middle(NamedTuple):
    """What is to be streamed of a row beside classes begin … stop of another, and what is left of it after these: whole
    lines of one block; begin = stop = 0: nothing. t and g are moved so that both rows count from the same class.
    """

    t: Any
    g: Any
    begin: Any
    stop: Any
    factor: Any
    place: Any
    special: Any


@apart
def add_rows(x, t, soon, n, classes, ahead, f, places, notes, inner, softcap):
    """`add_terms` of rows, while nothing else is streamed."""
    for r in range(n):
        if places[PLACE + r] != IGNORED:
            f_r, notes_r = moved(f, r), notes_of(r, notes)
            add_terms(row(x, r), row(t, r), row(soon, r), classes, ahead, f_r, notes_r, inner, softcap, None)


@apart
def add_row(x, t, soon, classes, ahead, f, notes, inner, softcap, meanwhile):
    """`add_terms` of a row or a block, while some of another row is streamed."""
    add_terms(x, t, soon, classes, ahead, f, notes, inner, softcap, meanwhile)


@device
def add_terms(x, t, soon, classes, ahead, f, notes, inner, softcap, meanwhile):
    """Leave the terms of a row, or of a block, in t, and note the sum of those that are not the largest, and how many
    are. Where a stretch has none as large, nothing is compared.

    What comes so far ahead and what lies at `soon` is asked for. `meanwhile`: what is to be streamed of another row, or
    None.
    """
    at, edge = at_row(f, 0), load(f, X_TOP, 0)
    edge = narrow(np.inf, edge) if edge == -np.inf else edge  # no term of a row of −∞ is kept out of its sum
    for start in range(0, classes, STRETCH):
        p, e, later, size, j = moved(x, start), moved(t, start), moved(soon, start), min(STRETCH, classes - start), 0
        if in_two_steps(softcap):
            begin_terms(p, size, at, notes)
        compared = load(notes.tops, start // STRETCH * LANES, 0) == edge
        if meanwhile is not None:
            idle, busy = min(size, max(0, meanwhile.begin - start)), min(size, meanwhile.stop - start)
            if idle < busy:
                add_some(p, e, p, 0, idle, start, ahead, at, compared, edge, notes, inner, softcap, None)
                add_some(p, e, p, idle, busy, start, ahead, at, compared, edge, notes, inner, softcap, meanwhile)
                j = busy
        add_some(p, e, later, j, size, start, ahead, at, compared, edge, notes, inner, softcap, None)
        part = widen(load(notes.part, 0, LANES))
        store(notes.sums, 0, load(notes.sums, 0, LANES) + part if start > 0 else part)
    if meanwhile is not None:
        for j in range(max(meanwhile.begin, classes // LANES * LANES), meanwhile.stop, LANES):
            stream_some(meanwhile, j)


@device
def add_some(x, t, soon, begin, stop, start, ahead, at, compared, edge, notes, inner, softcap, meanwhile):
    if begin < stop and compared:
        add_stretch(x, t, soon, begin, stop, start, ahead, at, edge, notes, inner, softcap, meanwhile)
    elif begin < stop:
        add_stretch(x, t, soon, begin, stop, start, ahead, at, None, notes, inner, softcap, meanwhile)


@apart
def add_stretch(x, t, soon, begin, stop, start, ahead, at, edge, notes, inner, softcap, meanwhile):
    """Of the stretch that begins with class `start`. `edge` is None where none is as large; `meanwhile` may be, too."""
    whole, zero = stop // LANES * LANES, splat(narrow(0.0, at.rate), LANES)
    part, count = load(notes.part, 0, LANES) if begin > 0 else zero, maths.bits(zero)
    for j in range(begin, whole, LANES):
        part, count = add_term(load(x, j, LANES), t, j, at, edge, part, count, notes, inner, softcap)
        if meanwhile is None:
            prefetch(x, j + ahead, LANES)
            prefetch(soon, j, LANES)
        else:
            if softcap is None:
                prefetch_beside(x, j + ahead, LANES)
            else:  # arithmetic is what takes time there
                prefetch(x, j + ahead, LANES)
            stream_some(meanwhile, start + j)
    if whole < stop:
        part, count = add_term(load(notes.tail, 0, LANES), t, whole, at, edge, part, count, notes, inner, softcap)
    many = narrow(count, zero)
    store(notes.part, 0, part)
    store(notes.counts, 0, load(notes.counts, 0, LANES) + many if start + begin > 0 else many)


@device
def add_term(v, t, j, at, edge, part, count, notes, inner, softcap):
    if in_two_steps(softcap):
        r = load(notes.makings, 2 * j + LANES, LANES)
        e = maths.exp_of(load(notes.makings, 2 * j, LANES), r, r)
    else:
        e = term_of(v, at, inner, softcap)
    store(t, j, maths.sloped(e, v, inner, softcap))
    if edge is None:
        return part + e, count
    return part + maths.where(v == edge, 0.0, e), maths.where(v == edge, count + 1, count)


@device
def in_two_steps(softcap):
    """Whether what a term is made with is worked out first, so that the constants of either step find registers. With
    a softcap the slope needs the same tanh as the term.
    """
    if softcap is None:
        return TWO_STEPS
    return False


@apart
def begin_terms(x, size, at, notes):
    whole = size // LANES * LANES
    for j in range(0, whole, LANES):
        begin_term(load(x, j, LANES), j, at, notes.makings)
    if whole < size:
        begin_term(load(notes.tail, 0, LANES), whole, at, notes.makings)


@device
def begin_term(v, j, at, makings):
    scale, r = maths.exp_parts(frame.exponent(v, at.rate, at.offset, 0.0, None), at.lift)
    store(makings, 2 * j, scale)
    store(makings, 2 * j + LANES, r)


@device
def stream_some(middle, j):
    v = load(middle.t, j, LANES) * middle.factor
    stream(middle.g, j, marked(v, j, middle.place, middle.special))


@device
def marked(v, j, place, special):
    """The number at the label is another."""
    if (place - j) & -LANES == 0:  # just where 0 ≤ place − j < LANES
        return maths.where(lane_numbers(LANES) == place - j, special, v)
    return v
