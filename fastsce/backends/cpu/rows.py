"""Rows whose classes lie side by side in memory: lanes run over the classes of one row.

A row is read from main memory once, in blocks that stay in the L1 cache: the block's largest logit, then its terms
e = exp(z − m) and their sum, where m is the largest z so far. Then the gradient is written once. Terms are kept for it
where they fit the caches, and computed again where they do not. Between the two, what there is once a row is worked out
for a group of rows at a time.

Rows laid out in any other way are copied, one at a time.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.ahead import Lines
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
)
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import (
    at,
    fence,
    load,
    moved,
    spare,
    store,
    store_part,
    workspace,
)
from fastsce.backends.cpu.parts import hand_out
from fastsce.backends.cpu.passes import (
    ask_ordinary,
    block_largest,
    find,
    rebase,
    terms,
    weigh,
    write_gradient,
    write_hessian,
    write_log_softmax,
)
from fastsce.backends.cpu.plan import (
    GRADIENT,
    HESSIAN,
    IGNORED,
    LOG_SOFTMAX,
    NOTHING,
    job_of,
    softness,
)
from fastsce.backends.cpu.reductions import largest, total
from fastsce.backends.cpu.tiles import send
from fastsce.backends.cpu.together import FOLD_BYTES, Rows, read_together, row, write_together
from fastsce.backends.cpu.tuning import BLOCK, DESK_CLASSES, GROUP, GROUP_CLASSES, LANES, TOGETHER, WIDE
from fastsce.backends.cpu.vectors import narrow, splat


def group_rows(classes, copies):
    """How many rows are worked on together."""
    return 1 if copies else max(1, min(GROUP, GROUP_CLASSES // classes))


def desk_rows(classes):
    """How many rows are put together before they are streamed, so that lines which two of them share leave whole."""
    return DESK_CLASSES // classes


def scratch_bytes(classes, plan):
    """Facts of a group, folds, its rows' terms and the m of their blocks; copies of rows, or rows at the desk."""
    copies = 4 * slot_bytes(classes) if plan.copies else slot_bytes(plan.desk * classes)
    return copies_start(classes, plan) + copies


@device
def copies_start(classes, plan):
    return FACTS_BYTES + FOLD_BYTES + kept_rows(plan.group, plan.keep) * row_bytes(classes, plan.keep)


@device
def slot_bytes(classes):
    return 8 * (classes + WIDE) + 64


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
    """Rows i … i + n: read all, work out their coefficients, write all."""
    facts, plan = facts_at(scratch, job), job.plan
    together = job.logits.shape[2] <= TOGETHER
    for lane in range(0, n, LANES):
        few = min(LANES, n - lane)
        y = begin(i + lane, few, lane, facts, job)
        if together:
            read_few(i + lane, few, y, lane, facts, job, soft, softcap, scratch)
    if not together:
        for r in range(n):
            read_row(i + r, r, facts, job, soft, softcap, scratch)
    settle(i, n, facts, job, soft, softcap)
    if plan.write != NOTHING:
        at_once = plan.desk if plan.desk > 0 else n
        for first in range(0, n, at_once):
            stop = min(first + at_once, n)
            if together and plan.write == GRADIENT and not plan.stream and not plan.copies:
                write_few(i + first, stop - first, first, facts, job, soft, softcap, scratch)
            else:
                for r in range(first, stop):
                    write_row(i + r, r, r - first, facts, job, soft, softcap, scratch)
            if plan.desk > 0:
                send_rows(i + first, stop - first, job, scratch)


# --- the pass that reads ----------------------------------------------------------------------------------------------


@device
def read_few(i, n, y, lane, facts, job, soft, softcap, scratch):
    plan, classes = job.plan, job.logits.shape[2]
    a, b = place_of(i, job.logits)
    copies = copies_start(classes, plan)
    x = Rows(input_row(job.logits, a, b, scratch, copies, plan.copies), job.logits.strides[1])
    second = copies + slot_bytes(classes)
    q = Rows(input_row(job.soft, a, b, scratch, second, plan.copies and soft is not None), job.soft.strides[1])
    soon = Rows(grad_row(a, b, job).start, job.grad.strides[1])
    folds = moved(scratch, FACTS_BYTES)
    read_together(i, n, y, lane, x, q, terms_at(lane, job, scratch), soon, facts, job, soft, softcap, folds)
    if soft is not None or plan.write == HESSIAN:
        for r in range(n):
            x_top = load(facts.numbers, X_TOP + lane + r, 0)
            note_places(row(x, r), row(q, r), classes, x_top, lane + r, facts, soft)


@device
def read_row(i, r, facts, job, soft, softcap, scratch):
    law, plan, classes = job.law, job.plan, job.logits.shape[2]
    a, b = place_of(i, job.logits)
    k = facts.places[PLACE + r]
    if k == IGNORED:
        return
    t, maxima, copies = row_scratch(r, classes, plan, scratch, job)
    x = input_row(job.logits, a, b, scratch, copies, plan.copies)
    q = input_row(job.soft, a, b, scratch, copies + slot_bytes(classes), plan.copies and soft is not None)
    ask_ordinary(at(job.grad, a, b, 0), classes, k, plan)
    x_top, rest, ties, mass, distance = load(x, 0, 0), 0.0, 1.0, 0.0, 0.0
    if soft is not None or not plan.saved:
        power = load(facts.numbers, POWER + r, 0)
        x_top, rest, ties, mass, distance = statistics(
            x, q, job.weight, t, maxima, grad_row(a, b, job), classes, plan.keep, power, law, soft, softcap
        )
    if soft is None:
        store(facts.numbers, X_K + r, load(x, max(k, 0), 0))
    if soft is not None or plan.write == HESSIAN:
        note_places(x, q, classes, x_top, r, facts, soft)
    store(facts.numbers, X_TOP + r, x_top)
    store(facts.sums, REST + r, rest)
    store(facts.sums, TIES + r, ties)
    store(facts.sums, MASS + r, mass)
    store(facts.sums, DISTANCE + r, distance)


@device
def note_places(x, q, classes, x_top, r, facts, soft):
    """Where the largest logit of a row is, which stands for the label where the target is soft."""
    k = max(find(x, classes, x_top), 0)
    store(facts.places, TOP_PLACE + r, k)
    if soft is not None:
        store(facts.places, PLACE + r, k)
        store(facts.numbers, X_K + r, load(x, k, 0))
        store(facts.numbers, Q_K + r, load(q, k, 0))


@device
def statistics(x, q, w, t, maxima, soon, classes, keep, power, law, soft, softcap):
    """Of a row: the largest logit, and the sums of `Facts`. The terms are left in t, relative to the largest z so far,
    which is noted in `maxima` for each block.
    """
    x_top = narrow(-np.inf, load(x, 0, 0))
    m, rest = x_top, splat(0.0, LANES)
    ties, mass, distance = rest, rest, rest
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        edge = block_largest(x, start, stop)
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
        here = moved(t, 0 if keep else -start)
        rest, ties = terms(x, here, soon, start, stop, safe, edge, power, rest, ties, law, softcap)
        if soft is not None or law.off > 0.0:
            mass, distance = weigh(x, q, w, start, stop, safe, mass, distance, law, soft, softcap)
    return x_top, total(rest), total(ties), total(mass), total(distance)


@device
def one_logit(x, law, softcap):
    """z of one number, from the same u that the vectors have."""
    return largest(maths.logit(splat(x, 1), law, softcap))


# --- the pass that writes ---------------------------------------------------------------------------------------------


@device
def write_few(i, n, lane, facts, job, soft, softcap, scratch):
    plan, classes = job.plan, job.logits.shape[2]
    a, b = place_of(i, job.logits)
    x, q = Rows(at(job.logits, a, b, 0), job.logits.strides[1]), Rows(at(job.soft, a, b, 0), job.soft.strides[1])
    g = Rows(at(job.grad, a, b, 0), job.grad.strides[1])
    if plan.desk > 0:
        g = Rows(spare(scratch, copies_start(classes, plan), job.grad.data), classes * job.grad.item)
    t, f, places = terms_at(lane, job, scratch), moved(facts.numbers, lane), moved(facts.places, lane)
    write_together(x, q, job.weight, t, g, n, classes, f, places, job.law, soft, softcap)


@device
def write_row(i, r, place_at_desk, facts, job, soft, softcap, scratch):
    law, plan, classes, f = job.law, job.plan, job.logits.shape[2], facts.numbers
    a, b = place_of(i, job.logits)
    place = facts.places[PLACE + r]
    t, maxima, copies = row_scratch(r, classes, plan, scratch, job)
    g = output_row(job.grad, a, b, scratch, copies + 2 * slot_bytes(classes), plan)
    h = output_row(job.hess, a, b, scratch, copies + 3 * slot_bytes(classes), plan)
    if plan.desk > 0:
        g = moved(spare(scratch, copies, job.grad.data), place_at_desk * classes)
    if place == IGNORED:
        clear(g, classes, load(f, M + r, 0))
        finish_row(job.grad, a, b, g, plan)
        if plan.write == HESSIAN:
            clear(h, classes, load(f, M + r, 0))
            finish_row(job.hess, a, b, h, plan)
        return
    x = at(job.logits, a, b, 0)
    q = at(job.soft, a, b, 0)
    if plan.copies:  # made by read_row
        x, q = spare(scratch, copies, job.logits.data), spare(scratch, copies + slot_bytes(classes), job.soft.data)
    m = load(f, M + r, 0)
    if plan.write == LOG_SOFTMAX:
        write_log_softmax(x, g, classes, m, load(f, LOG_S + r, 0))
        finish_row(job.grad, a, b, g, plan)
        return
    if plan.keep and classes > BLOCK:
        rebase(t, maxima, classes, m, law.near)
    power = load(f, POWER + r, 0)
    if plan.write == HESSIAN:
        to_p, curve = load(f, TO_P + r, 0), load(f, CURVE + r, 0)
        write_hessian(t, maxima, h, classes, m, to_p, curve, law.near)
        store(h, facts.places[TOP_PLACE + r], load(f, BEND + r, 0))
        finish_row(job.hess, a, b, h, plan)
    push, pull = load(f, PUSH + r, 0), load(f, PULL + r, 0)
    write_gradient(x, q, job.weight, t, maxima, g, classes, m, power, push, pull, place, law, soft, softcap, plan)
    if place >= 0:
        store(g, place, load(f, SPECIAL + r, 0))
    finish_row(job.grad, a, b, g, plan)


# --- rows where they lie, or copies of them ---------------------------------------------------------------------------


@device
def place_of(i, v):
    """Row i of a view; a division takes longer than a short row."""
    return (0, i) if v.shape[0] == 1 else (i // v.shape[1], i % v.shape[1])


@device
def row_scratch(r, classes, plan, scratch, job):
    """Of row r of a group: its terms, the m of its blocks; and where copies begin."""
    start = FACTS_BYTES + FOLD_BYTES + (r if plan.keep else 0) * row_bytes(classes, plan.keep)
    terms_end = start + slot_bytes(classes if plan.keep else BLOCK)
    terms, maxima = workspace(scratch, start, job.logits.data), workspace(scratch, terms_end, job.logits.data)
    return terms, maxima, copies_start(classes, plan)


@device
def terms_at(r, job, scratch):
    """The terms of rows from row r of a group on."""
    plan, classes = job.plan, job.logits.shape[2]
    return Rows(row_scratch(r, classes, plan, scratch, job)[0], row_bytes(classes, True) if plan.keep else 0)


@device
def input_row(v, a, b, scratch, offset, copy):
    if not copy:
        return at(v, a, b, 0)
    p = spare(scratch, offset, v.data)
    for c in range(v.shape[2]):
        p[c] = at(v, a, b, c)[0]
    return p


@device
def grad_row(a, b, job):
    """The row that is going to be written, if it is to be in the caches then."""
    plan = job.plan
    wanted = plan.write != NOTHING and not plan.stream and not plan.copies and plan.desk == 0
    if wanted:
        return Lines(at(job.grad, a, b, 0), 1)
    return Lines(at(job.logits, a, b, 0), 0)


@device
def output_row(v, a, b, scratch, offset, plan):
    return spare(scratch, offset, v.data) if plan.copies else at(v, a, b, 0)


@device
def finish_row(v, a, b, p, plan):
    if plan.copies:
        for c in range(v.shape[2]):
            at(v, a, b, c)[0] = p[c]


@device
def clear(p, n, like):
    zeros = splat(narrow(0.0, like), LANES)
    for j in range(0, n, LANES):
        store_part(p, j, n - j, zeros)


@device
def send_rows(i, n, job, scratch):
    """n rows from i on leave the desk."""
    classes = job.logits.shape[2]
    a, b = place_of(i, job.grad)
    desk = spare(scratch, copies_start(classes, job.plan), job.grad.data)
    send(desk, at(job.grad, a, b, 0), n * classes, job.grad.item, True)
