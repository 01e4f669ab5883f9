"""Rows whose classes lie side by side in memory: lanes run over the classes of one row.

A row is read from main memory once, in blocks that stay in the L1 cache: the block's largest logit, then its terms
e = exp(z − m) and their sum, where m is the largest z so far. Then the gradient is written once. Terms are kept for it
where they fit the caches, and computed again where they do not. Between the two, what there is once a row is worked out
for a group of rows at a time; where rows have one block of at most TOGETHER classes, m and what comes of it too.

Rows laid out in any other way are copied, one at a time.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.ahead import prefetch
from fastsce.backends.cpu.coefficients import (
    BEND,
    CURVE,
    DISTANCE,
    FACTS_BYTES,
    LIFT,
    LOG_S,
    MASS,
    OFFSET,
    PLACE,
    POWER,
    Q_K,
    REST,
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
from fastsce.backends.cpu.memory import at, fence, gather, load, moved, spare, store, workspace
from fastsce.backends.cpu.parts import hand_out
from fastsce.backends.cpu.passes import (
    Rows,
    add_shares,
    add_terms,
    clear,
    find,
    find_largest,
    rebase,
    row,
    write_gradients,
    write_hessian,
    write_log_softmax,
)
from fastsce.backends.cpu.plan import GRADIENT, HESSIAN, IGNORED, LOG_SOFTMAX, NOTHING, job_of, softness
from fastsce.backends.cpu.reductions import largest, rows_largest, rows_sum, total
from fastsce.backends.cpu.tiles import send
from fastsce.backends.cpu.tuning import BLOCK, DESK_CLASSES, GROUP_CLASSES, LANES, TOGETHER
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen

FOLD_BYTES = 2 * 8 * LANES * LANES + 64


def group_rows(classes, copies):
    """How many rows are worked on together."""
    return 1 if copies else max(1, min(LANES, GROUP_CLASSES // classes))


def desk_rows(classes):
    """How many rows are put together before they are streamed, so that lines which two of them share leave whole."""
    return LANES if classes <= TOGETHER else DESK_CLASSES // classes


def scratch_bytes(classes, plan):
    """Facts of a group, folds, its rows' terms and the m of their blocks; copies of rows, or rows at the desk."""
    copies = 4 * slot_bytes(classes) if plan.copies else slot_bytes(plan.desk * classes)
    return copies_start(classes, plan) + copies


@device
def copies_start(classes, plan):
    return FACTS_BYTES + FOLD_BYTES + kept_rows(plan.group, plan.keep) * row_bytes(classes, plan.keep)


@device
def slot_bytes(classes):
    return 8 * (classes + LANES) + 64


@device
def kept_rows(group, keep):
    """Rows whose terms stay until they are written; those of the others take each other's place, in L1."""
    return group if keep else 1


@device
def row_bytes(classes, keep):
    """Of one row's terms and the m of its blocks: whole cache lines, so that all rows begin with one."""
    return (slot_bytes(classes if keep else BLOCK) + 8 * (classes // BLOCK + 1) + 127) // 64 * 64


@kernel
def rows(logits, target, weight, row_scale, loss, lse, grad, hess, law, softcap, plan, memory):
    """Each part takes an equal share of the rows.

    logits, grad, hess, soft target: (A, B, C); loss, lse, labels: (A·B,); row_scale likewise, or (1,) for all rows;
    softcap may be None; memory as `threads.run` makes it.
    """
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return hand_out(share, plan.parts, memory, (job, softness(target), softcap))


@device
def share(part, scratch, job, soft, softcap):
    blocks, length = job.logits.shape[0], job.logits.shape[1]
    i, stop = part * blocks * length // job.plan.parts, (part + 1) * blocks * length // job.plan.parts
    while i < stop:
        n = min(job.plan.group, stop - i, length - place_of(i, job.logits)[1])  # of one block
        some_rows(i, n, job, soft, softcap, scratch)
        i += n
    fence()


@device
def some_rows(i, n, job, soft, softcap, scratch):
    """Rows i … i + n, up to LANES of one block: read all, work out their coefficients, write all."""
    facts, plan, together = facts_at(scratch, job), job.plan, job.logits.shape[2] <= TOGETHER
    y = begin(i, n, 0, facts, job)
    if together:
        read_together(i, n, y, facts, job, soft, softcap, scratch)
    else:
        for r in range(n):
            read_row(i + r, r, facts, job, soft, softcap, scratch)
    settle(i, n, facts, job, soft, softcap)
    if plan.write != NOTHING:
        at_once = max(plan.desk, n if together and plan.write == GRADIENT and not plan.copies else 1)
        for first in range(0, n, at_once):
            few = min(at_once, n - first)
            write_rows(i + first, few, first, facts, job, soft, softcap, scratch)
            if plan.desk > 0:
                send_rows(i + first, few, job, scratch)


# --- the pass that reads ----------------------------------------------------------------------------------------------


@device
def read_together(i, n, y, facts, job, soft, softcap, scratch):
    """Rows of up to TOGETHER classes: what there is once a row is worked out for all of them at once."""
    law, f, classes, places = job.law, facts.numbers, job.logits.shape[2], facts.places
    x, q, soon = input_rows(i, job, soft, scratch)
    if soft is None:
        labels = maths.where(y < 0, 0, y) + lane_numbers(LANES) * (x.step // job.logits.item)
        x_k = gather(x.data, maths.where(lane_numbers(LANES) < n, labels, 0))
        store(f, X_K, x_k)
        store(f, X_TOP, x_k)  # any logit will do where lse is given
    if soft is not None or not job.plan.saved:
        numbers, sums, more = folds_at(scratch, job)
        find_largest(x, n, classes, places, numbers)
        x_top = rows_largest(numbers)
        m = shift(i, n, x_top, job, softcap)
        store(f, X_TOP, x_top)
        note_offset(f, maths.where(m == -np.inf, 0.0, m), load(f, POWER, LANES), law)  # −∞ − (−∞) would be NaN
        counts = numbers_of(more, x.data)
        add_terms(x, terms_of(0, job, scratch), soon, n, classes, f, places, sums, counts, law, softcap)
        store(facts.sums, REST, rows_sum(sums))
        store(facts.sums, TIES, widen(rows_sum(counts)))
        if soft is not None or law.off > 0.0:
            add_shares(x, q, job.weight, n, classes, f, places, sums, more, law, soft, softcap)
            store(facts.sums, MASS, rows_sum(sums))
            store(facts.sums, DISTANCE, rows_sum(more))
    if soft is not None or job.plan.write == HESSIAN:
        for r in range(n):
            note_largest(row(x, r), row(q, r), classes, load(f, X_TOP + r, 0), r, facts, soft)


@device
def note_offset(f, m, power, law):
    """From m, what the loop over the terms is told."""
    store(f, M, m)
    store(f, LIFT, power - maths.octaves(m, law.near))
    store(f, OFFSET, maths.offset(m, law.near))


@device
def read_row(i, r, facts, job, soft, softcap, scratch):
    plan, classes, f = job.plan, job.logits.shape[2], facts.numbers
    k = facts.places[PLACE + r]
    if k == IGNORED:
        return
    x, q, soon = input_rows(i, job, soft, scratch)
    if plan.stream:  # its ends go through the caches
        a, b = place_of(i, job.grad)
        prefetch(at(job.grad, a, b, 0), 0, LANES)
        prefetch(at(job.grad, a, b, 0), classes - 1, LANES)
    x_top, rest, ties, mass, distance = load(x.data, 0, 0), 0.0, 1.0, 0.0, 0.0
    if soft is not None or not plan.saved:
        x_top, rest, ties, mass, distance = statistics(r, x.data, q.data, soon, facts, job, soft, softcap, scratch)
    if soft is None:
        store(f, X_K + r, load(x.data, max(k, 0), 0))
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
def statistics(r, x, q, soon, facts, job, soft, softcap, scratch):
    """Of a row: the largest logit, and the sums of `Facts`. The terms are left where `terms_of` says, relative to the
    largest z so far, which is noted in `maxima` for each block.
    """
    law, plan, classes, f = job.law, job.plan, job.logits.shape[2], moved(facts.numbers, r)
    (numbers, sums, more), place = folds_at(scratch, job), moved(facts.places, r)
    counts = numbers_of(more, x)
    t, maxima, power = terms_of(r, job, scratch).data, maxima_of(r, job, scratch), load(f, POWER, 0)
    x_top = narrow(-np.inf, load(x, 0, 0))
    m, rest = x_top, splat(0.0, LANES)
    ties, mass, distance = rest, rest, rest
    for start in range(0, classes, BLOCK):
        n = min(BLOCK, classes - start)
        block, shares = Rows(moved(x, start), 0), Rows(moved(q, start), 0)
        find_largest(block, 1, n, place, numbers)
        edge = largest(load(numbers, 0, LANES))
        if edge > x_top:
            before, m = m, narrow(one_logit(edge, law, softcap), x_top)
            if x_top > -np.inf:
                ties = ties * maths.relative(one_logit(x_top, law, softcap), m, np.float64(power), law.near)
                rest = rest * maths.rebased(before, m, law.near) + ties
                distance = distance + mass * (np.float64(m) - np.float64(before))
            x_top, ties = edge, ties * 0.0
        else:
            edge = narrow(np.inf, x_top)  # no term of this block is kept out of its sum
        store(maxima, start // BLOCK, m)
        safe = narrow(0.0, m) if m == -np.inf else m  # −∞ − (−∞) would be NaN
        store(f, X_TOP, edge)
        note_offset(f, safe, power, law)
        here = Rows(moved(t, start if plan.keep else 0), 0)
        later = Rows(moved(soon.data, start), 0)
        add_terms(block, here, later, 1, n, f, place, sums, counts, law, softcap)
        rest, ties = rest + load(sums, 0, LANES), ties + widen(load(counts, 0, LANES))
        if soft is not None or law.off > 0.0:
            weight = moved(job.weight, start)
            add_shares(block, shares, weight, 1, n, f, place, sums, more, law, soft, softcap)
            mass, distance = mass + load(sums, 0, LANES), distance + load(more, 0, LANES)
    return x_top, total(rest), total(ties), total(mass), total(distance)


@device
def one_logit(x, law, softcap):
    """z of one number, from the same u that the vectors have."""
    return largest(maths.logit(splat(x, 1), law, softcap))


# --- the pass that writes ---------------------------------------------------------------------------------------------


@device
def write_rows(i, n, r, facts, job, soft, softcap, scratch):
    """n rows, the first of which is row r of its group; one, where there is more to it than a gradient."""
    law, plan, classes, f = job.law, job.plan, job.logits.shape[2], moved(facts.numbers, r)
    a, b = place_of(i, job.logits)
    places, t, maxima = moved(facts.places, r), terms_of(r, job, scratch), maxima_of(r, job, scratch)
    x, q = Rows(at(job.logits, a, b, 0), job.logits.strides[1]), Rows(at(job.soft, a, b, 0), job.soft.strides[1])
    g, h = Rows(at(job.grad, a, b, 0), job.grad.strides[1]), at(job.hess, a, b, 0)
    if plan.desk > 0:
        g = Rows(spare(scratch, copies_start(classes, plan), job.grad.data), classes * job.grad.item)
    if plan.copies:  # x and q were made by input_rows
        x, q = Rows(copy(0, x.data, job, scratch), 0), Rows(copy(1, q.data, job, scratch), 0)
        g, h = Rows(copy(2, g.data, job, scratch), 0), copy(3, h, job, scratch)
    m = load(f, M, 0)
    if plan.keep and classes > BLOCK:
        rebase(t.data, maxima, classes, m, law.near)
    if plan.write == HESSIAN:
        if places[PLACE] == IGNORED:
            clear(h, classes, m)
        else:
            to_p, curve = load(f, TO_P, 0), load(f, CURVE, 0)
            write_hessian(t.data, maxima, h, classes, m, to_p, curve, law.near)
            store(h, places[TOP_PLACE], load(f, BEND, 0))
        finish_row(job.hess, a, b, h, plan)
    if plan.write == LOG_SOFTMAX:
        write_log_softmax(x.data, g.data, classes, m, load(f, LOG_S, 0))
    else:
        write_gradients(
            x, q, job.weight, t, maxima, g, n, classes, f, places, law, soft, softcap, plan.keep, plan.stream
        )
    finish_row(job.grad, a, b, g.data, plan)


# --- rows where they lie, or copies of them ---------------------------------------------------------------------------


@device
def place_of(i, v):
    """Row i of a view; a division takes longer than a short row."""
    return (0, i) if v.shape[0] == 1 else (i // v.shape[1], i % v.shape[1])


@device
def folds_at(scratch, job):
    """For LANES rows, LANES numbers each that are to be folded into one: in the place of one another, and float64."""
    sums = workspace(scratch, FACTS_BYTES, job.lse)
    return numbers_of(sums, job.logits.data), sums, moved(sums, LANES * LANES)


@device
def numbers_of(sums, like):
    """The same memory, for numbers of the working precision."""
    return workspace(sums, 0, like)


@device
def terms_of(r, job, scratch):
    """The terms of rows from row r of a group on."""
    plan, classes = job.plan, job.logits.shape[2]
    size = row_bytes(classes, plan.keep)
    start = FACTS_BYTES + FOLD_BYTES + (r if plan.keep else 0) * size
    return Rows(workspace(scratch, start, job.logits.data), size if plan.keep else 0)


@device
def maxima_of(r, job, scratch):
    """The m of the blocks of row r."""
    plan, classes = job.plan, job.logits.shape[2]
    start = FACTS_BYTES + FOLD_BYTES + (r if plan.keep else 0) * row_bytes(classes, plan.keep)
    return workspace(scratch, start + slot_bytes(classes if plan.keep else BLOCK), job.logits.data)


@device
def input_rows(i, job, soft, scratch):
    """Logits and soft target of rows from row i on, and what should be in the caches when it is written."""
    plan = job.plan
    a, b = place_of(i, job.logits)
    x, q = Rows(at(job.logits, a, b, 0), job.logits.strides[1]), Rows(at(job.soft, a, b, 0), job.soft.strides[1])
    soon = Rows(at(job.grad, a, b, 0), job.grad.strides[1])
    if plan.write == NOTHING or plan.stream or plan.copies or plan.desk > 0:
        soon = x
    if plan.copies:
        x = Rows(copied(job.logits, a, b, copy(0, x.data, job, scratch)), 0)
        if soft is not None:
            q = Rows(copied(job.soft, a, b, copy(1, q.data, job, scratch)), 0)
    return x, q, soon


@device
def copy(number, like, job, scratch):
    """Where one of a row's four copies is."""
    classes = job.logits.shape[2]
    return spare(scratch, copies_start(classes, job.plan) + number * slot_bytes(classes), like)


@device
def copied(v, a, b, p):
    for c in range(v.shape[2]):
        p[c] = at(v, a, b, c)[0]
    return p


@device
def finish_row(v, a, b, p, plan):
    if plan.copies:
        for c in range(v.shape[2]):
            at(v, a, b, c)[0] = p[c]


@device
def send_rows(i, n, job, scratch):
    """n rows from i on leave the desk."""
    classes = job.logits.shape[2]
    a, b = place_of(i, job.grad)
    desk = spare(scratch, copies_start(classes, job.plan), job.grad.data)
    send(desk, at(job.grad, a, b, 0), n * classes, job.grad.item, True)
