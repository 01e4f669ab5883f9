"""Rows whose classes lie side by side in memory: lanes run over the classes of one row.

A row is read from main memory once, in blocks that stay in the L1 cache: the block's largest logit, then its terms
e and their sum, relative to m, the largest u so far. Then the gradient is written once. Terms are kept for it
where they fit the caches, and computed again where they do not. Between the two, what there is once a row is worked out
for a group of rows at a time, and for rows that are gone through together m and what comes of it too. Rows of large
batches whose gradient is terms times a factor, minus what lies in memory, are written while the next group is read, so
that neither memory nor arithmetic waits, unless they are short.

Rows laid out in any other way are copied, one at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.ahead import ask_for_group, prefetch
from fastsce.backends.cpu.behind import middle_of, past_ignored, stream_edges_of, write_behind
from fastsce.backends.cpu.coefficients import (
    DISTANCE,
    LOG_S,
    MASS,
    PLACE,
    POWER,
    Q_K,
    REST,
    TIES,
    TOP_PLACE,
    X_K,
    X_TOP,
    M,
    begin,
    facts_at,
    frames_of,
    from_lse,
    note_frame,
    settle,
    takes,
)
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import address_of, at, fence, gather, load, moved, spare, store
from fastsce.backends.cpu.partial import load_part
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.passes import (
    Given,
    add_shares,
    clear,
    find,
    find_largest,
    find_tops,
    rebase,
    scale_terms,
    write_gradients,
    write_hessian,
    write_log_softmax,
)
from fastsce.backends.cpu.plan import GRADIENT, HESSIAN, IGNORED, LOG_SOFTMAX, NOTHING, job_of, softness
from fastsce.backends.cpu.reductions import largest, rows_largest, rows_sum, total
from fastsce.backends.cpu.room import (
    blocks_of,
    copies_start,
    copy,
    finish_row,
    folds_at,
    group_bytes,
    input_rows,
    notes_at,
    place_of,
    send_rows,
    terms_of,
)
from fastsce.backends.cpu.terms import (
    STRETCH,
    SUM_FAR,
    Rows,
    add_row,
    add_rows,
    at_row,
    notes_of,
    row,
    rows_at,
)
from fastsce.backends.cpu.tuning import AHEAD, BLOCK, LANES
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen


@kernel
def rows(logits, target, weight, row_scale, loss, lse, grad, hess, law, softcap, plan, memory):
    """Each part takes an equal share of the rows.

    logits, grad, hess, soft target: (A, B, C); loss, lse, labels: (A·B,); row_scale: of the same shape,
    or (1,) for all rows, and a factor; softcap may be None; memory as `threads.run` makes it.
    """
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return hand_out(share, plan.parts, memory, (job, softness(target), softcap))


class Group(NamedTuple):
    """Up to LANES rows of one block, n of them from row i on, and the memory for what is known of them."""

    i: Any
    n: Any
    scratch: Any


@device
def share(queue, scratch, job, soft, softcap):
    """Rows that are written behind others are so behind the next that this thread reads, of whatever part."""
    plan, length = job.plan, job.logits.shape[1]
    count = job.logits.shape[0] * length
    before = Group(0, 0, moved(scratch, group_bytes(job.logits.shape[2], plan) if plan.behind else 0))
    i, stop = next_share(queue, count, plan.parts)
    while i < stop or before.n > 0:
        n = min(plan.group, stop - i, length - place_of(i, job.logits)[1])  # of one block
        here, after, end, ahead = Group(i, n, scratch), i + n, stop, AHEAD
        if after == end:
            after, end = next_share(queue, count, plan.parts)
        if after < end:
            ahead = (address_of(row_at(after, job)) - address_of(row_at(i, job))) // job.logits.item
        read_group(here, before, ahead, job, soft, softcap)
        if plan.behind:
            scratch, before = before.scratch, here
        elif plan.write != NOTHING:
            write_group(here, job, soft, softcap)
        i, stop = after, end
    fence()


@device
def row_at(i, job):
    a, b = place_of(i, job.logits)
    return at(job.logits, a, b, 0)


@device
def read_group(here, before, ahead, job, soft, softcap):
    """Read all rows and work out their coefficients; meanwhile write those read before: a row's middle beside each
    row, a block after each block, and edges at the end. Of rows that go together, what comes `ahead` is asked for.
    """
    i, n, scratch = here
    facts, plan, classes = facts_at(scratch, job), job.plan, job.logits.shape[2]
    y = begin(i, n, 0, facts, job)
    ask_for_group(job, i)
    if plan.together and n > 0:
        read_together(i, n, y, facts, before, ahead, job, soft, softcap, scratch)
    else:
        for r in range(max(n, before.n)):
            if r < n and facts.places[PLACE + r] != IGNORED:
                read_row(i + r, r, facts, before, job, soft, softcap, scratch)
            elif r < before.n:
                write_behind(before, r, 1, 0, classes, False, job, soft, softcap)
    settle(i, n, facts, job, soft, softcap)
    if plan.keep and classes > BLOCK:
        for r in range(n):
            if facts.places[PLACE + r] != IGNORED:
                m = load(facts.numbers, M + r, 0)
                rebase(terms_of(r, job, scratch).data, blocks_of(r, job, scratch), classes, m, job.law)


# --- the pass that reads ----------------------------------------------------------------------------------------------


@device
def read_together(i, n, y, facts, before, ahead, job, soft, softcap, scratch):
    """Up to LANES rows: what there is once a row is worked out for all of them at once."""
    law, f, classes = job.law, facts.numbers, job.logits.shape[2]
    x, q, soon = input_rows(i, job, soft, scratch)
    if soft is None:
        labels = maths.where(y < 0, 0, y) + lane_numbers(LANES) * (x.step // job.logits.item)
        x_k = gather(x.data, maths.where(lane_numbers(LANES) < n, labels, 0))
        store(f, X_K, x_k)
    if from_lse(job, soft):
        store(f, X_TOP, load(f, X_K, LANES))  # any logit will do
        m = narrow(load_part(job.lse, i, n, 0.0, LANES) / law.gain, load(f, X_K, LANES))
        note_frame(f, m, load(f, POWER, LANES), law)
    else:
        numbers, sums, more = folds_at(scratch, job)
        notes = notes_at(scratch, job)
        x_top = splat(narrow(-np.inf, load(f, X_TOP, 0)), LANES)
        for start in range(0, classes, STRETCH):
            find_largest(
                Rows(moved(x.data, start), x.step), n, min(STRETCH, classes - start), facts.places, notes.tail, numbers
            )
            top = rows_largest(numbers)
            store(notes.tops, start // STRETCH * LANES, top)
            x_top = maths.maximum(top, x_top)
        store(f, X_TOP, x_top)
        note_frame(f, maths.unit(x_top, law.inner, softcap), load(f, POWER, LANES), law)
        if job.plan.behind:
            add_behind(x, soon, n, facts, notes, before, ahead, job, soft, softcap, scratch)
        else:
            t = terms_of(0, job, scratch)
            add_rows(x, t, soon, n, classes, ahead, f, facts.places, notes, job, job.labels, soft, softcap)
        store(facts.sums, REST, rows_sum(notes.sums))
        store(facts.sums, TIES, widen(rows_sum(notes.counts)))
        if soft is not None:
            add_shares(x, q, job.weight, n, classes, f, sums, more, job, softcap)
            store(facts.sums, MASS, rows_sum(sums))
            store(facts.sums, DISTANCE, rows_sum(more))
        elif law.off > 0.0:  # whose mass is known
            about, mass, far = frames_of(f), splat(law.total, LANES), rows_sum(moved(notes.sums, SUM_FAR))
            store(facts.sums, DISTANCE, frame.distance_to(load(f, M, LANES), about, far, mass, law))
    if soft is not None or job.plan.write == HESSIAN:
        for r in range(n):
            note_largest(row(x, r), row(q, r), classes, load(f, X_TOP + r, 0), r, facts, soft)


@device
def add_behind(x, soon, n, facts, notes, before, ahead, job, soft, softcap, scratch):
    """The terms of rows, and meanwhile those read before, one after the other."""
    f, places, classes = facts.numbers, facts.places, job.logits.shape[2]
    t, written = terms_of(0, job, scratch), 0
    for r in range(n):
        if places[PLACE + r] == IGNORED:
            continue
        written = past_ignored(before, written, job)
        meanwhile = middle_of(before, written, 0, job, soft, t.data, row(x, r))
        written += 1 if meanwhile.stop > 0 else 0
        here, there, later, f_r, notes_r = row(x, r), row(t, r), row(soon, r), moved(f, r), notes_of(r, notes)
        how = (job, job.labels, soft, softcap, meanwhile)
        add_row(here, there, later, job.weight, classes, ahead, f_r, notes_r, *how)
    if written > 0:
        stream_edges_of(before, written, job, soft)
    if written < before.n:
        write_behind(before, written, before.n - written, 0, classes, False, job, soft, softcap)


@device
def read_row(i, r, facts, before, job, soft, softcap, scratch):
    plan, classes, f = job.plan, job.logits.shape[2], facts.numbers
    x, q, soon = input_rows(i, job, soft, scratch)
    if plan.stream:  # its ends go through the caches
        a, b = place_of(i, job.grad)
        prefetch(at(job.grad, a, b, 0), 0, LANES)
        prefetch(at(job.grad, a, b, 0), classes - 1, LANES)
    x_top, rest, ties, mass, distance = load(x.data, 0, 0), 0.0, 1.0, 0.0, 0.0
    if from_lse(job, soft):
        m = narrow(load(job.lse, i, 0) / job.law.gain, x_top)
        note_frame(moved(f, r), m, load(f, POWER + r, 0), job.law)
    else:
        x_top, rest, ties, mass, distance = statistics(
            r, x.data, q.data, soon, facts, before, job, soft, softcap, scratch
        )
    if soft is None:
        store(f, X_K + r, load(x.data, max(facts.places[PLACE + r], 0), 0))
    if soft is not None or plan.write == HESSIAN:
        note_largest(x.data, q.data, classes, x_top, r, facts, soft)
    store(f, X_TOP + r, x_top)
    store(facts.sums, REST + r, rest)
    store(facts.sums, TIES + r, ties)
    store(facts.sums, MASS + r, mass)
    store(facts.sums, DISTANCE + r, distance)


@device
def note_largest(x, q, classes, x_top, r, facts, soft):
    """Where the largest logit of a row is. It stands for the label where the target is soft."""
    k = max(find(x, classes, x_top), 0)
    store(facts.places, TOP_PLACE + r, k)
    if soft is not None:
        store(facts.places, PLACE + r, k)
        store(facts.numbers, X_K + r, load(x, k, 0))
        store(facts.numbers, Q_K + r, load(q, k, 0))


@device
def statistics(r, x, q, soon, facts, before, job, soft, softcap, scratch):
    """Of a row: the largest logit, and the sums of `Facts`. The terms are left where `terms_of` says, relative to the
    largest u so far, which is noted in `blocks` for each.
    """
    law, plan, classes, f = job.law, job.plan, job.logits.shape[2], moved(facts.numbers, r)
    (_, sums, more), notes = folds_at(scratch, job), notes_at(scratch, job)
    t, blocks, power = terms_of(r, job, scratch).data, blocks_of(r, job, scratch), load(f, POWER, 0)
    x_top = narrow(-np.inf, load(x, 0, 0))
    m, rest = x_top, splat(0.0, LANES)
    ties, mass, distance = rest, rest, rest
    for start in range(0, classes, BLOCK):
        n = min(BLOCK, classes - start)
        block, shares = Rows(moved(x, start), 0), Rows(moved(q, start), 0)
        edge = find_tops(block.data, n, notes.tail, notes.tops)
        if edge > x_top:
            old, m = m, one_unit(edge, law, softcap)
            if x_top > -np.inf:
                ties = ties * frame.wide_term(widen(old), frame.about(m, power, law), law)
                rest = rest * frame.rebased(old, m, law) + ties
                distance = distance + mass * ((widen(m) - widen(old)) * law.gain)
            x_top, ties = edge, ties * 0.0
        else:
            edge = narrow(np.inf, x_top)  # no term of this block is kept out of its sum
        store(blocks, start // BLOCK, widen(m))
        store(f, X_TOP, edge)
        note_frame(f, m, power, law)
        here, later = moved(t, start if plan.keep else 0), moved(soon.data, start)
        meanwhile = middle_of(before, r, start, job, soft, t, block.data)
        w, how = moved(job.weight, start), (job, job.labels, soft, softcap, meanwhile)
        add_row(block.data, here, later, w, n, max(AHEAD, n), f, notes, *how)
        rest, ties = rest + load(notes.sums, 0, LANES), ties + widen(load(notes.counts, 0, LANES))
        if soft is not None:
            add_shares(block, shares, w, 1, n, f, sums, more, job, softcap)
            mass, distance = mass + load(sums, 0, LANES), distance + load(more, 0, LANES)
        elif law.off > 0.0:
            far, some = load(notes.sums, SUM_FAR, LANES), mass_of(start, job)
            mass = mass + some
            distance = distance + frame.distance_to(load(f, M, 0), at_row(f, 0), far, some, law)
        if r < before.n:
            write_behind(before, r, 1, start, start + n, meanwhile.stop > 0, job, soft, softcap)
    return x_top, total(rest), total(ties), total(mass), total(distance)


@device
def mass_of(start, job):
    """Σ w of a block, a share of it in every lane."""
    classes = job.logits.shape[2]
    if classes <= BLOCK:
        return splat(job.law.total / LANES, LANES)
    return splat(widen(load(job.weight, classes + start // BLOCK, 0)) * (BLOCK / LANES), LANES)


@device
def one_unit(x, law, softcap):
    """u of one number, the same that the vectors have."""
    return largest(maths.unit(splat(x, 1), law.inner, softcap))


# --- the pass that writes ---------------------------------------------------------------------------------------------


@device
def write_group(group, job, soft, softcap):
    """Write rows that have been read: short ones all at once, those for the desk as many as it takes."""
    plan = job.plan
    together = plan.together and plan.write == GRADIENT and not plan.copies
    some = max(plan.desk, group.n if together else 1)
    for r in range(0, group.n, some):
        write_rows(group, r, min(some, group.n - r), job, soft, softcap)


@device
def write_rows(group, r, n, job, soft, softcap):
    """n rows of a group, from row r on; one, where there is more to it than a gradient."""
    scratch, facts = group.scratch, facts_at(group.scratch, job)
    plan, classes, f = job.plan, job.logits.shape[2], moved(facts.numbers, r)
    a, b = place_of(group.i + r, job.logits)
    places, t, blocks = moved(facts.places, r), terms_of(r, job, scratch), blocks_of(r, job, scratch)
    x, q = rows_at(job.logits, a, b), rows_at(job.soft, a, b)
    g, h = rows_at(job.grad, a, b), at(job.hess, a, b, 0)
    if plan.desk > 0:
        g = Rows(spare(scratch, copies_start(classes, plan), job.grad.data), classes * job.grad.item)
    if plan.copies:  # x and q were made by input_rows
        x, q = Rows(copy(0, x.data, job, scratch), 0), Rows(copy(1, q.data, job, scratch), 0)
        g, h = Rows(copy(2, g.data, job, scratch), 0), copy(3, h, job, scratch)
    m = load(f, M, 0)
    if plan.write == HESSIAN:
        if places[PLACE] == IGNORED:
            clear(h, classes, m)
        else:
            write_hessian(t.data, blocks, h, classes, f, places[TOP_PLACE], plan.stream)
        finish_row(job.hess, a, b, h, plan)
    if plan.write == LOG_SOFTMAX:
        write_log_softmax(x.data, g.data, classes, m, load(f, LOG_S, 0), plan.stream)
    elif not takes(job.law, soft) and plan.keep and (classes <= BLOCK or not plan.stream):
        scale_terms(t, blocks, g, n, classes, f, places, plan.stream)
    else:
        how = (False, classes, f, places, job.law, soft, softcap, plan.stream)
        write_gradients(Given(x, q, job.weight, t, plan.keep), blocks, g, n, 0, classes, *how)
    finish_row(job.grad, a, b, g.data, plan)
    if plan.desk > 0:
        send_rows(group.i + r, n, job, scratch)
