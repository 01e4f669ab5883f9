"""A thread's share of a row: slots of as many numbers as a word holds, and what every pass does with a slot.

The numbers of a slot are classes c, c + step, c + 2·step, …; slots are `stride` classes apart.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cuda.coefficients import Row, share, term
from fastsce.backends.cuda.job import Job
from fastsce.backends.cuda.threads import device
from fastsce.backends.cuda.words import (
    each_number,
    each_pair,
    get,
    keep_word,
    load,
    load_word,
    number,
    put,
    small,
    store,
    store_word,
    take_word,
    to_boundary,
    wide,
    width,
)
from fastsce.frame import At
from fastsce.law import Law

NEVER = 2**31 - 1  # a class that no row has


class Span(NamedTuple):
    """Classes, in 32 bits."""

    first: int  # class of the first number in slot 0
    step: int
    stride: int
    end: int  # no slot has classes from here on
    ragged: int  # first class of this thread's ragged end,
    extent: int  # and how many there are


@device
def span_of(member, row, live, job, columns):
    p, classes, team = job.logits.data, job.plan.classes, job.plan.team
    if not live:
        return span(0, 0, 1, 0, 0, 0)
    if columns:
        return span(member, team, team * width(p), classes, 0, 0)
    head = min(to_boundary(p, row.x), classes)
    end = classes - (classes - head) % width(p)
    ragged, extent = (0, head) if member == 0 else (end, classes - end)
    return span(head + member * width(p), 1, team * width(p), end, ragged, extent if member < 2 else 0)


@device
def span(first, step, stride, end, ragged, extent):
    return Span(small(first), small(step), small(stride), small(end), small(ragged), small(extent))


@device
def slot_class(j, slots, span):
    """The first class of a slot in registers; the ragged one is the last."""
    return span.ragged if j == slots else span.first + j * span.stride


@device
def slot_stop(j, slots, span):
    """The class before which it ends."""
    return span.ragged + span.extent if j == slots else span.end


@device
def owner_of(c, span, job, columns):
    """Which member of the team writes a class."""
    team, numbers, end = job.plan.team, width(job.logits.data), wide(span.end)
    if columns:
        return c & (team - 1)
    head = end % numbers  # the first whole word's class, as words end where the next ones begin
    if c >= end:
        return 1
    return 0 if c < head else (c - head) // numbers & (team - 1)


# --- to and from memory -----------------------------------------------------------------------------------------------


@device
def load_slot(held, j, c, ragged, span, row, job, columns):
    p = job.logits.data
    if columns or ragged:
        stop = span.ragged + span.extent if ragged else span.end
        each_pair(p, load_pair, 0, (held, j, c, stop, span, row, job))
    elif c < span.end and not row.skip:
        load_word(p, row.x + wide(c), held, 4 * j)
    else:
        each_pair(p, clear_pair, 0, (held, j, p))


@device
def load_pair(k, done, held, j, c, stop, span, row, job):
    p = job.logits.data
    x, y = pick(c + k * span.step, stop, row, job), pick(c + (k + 1) * span.step, stop, row, job)
    put(held, width(p) * j + k, x, y, p)
    return done


@device
def pick(c, stop, row, job):
    """A logit, or −∞ where there is none to read."""
    if not row.skip and c < stop:
        return load(job.logits.data, row.x + wide(c) * job.logits.c)
    return number(-np.inf, job.logits.data)


@device
def clear_pair(k, done, held, j, p):
    put(held, width(p) * j + k, number(-np.inf, p), number(-np.inf, p), p)
    return done


@device
def store_slot(view, start, held, j, c, ragged, span, columns):
    if columns or ragged:
        stop = span.ragged + span.extent if ragged else span.end
        each_number(view.data, store_number, 0, (view, start, held, j, c, stop, span))
    elif c < span.end:
        store_word(view.data, start + wide(c), held, 4 * j)


@device
def store_number(k, done, view, start, held, j, c, stop, span):
    here = c + k * span.step
    if here < stop:
        store(view.data, start + wide(here) * view.c, get(held, width(view.data) * j + k, view.data))
    return done


@device
def keep_tail(spare, j, c, n, kept, span, job):
    """Word n of the tail into shared memory, where it has a place there."""
    if n < job.plan.kept and c < span.end:
        keep_word(kept, n, spare, 4 * j)


@device
def load_tail(spare, j, c, n, kept, span, row, job, columns):
    """Word n of the tail, from there or anew."""
    if n < job.plan.kept and c < span.end:
        take_word(kept, n, spare, 4 * j)
    else:
        load_slot(spare, j, c, False, span, row, job, columns)


# --- to read ----------------------------------------------------------------------------------------------------------


class Sums(NamedTuple):
    """What one thread adds up: numbers, and what their rounding lost."""

    rest: Any
    rest_lost: Any
    ties: Any
    mass: Any
    mass_lost: Any
    distance: Any
    distance_lost: Any
    first: Any  # the first class with the largest logit


@device
def no_sums(p):
    zero = number(0.0, p)
    return Sums(zero, zero, zero, zero, zero, zero, zero, small(NEVER))


@device
def sum_two(total, lost, x):
    """total + x, and what its rounding lost added to `lost`."""
    s = total + x
    back = s - total
    return s, lost + ((total - (s - back)) + (x - back))


@device
def both(total, lost):
    """A sum of Sums; what ∞ lost is NaN."""
    return maths.widen(total) + maths.where(lost == lost, maths.widen(lost), 0.0)


class How(NamedTuple):
    """What every number of a row is worked on with."""

    x_top: Any  # the largest logit
    at: At  # what terms are relative to
    weighed: bool  # shares of the target are read
    row: Row
    span: Span
    law: Law
    job: Job
    soft: Any  # True, or None
    softcap: Any  # likewise


@device
def read_slot(held, j, c, stop, sums, placed, keep, how):
    """Add up a slot's terms, but for the largest logit's, which are counted; leave them there if they are kept."""
    p = how.job.logits.data
    if how.weighed:
        sums = each_number(p, weigh, sums, (held, j, c, stop, how))
    if placed:
        sums = each_number(p, find_first, sums, (held, j, c, stop, how))
    zero = number(0.0, p)
    part, count = each_pair(p, add_terms, (zero, zero), (held, j, keep, how))
    rest, lost = sum_two(sums.rest, sums.rest_lost, part)
    return Sums(rest, lost, sums.ties + count, sums.mass, sums.mass_lost, sums.distance, sums.distance_lost, sums.first)


@device
def add_terms(k, state, held, j, keep, how):
    p = how.job.logits.data
    part, count = state
    n, one = width(p) * j + k, number(1.0, p)
    x, y = get(held, n, p), get(held, n + 1, p)
    e, f = term_of(x, how, how.softcap), term_of(y, how, how.softcap)
    if keep:
        put(held, n, e, f, p)
    part = part + (maths.where(x == how.x_top, 0.0, e) + maths.where(y == how.x_top, 0.0, f))
    return part, count + (maths.where(x == how.x_top, one, 0.0) + maths.where(y == how.x_top, one, 0.0))


@device
def term_of(v, how, softcap):
    return term(v, how.at, how.law, how.job, softcap)


@device
def weigh(k, sums, held, j, c, stop, how):
    """Add q and q·(rate·m − rate·u) of a class; q = w where only smoothing asks for it."""
    p, law = how.job.logits.data, how.law
    here = c + k * how.span.step
    q = share(here, how.row, law, how.job, how.soft) if here < stop else number(0.0, p)
    away = frame.exponent(get(held, width(p) * j + k, p), how.at.rate, how.at.offset, law.inner, how.softcap)
    mass, mass_lost = sums.mass, sums.mass_lost
    if how.soft is not None:  # may be near one q, and must be exact
        mass, mass_lost = sum_two(mass, mass_lost, q)
    distance, distance_lost = sum_two(sums.distance, sums.distance_lost, -maths.share(q, away))
    return Sums(sums.rest, sums.rest_lost, sums.ties, mass, mass_lost, distance, distance_lost, sums.first)


@device
def find_first(k, sums, held, j, c, stop, how):
    p = how.job.logits.data
    here = c + k * how.span.step
    found = get(held, width(p) * j + k, p) == how.x_top and here < stop and here < sums.first
    first = here if found else sums.first
    return Sums(
        sums.rest, sums.rest_lost, sums.ties, sums.mass, sums.mass_lost, sums.distance, sums.distance_lost, first
    )


# --- to write ---------------------------------------------------------------------------------------------------------


@device
def write_gradient(k, done, held, j, c, kept, outcome, how):
    """Two numbers of a slot; what is in it are logits, or terms if they are kept."""
    p = how.job.logits.data
    n, here = width(p) * j + k, c + k * how.span.step
    g = gradient_of(get(held, n, p), here, kept, outcome, how)
    h = gradient_of(get(held, n + 1, p), here + how.span.step, kept, outcome, how)
    put(held, n, g, h, p)
    return done


@device
def gradient_of(v, c, kept, outcome, how):
    """(mass + 2ζ·lse)·p − q, times scale and the slope of the softcap."""
    law, job = how.law, how.job
    e = v
    if not kept:
        e = maths.sloped(term_of(v, how, how.softcap), v, law.inner, how.softcap)
    if not how.weighed:
        return e * outcome.push
    q = share(c, how.row, law, job, how.soft) if c < job.plan.classes else number(0.0, job.logits.data)
    return maths.class_gradient(e, outcome.push, maths.sloped(q, v, law.inner, how.softcap), outcome.pull)


@device
def write_hessian(k, done, spare, held, j, outcome, how):
    """curve·p·(1 − p), into slot 0 of `spare`."""
    p, n = how.job.logits.data, width(how.job.logits.data) * j + k
    a, b = term_of(get(held, n, p), how, None), term_of(get(held, n + 1, p), how, None)
    a, b = maths.curvature(a * outcome.to_p), maths.curvature(b * outcome.to_p)
    put(spare, k, a * outcome.curve, b * outcome.curve, p)
    return done


@device
def write_log_softmax(k, done, held, j, outcome, how):
    """(x − x_top) − log S."""
    p, top = how.job.logits.data, how.x_top
    n = width(p) * j + k
    put(held, n, (get(held, n, p) - top) - outcome.log_s, (get(held, n + 1, p) - top) - outcome.log_s, p)
    return done
