"""The kernel: a team of threads reads a row, agrees on its largest logit and its sums, and writes its gradient.

A row is held where it fits: in registers, then in shared memory, then not at all, and what is not held is read again,
out of the L2 cache if few rows are under way. Regimes:

ROWS     classes side by side; a row in the registers of 2 to 256 threads, several rows a block where they are few
LONG     the same for rows that are longer: a block of up to 512 a row, with shared memory and what does not fit there
COLUMNS  any strides: a thread has one sample and every `team`-th class, its neighbours other samples

Numbers move as whole 128-bit words in the first two; what is left of a row before its first whole word and after its
last, the *ragged* ends, moves number by number.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cuda.coefficients import (
    Facts,
    at_top,
    label_at,
    label_logit,
    law_of,
    report,
    row_at,
    scale_of,
    settle,
)
from fastsce.backends.cuda.job import COLUMNS, HESSIAN, IGNORED, LOG_SOFTMAX, NOTHING, ROWS
from fastsce.backends.cuda.passes import (
    NEVER,
    How,
    both,
    keep_tail,
    load_slot,
    load_tail,
    no_sums,
    owner_of,
    read_slot,
    slot_class,
    slot_stop,
    span_of,
    store_slot,
    write_gradient,
    write_hessian,
    write_log_softmax,
)
from fastsce.backends.cuda.reduce import (
    COLUMN_PLACES,
    DISTANCE,
    MASS,
    PLACE,
    PLACES,
    REST,
    TIES,
    TOP,
    Where,
    agree_largest,
    agree_sum,
)
from fastsce.backends.cuda.terms import larger, largest, lowest
from fastsce.backends.cuda.threads import (
    block,
    blocks,
    cuda,
    device,
    float64,
    thread,
    thread_y,
    threads,
    threads_y,
    uint32,
    warp_barrier,
)
from fastsce.backends.cuda.words import anew, each, each_pair, renew, store, wide

AHEAD = 4  # slots beyond the registers that are brought together, so that as many loads are under way
SPARE = 4 * AHEAD


def softmax(regime, slots, shared, soft, softcap, write, keep):
    """The kernel of a variant: `soft` and `softcap` are True or None. A thread has so many slots in registers, and a
    ragged one; terms take the logits' place there if `keep`.
    """
    columns, tail = regime == COLUMNS, regime != ROWS
    held_slots = slots if columns else slots + 1
    raw, places = 4 * held_slots, COLUMN_PLACES if columns else PLACES
    placed = soft is not None or write == HESSIAN

    def kernel(job):
        held, spare = cuda.local.array(raw, uint32), cuda.local.array(SPARE, uint32)
        partial, kept = cuda.shared.array(places, float64), cuda.shared.array(0, uint32, alignment=16)
        p, law, team = job.logits.data, law_of(job), job.plan.team
        member, slot, rows = thread(), thread_y(), threads_y()
        if columns:
            member, slot, rows = thread_y(), thread(), threads()
        at = Where(partial, member, team, slot, rows)
        i = block() * rows + slot
        while i - slot < job.plan.rows:
            live = i < job.plan.rows
            here = i if live else 0
            place, scale = label_at(here, job, soft) if live else IGNORED, scale_of(here, job)
            row = row_at(here, place, scale, job)
            span = span_of(member, row, live, job, columns)
            beyond = span.first + slots * span.stride  # where the tail begins
            x_k = label_logit(row, job)

            each(held_slots, load_held, 0, (held, slots, span, row, job, columns))
            top = each(held_slots, larger_held, lowest(p), (held, p))
            if tail:
                c, n = beyond, member
                while c < span.end:
                    each(AHEAD, load_spare, 0, (spare, c, span, row, job, columns))
                    top = each(AHEAD, larger_spare, top, (spare, c, n, kept, span, job))
                    c, n = c + AHEAD * span.stride, n + AHEAD * team
            x_top = largest(top, p)
            x_top = maths.narrow(agree_largest(maths.widen(x_top), at, TOP, columns), x_top)
            m = maths.unit(x_top, law.inner, softcap)
            about = at_top(maths.where(m == -np.inf, 0.0, m), row.power, law)  # −∞ − (−∞) would be NaN

            weighed = shared and not row.skip
            how = How(x_top, about, weighed, row, span, law, job, soft, softcap)
            sums = each(held_slots, read_held, no_sums(p), (held, slots, placed, keep, how))
            if tail:
                c, n = beyond, member
                while c < span.end:
                    each(AHEAD, load_again, 0, (spare, c, n, kept, span, row, job, columns))
                    sums = each(AHEAD, read_spare, sums, (spare, c, placed, how))
                    c, n = c + AHEAD * span.stride, n + AHEAD * team
            rest = agree_sum(both(sums.rest, sums.rest_lost), at, REST, columns)
            ties = agree_sum(maths.widen(sums.ties), at, TIES, columns)
            mass, distance = 0.0, 0.0
            if shared:
                mass = agree_sum(both(sums.mass, sums.mass_lost), at, MASS, columns)
                distance = agree_sum(both(sums.distance, sums.distance_lost), at, DISTANCE, columns)
            top_place = 0
            if placed:
                top_place = int(-agree_largest(-float(wide(sums.first)), at, PLACE, columns))
                top_place = 0 if top_place == NEVER else top_place
            if soft is not None:
                x_k, place = x_top, top_place
            facts = Facts(x_top, x_k, place, rest, ties, mass, distance)

            warp_barrier()  # what another lane writes into now, this one has read

            # Where the row lies is worked out again: kept, it would take the registers of what is read.
            row = row_at(anew(here), row.place, scale, job)
            span = span_of(anew(member), row, live, job, columns)
            if write != NOTHING and live:
                outcome = settle(row, facts, law, job, soft, softcap)
                each(held_slots, renew_held, 0, (held,))
                how = How(x_top, about, weighed, row, span, law, job, soft, softcap)
                each(held_slots, write_held, 0, (spare, held, slots, keep, columns, write, outcome, how))
                if tail:
                    c, n = span.first + slots * span.stride, member
                    while c < span.end:
                        load_tail(held, 0, c, n, kept, span, row, job, columns)
                        write_slot(spare, held, 0, c, False, False, columns, write, outcome, how)
                        c, n = c + span.stride, n + team

            # The rest of the outcome is for one thread each, and worked out when the registers are free again.
            facts = Facts(anew(x_top), anew(x_k), anew(place), anew(rest), anew(ties), mass, distance)
            if write != NOTHING and write != LOG_SOFTMAX and live and not row.skip:
                if place >= 0 and owner_of(place, span, job, columns) == member:
                    special = settle(row, facts, law, job, soft, softcap).special
                    store(job.grad.data, row.g + place * job.grad.c, special)
                if write == HESSIAN and owner_of(top_place, span, job, columns) == member:
                    bend = settle(row, facts, law, job, soft, softcap).bend
                    store(job.hess.data, row.h + top_place * job.hess.c, bend)
            if live and member == 0 and not job.plan.saved:
                report(row, settle(row, facts, law, job, soft, softcap), job)
            i += blocks() * rows

    return kernel


# --- steps: of the slots a thread holds, and of those it brings anew --------------------------------------------------


@device
def load_held(j, done, held, slots, span, row, job, columns):
    load_slot(held, j, slot_class(j, slots, span), j == slots, span, row, job, columns)
    return done


@device
def load_spare(j, done, spare, c, span, row, job, columns):
    load_slot(spare, j, c + j * span.stride, False, span, row, job, columns)
    return done


@device
def load_again(j, done, spare, c, n, kept, span, row, job, columns):
    load_tail(spare, j, c + j * span.stride, n + j * job.plan.team, kept, span, row, job, columns)
    return done


@device
def renew_held(j, done, held):
    renew(held, 4 * j)
    return done


@device
def larger_held(j, top, held, p):
    return larger(top, held, j, p)


@device
def larger_spare(j, top, spare, c, n, kept, span, job):
    keep_tail(spare, j, c + j * span.stride, n + j * job.plan.team, kept, span, job)
    return larger(top, spare, j, job.logits.data)


@device
def read_held(j, sums, held, slots, placed, keep, how):
    c, stop = slot_class(j, slots, how.span), slot_stop(j, slots, how.span)
    return read_slot(held, j, c, stop, sums, placed, keep, how)


@device
def read_spare(j, sums, spare, c, placed, how):
    return read_slot(spare, j, c + j * how.span.stride, how.span.end, sums, placed, False, how)


@device
def write_held(j, done, spare, held, slots, keep, columns, write, outcome, how):
    c = slot_class(j, slots, how.span)
    write_slot(spare, held, j, c, j == slots, keep, columns, write, outcome, how)
    return done


@device
def write_slot(spare, held, j, c, ragged, keep, columns, write, outcome, how):
    job, span = how.job, how.span
    p = job.logits.data
    if write == HESSIAN:
        each_pair(p, write_hessian, 0, (spare, held, j, outcome, how))
        store_slot(job.hess, how.row.h, spare, 0, c, ragged, span, columns)
    if write == LOG_SOFTMAX:
        each_pair(p, write_log_softmax, 0, (held, j, outcome, how))
    else:
        each_pair(p, write_gradient, 0, (held, j, c, keep, outcome, how))
    store_slot(job.grad, how.row.g, held, j, c, ragged, span, columns)
