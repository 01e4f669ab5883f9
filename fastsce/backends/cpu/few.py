"""Rows of few classes that adjoin, with labels: a sheet of them at a time, from logits to gradient.

How many classes there are is known when this is compiled, for each number of them anew: no loop goes over them, and
what is worked out stays in registers.
"""

from __future__ import annotations

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.ahead import ask_for_group
from fastsce.backends.cpu.coefficients import labels_at, plain, scales, values
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.makings import term_of
from fastsce.backends.cpu.memory import load, moved, spare, store
from fastsce.backends.cpu.partial import store_part
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.plain import gradient, plain_factors, plain_row
from fastsce.backends.cpu.plan import IGNORED, job_of
from fastsce.backends.cpu.reductions import first
from fastsce.backends.cpu.reductions import total as sum_of
from fastsce.backends.cpu.sheets import (
    added,
    ask_for_sheet,
    chosen,
    class_numbers,
    how_many,
    largest_of,
    leave_sheet,
    row_numbers,
    sheet_at,
    sheet_rows,
    spread,
    sum_in_turns,
    sum_of_others,
    weights_at,
)
from fastsce.backends.cpu.tuning import LANES, PIECE, ROWS_AHEAD, TALL_SHEET
from fastsce.backends.cpu.vectors import narrow, same_integer, splat, widen
from fastsce.frame import At


def scratch_bytes(classes, itemsize):
    """For the last rows, if they fill no sheet: their logits, gradient and Hessian."""
    return 3 * desk_bytes(TALL_SHEET * classes, itemsize)


@device
def desk_bytes(numbers, itemsize):
    return numbers * itemsize + 64


@kernel
def few(logits, target, weight, row_scale, loss, lse, grad, hess, law, known, plan, memory):
    """Each part takes an equal share of the sheets; arguments as for `rows.rows`, but `known`: a tuple of as many
    numbers as there are classes, and one of as many as there are results for each class, of which nothing but the
    lengths counts; and None where there are no options: with them there is but a gradient. There is one block. If the
    losses are to be summed, `loss` gets the sum of each PIECE of them, multiplied by what `row_scale` has for each row.
    """
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return hand_out(share, plan.parts, memory, (job, None, known))


@device
def share(queue, scratch, job, soft, known):
    """Whole sheets, or whole pieces of losses that are to be summed. No target is `soft` here."""
    classes, results, options = known
    rows, unit = job.logits.shape[1], PIECE if job.plan.summed else sheet_rows(classes)
    units = -(-rows // unit)
    start, stop = next_share(queue, units, job.plan.parts)
    while start < stop:
        end = min(stop * unit, rows)
        for i in range(start * unit, end, PIECE):
            total = work_through(i, min(i + PIECE, end), scratch, job, classes, results, options)
            if job.plan.summed:
                store(job.loss, i // PIECE, total)
        start, stop = next_share(queue, units, job.plan.parts)


@device
def work_through(start, stop, scratch, job, classes, results, options):
    """Rows, and the sum of their losses, as `labels.add_up` has it."""
    count, tall, losses = len(classes), sheet_rows(classes), splat(0.0, LANES)
    for i in range(start, stop, tall):
        there = moved(job.logits.data, i * count), moved(job.grad.data, i * count), moved(job.hess.data, i * count)
        if i + tall <= stop:
            ask_ahead(there, i, job, classes, results)
            losses = added(losses, work_on(i, tall, there, job, classes, results, options))
        else:
            losses = added(losses, work_on_last(i, stop - i, there, scratch, job, classes, results, options))
    return sum_of(losses)


@device
def work_on_last(i, n, there, scratch, job, classes, results, options):
    """Rows that fill no sheet, at a desk."""
    size, desk = n * len(classes), desk_bytes(sheet_rows(classes) * len(classes), job.logits.item)
    x, g, h = there
    here = spare(scratch, 0, x), spare(scratch, desk, x), spare(scratch, 2 * desk, x)
    copy(x, here[0], size)
    losses = work_on(i, n, here, job, classes, results, options)
    if len(results) > 0:
        copy(here[1], g, size)
    if len(results) > 1:
        copy(here[2], h, size)
    return losses


@device
def copy(source, target, n):
    for i in range(n):
        target[i] = source[i]


@device
def ask_ahead(there, i, job, classes, results):
    (x, g, h), later = there, ROWS_AHEAD * len(classes)
    ask_for_sheet(x, later, classes)
    if len(results) > 0:
        ask_for_sheet(g, later, classes)
    if len(results) > 1:
        ask_for_sheet(h, later, classes)
    for k in range(0, sheet_rows(classes), LANES):
        ask_for_group(job, i + k)


@device
def work_on(i, n, there, job, classes, results, options):
    """A sheet, of which n rows are there, from row i on; the others are as if ignored. Returns their losses.

    Nothing branches from logits to results but where rows are ignored, or they would not stay in registers.
    """
    (x_at, g_at, h_at), law, rows = there, law_for(job, options), row_numbers(classes)
    y = labels_at(job.labels, i, n, len(classes), job.plan, rows)
    scale, down, power = scales(job.row_scale, i, n, narrow(rows, load(x_at, 0, 0)), law)
    ignored = y == IGNORED
    scale, down = maths.where(ignored, 0.0, scale), maths.where(ignored, 0.0, down)
    x = maths.where(spread(ignored, classes), 0.0, sheet_at(x_at, classes))  # nobody is to see what is there
    is_label = class_numbers(x, classes) == spread(same_integer(y, class_numbers(x, classes)), classes)
    x_top, x_y = largest_of(x, classes), chosen(x, is_label, classes)
    m = maths.where(x_top == -np.inf, 0.0, x_top)  # −∞ − (−∞) would be NaN
    at = frame.about(m, power, law)
    e = term_of(x, At(spread(at.rate, classes), spread(at.offset, classes), spread(at.lift, classes)), law.inner, None)
    is_top = x == spread(x_top, classes)
    rest, ties = sum_of_others(maths.where(is_top, 0.0, e), classes), widen(how_many(is_top, m, classes))

    row = x_top, x_y, m, at, rest, ties, scale
    if options is None:
        lse, loss, p_top, p_top_minus_1, to_p = plain_row(x_top, x_y, m, at, power, rest, ties)
        push, (a, b) = plain_factors(scale, down, x_top, x_y, p_top_minus_1, to_p)
    else:
        lse, loss, push, pull, special = with_options(x, is_label, row, job.weight, law, classes)
    if first(ignored) < sheet_rows(classes):
        lse, loss = maths.where(ignored, 0.0, lse), maths.where(ignored, 0.0, loss)
    store_part(job.lse, i, n, lse)
    if options is None:
        if len(results) > 0:
            here = spread(a, classes), spread(b, classes)
            leave_sheet(g_at, gradient(e, is_label, here, spread(push, classes)), classes)
        if len(results) > 1:
            bend = narrow(scale * maths.top_curvature(p_top, p_top_minus_1), m)
            curved = maths.curvature(e * spread(narrow(to_p, m), classes)) * spread(down, classes)
            leave_sheet(h_at, maths.where(is_top, spread(bend, classes), curved), classes)
    else:
        w = maths.where(splat(law.off, x) == 0.0, 0.0, weights_at(job.weight, x, classes))  # not asked for, it may be ∞
        g = maths.class_gradient(e, spread(push, classes), w, spread(pull, classes))
        g = maths.where(spread(ignored, classes), 0.0, g)  # a weight may be ∞
        leave_sheet(g_at, maths.where(is_label, spread(special, classes), g), classes)
    if not job.plan.summed:
        store_part(job.loss, i, n, loss)
    elif job.row_scale.rows.step != 0:
        loss = maths.where(ignored, 0.0, loss * values(job.row_scale.rows, i, n, 0.0, rows))
    return loss


@device
def law_for(job, options):
    if options is None:
        job = plain(job)
    return job.law


@device
def with_options(x, is_label, row, weight, law, classes):
    """lse and loss under any law but one with a softcap, and what makes terms the gradient: push·term − pull·w, and
    `special` at the label.
    """
    x_top, x_y, m, at, rest, ties, scale = row
    w, total, off = weights_at(weight, x, classes), splat(law.total, m), splat(law.off, m)
    below = frame.exponent(x, spread(at.rate, classes), spread(at.rate * m, classes), law.inner, None)
    distance = frame.distance_to(m, at, -widen(sum_in_turns(maths.share(w, below), classes)), total, law)
    distance = maths.where(off == 0.0, 0.0, distance)  # of a row of −∞, or of what is not asked for
    unit, z_top, z_y = frame.inverse(widen(x_top), at, law), maths.logit(x_top, law, None), maths.logit(x_y, law, None)
    log_s, p_top, p_top_minus_1, to_p = maths.row_sums(unit, rest, ties, m)
    p, p_minus_1 = maths.label_chance(z_top - z_y, p_top, p_top_minus_1, m)
    w_y, lse = widen(chosen(w, is_label, classes)), z_top + log_s
    q, mass, others, distance = maths.label_terms(law, w_y, z_top - z_y, distance)
    push = maths.row_factor(scale, mass, lse, law.z_loss, to_p)
    special = scale * maths.place_gradient(mass, q, others, lse, law.z_loss, p, p_minus_1)
    loss = maths.row_loss(mass, log_s, distance, lse, law.z_loss)
    return lse, loss, narrow(push, m), narrow(scale * off, m), narrow(special, m)
