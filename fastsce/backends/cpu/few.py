"""Rows of few classes, with labels or no target: a sheet of them at a time, from logits to gradient.

They adjoin, or the rows of a class lie side by side, as in images. How many classes there are is known when this is
compiled, for each number of them anew: no loop goes over them, and what is worked out stays in registers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.ahead import ask_for_group
from fastsce.backends.cpu.coefficients import labels_at, plain, scales, values
from fastsce.backends.cpu.jit import apart, device, kernel
from fastsce.backends.cpu.makings import term_of
from fastsce.backends.cpu.memory import at, fence, load, moved_bytes, past_boundary, spare, store
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
    class_is,
    each,
    largest_of,
    leave_lines,
    leave_sheet,
    lines_at,
    row_numbers,
    sheet_at,
    sheet_rows,
    stream_lines,
    sum_in_turns,
    terms_of,
    weights_at,
)
from fastsce.backends.cpu.tuning import LANES, PIECE, ROWS_AHEAD, TALL_SHEET
from fastsce.backends.cpu.vectors import narrow, same_integer, splat, widen
from fastsce.law import Law


def scratch_bytes(classes, itemsize):
    """For rows that fill no sheet: their logits, gradient and Hessian."""
    return 3 * desk_bytes(TALL_SHEET * classes, itemsize)


@device
def desk_bytes(numbers, itemsize):
    return numbers * itemsize + 64


@kernel
def few(logits, target, weight, row_scale, loss, lse, grad, hess, law, known, plan, memory):
    """Each part takes an equal share of the sheets; arguments as for `rows.rows`, but `known`: a tuple of as many
    numbers as there are classes, and one of as many as there are results for each class, of which nothing but the
    lengths counts; None where there are no options, or a softcap alone; and None where there is no softcap. With either
    there is but a gradient. Rows that adjoin have one block. If the losses are to be summed, `loss` gets the sum of
    each PIECE of them, multiplied by what `row_scale` has for each row; then all sheets are whole but the last.
    """
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return hand_out(share, plan.parts, memory, (job, None, known))


@device
def share(queue, scratch, job, soft, known):
    """Whole sheets, or whole pieces of losses that are to be summed. No target is `soft` here."""
    tall = sheet_rows(known[0])
    missing, piece = before_line(job, tall), PIECE // tall
    sheets = -(-(job.logits.shape[1] + missing) // tall)
    count, unit = job.logits.shape[0] * sheets, piece if job.plan.summed else 1
    units = -(-count // unit)
    start, stop = next_share(queue, units, job.plan.parts)
    while start < stop:
        end = min(stop * unit, count)
        for i in range(start * unit, end, piece):
            total = work_through(i, min(i + piece, end), sheets, missing, scratch, job, known)
            if job.plan.summed:
                store(job.loss, i // piece, total)
        start, stop = next_share(queue, units, job.plan.parts)
    fence()


@device
def before_line(job, tall):
    """How many rows the first sheet of a block is short of, so that others begin with a cache line of what is streamed,
    or half of one: all classes begin alike (`ways.alike_in_lines`).
    """
    if not job.plan.stream:
        return 0
    return -past_boundary(job.grad.data, 0) % tall


@device
def work_through(start, stop, sheets, missing, scratch, job, known):
    """Sheets, and the sum of their losses, as `labels.add_up` has it."""
    v, (classes, results, options, softcap) = job.logits, known
    tall, losses, a = sheet_rows(classes), splat(0.0, LANES), start // sheets
    first_row = (start - a * sheets) * tall - missing
    for _ in range(start, stop):
        b = max(first_row, 0)
        n = min(first_row + tall, v.shape[1]) - b
        i, there = a * v.shape[1] + b, (place_of(v, a, b), place_of(job.grad, a, b), place_of(job.hess, a, b))
        ask_ahead(i, there, job, classes, results)
        here = there
        if n < tall:
            here = to_desks(there, n, scratch, job, classes)
        streaming = job.plan.stream and n == tall
        losses = added(losses, work_on(i, n, here, job, classes, results, options, softcap, streaming))
        if n < tall:
            back(here, there, n, job, classes, results)
        first_row += tall
        if first_row >= v.shape[1]:
            a, first_row = a + 1, -missing
    return sum_of(losses)


class Place(NamedTuple):
    """Where rows are: the first class of the first one, and the bytes from a class to the next where rows lie side by
    side.
    """

    data: Any
    step: Any


@device
def place_of(v, a, b):
    return Place(at(v, a, b, 0), v.strides[2])


@device
def to_desks(there, n, scratch, job, classes):
    """Where rows that fill no sheet are worked on, logits, gradient and Hessian."""
    x, count, tall = there[0], len(classes), sheet_rows(classes)
    size, step = desk_bytes(tall * count, job.logits.item), tall * job.logits.item
    here = (
        Place(spare(scratch, 0, x.data), step),
        Place(spare(scratch, size, x.data), step),
        Place(spare(scratch, 2 * size, x.data), step),
    )
    copy(x, here[0], n, count, job.plan.side)
    return here


@device
def back(here, there, n, job, classes, results):
    """Results of theirs."""
    if len(results) > 0:
        copy(here[1], there[1], n, len(classes), job.plan.side)
    if len(results) > 1:
        copy(here[2], there[2], n, len(classes), job.plan.side)


@apart
def copy(source, target, n, count, side):
    """n rows of so many classes."""
    for c in range(count if side else 1):
        x, y = moved_bytes(source.data, c * source.step), moved_bytes(target.data, c * target.step)
        for i in range(n if side else n * count):
            y[i] = x[i]


@device
def ask_ahead(i, there, job, classes, results):
    """Rows side by side the machine foresees by itself."""
    (x, g, h), later = there, ROWS_AHEAD * len(classes)
    if not job.plan.side:
        ask_for_sheet(x.data, later, classes)
        if len(results) > 0:
            ask_for_sheet(g.data, later, classes)
        if len(results) > 1:
            ask_for_sheet(h.data, later, classes)
    for k in range(0, sheet_rows(classes), LANES):
        ask_for_group(job, i + k)


@device
def read(place, side, classes):
    return lines_at(place.data, place.step, classes) if side else sheet_at(place.data, classes)


@device
def leave(place, sheet, side, streaming, classes):
    if not side:
        leave_sheet(place.data, sheet, classes)
    elif streaming:
        stream_lines(place.data, place.step, sheet, classes)
    else:
        leave_lines(place.data, place.step, sheet, classes)


@device
def work_on(i, n, there, job, classes, results, options, softcap, streaming):
    """A sheet, of which n rows are there, from row i on; the others are as if ignored. Returns their losses.

    Between logits and results nothing branches but where rows are ignored, or they would not stay in registers.
    """
    (x_at, g_at, h_at), law, rows, side = there, law_for(job, options, softcap), row_numbers(classes), job.plan.side
    y = labels_at(job.labels, i, n, len(classes), job.plan, rows)
    scale, down, power = scales(job.row_scale, i, n, narrow(rows, load(x_at.data, 0, 0)), law)
    ignored = y == IGNORED
    scale, down = maths.where(ignored, 0.0, scale), maths.where(ignored, 0.0, down)
    x = read(x_at, side, classes)
    if first(ignored) < sheet_rows(classes):  # nobody is to see what is there
        x = each(unless, (x,), (ignored,))
    is_label = class_is(same_integer(y, maths.bits(down)), classes)
    x_top = largest_of(x)
    u, slopes = units(x, law.inner, softcap), slopes_of(x, law.inner, softcap)
    u_top, u_y = unit_of(u, x, x_top, softcap), chosen(u, is_label)
    m = maths.where(u_top == -np.inf, 0.0, u_top)  # −∞ − (−∞) would be NaN
    at = frame.about(m, power, law)
    e, rest, ties = terms_of(term, (x, u), (x_top, at))
    ties = widen(ties)

    if options is None and softcap is None:
        lse, loss, p_top, p_top_minus_1, to_p = plain_row(u_top, u_y, m, at, power, rest, ties)
        push, (a, b) = plain_factors(scale, down, u_top, u_y, p_top_minus_1, to_p)
    else:
        row = u_top, u_y, m, at, rest, ties, scale
        lse, loss, push, pull, special = with_options(u, weights_for(job.weight, u, options), is_label, row, law)
    if job.plan.untargeted:
        loss = lse
    if first(ignored) < sheet_rows(classes):
        lse, loss = maths.where(ignored, 0.0, lse), maths.where(ignored, 0.0, loss)
    store_part(job.lse, i, n, lse)
    if options is None and softcap is None:
        if len(results) > 0:
            g = each(gradient, (e, is_label), ((a, b), push))
            leave(g_at, g, side, streaming, classes)
        if len(results) > 1:
            bend = narrow(scale * maths.top_curvature(p_top, p_top_minus_1), m)
            h = each(hessian, (e, x), (x_top, narrow(to_p, m), down, bend))
            leave(h_at, h, side, streaming, classes)
    else:
        w = weights_for(job.weight, u, options)  # fetched again, for they would not stay in registers
        w = each(unless, (w,), (splat(law.off, m) == 0.0,))  # where they are not asked for, they may be ∞
        e, w = sloped(e, slopes, softcap), sloped(w, slopes, softcap)
        special = sloped_at(special, slopes, is_label, softcap)
        g = each(place_gradient, (e, w, is_label), (push, pull, special, ignored))
        leave(g_at, g, side, streaming, classes)
    if not job.plan.summed:
        store_part(job.loss, i, n, loss)
    elif job.row_scale.rows.step != 0:
        loss = maths.where(ignored, 0.0, loss * values(job.row_scale.rows, i, n, 0.0, rows))
    return loss


@device
def unless(x, out):
    return maths.where(out, 0.0, x)


@device
def units(x, inner, softcap):
    """u of all logits."""
    if softcap is None:
        return x
    return each(unit, (x,), (inner,))


@device
def unit(x, inner):
    return maths.capped(x, inner)[0]


@device
def slopes_of(x, inner, softcap):
    """Those of the softcap; without one they are not asked for."""
    if softcap is None:
        return x
    return each(maths.slope, (x,), (inner,))


@device
def unit_of(u, x, number, softcap):
    """u of a logit of each row."""
    if softcap is None:
        return number
    return chosen(u, each(equal, (x,), (number,)))


@device
def equal(x, y):
    return x == y


@device
def term(x, u, x_top, at):
    t, is_top = term_of(u, at, 0.0, None), x == x_top
    return t, maths.where(is_top, 0.0, t), is_top


@device
def sloped(sheet, slopes, softcap):
    if softcap is None:
        return sheet
    return each(product, (sheet, slopes), ())


@device
def sloped_at(number, slopes, is_label, softcap):
    """At the label."""
    if softcap is None:
        return number
    return number * chosen(slopes, is_label)


@device
def product(x, y):
    return x * y


@device
def hessian(t, x, x_top, to_p, scale, bend):
    return maths.where(x == x_top, bend, maths.curvature(t * to_p) * scale)


@device
def weights_for(weight, u, options):
    if options is None:
        return each(one, (u,), ())
    return weights_at(weight, u)


@device
def one(u):
    return splat(narrow(1.0, u), u)


@device
def place_gradient(t, w, is_label, push, pull, special, ignored):
    g = maths.where(ignored, 0.0, maths.class_gradient(t, push, w, pull))  # a weight may be ∞
    return maths.where(is_label, special, g)


@device
def weighed(w, u, at, m):
    return maths.share(w, frame.exponent(u, at.rate, at.rate * m, 0.0, None))


@device
def law_for(job, options, softcap):
    """Of what is not asked for the compiler knows that it is not."""
    law = job.law
    if options is not None:
        return law
    if softcap is None:
        return plain(job).law
    return Law(1.0, 0.0, law.total, 0.0, law.gain, law.inner, 1.0, 0.0)


@device
def with_options(u, w, is_label, row, law):
    """lse and loss under any law, and what makes terms the gradient, but for slopes of a softcap: push·term − pull·w,
    and `special` at the label.
    """
    u_top, u_y, m, at, rest, ties, scale = row
    total, off = splat(law.total, m), splat(law.off, m)
    far = -widen(sum_in_turns(each(weighed, (w, u), (at, m))))
    distance = frame.distance_to(m, at, far, total, law)
    distance = maths.where(off == 0.0, 0.0, distance)  # of a row of −∞, or of what is not asked for
    inverse, z_top, z_y = frame.inverse(widen(u_top), at, law), law.gain * widen(u_top), law.gain * widen(u_y)
    log_s, p_top, p_top_minus_1, to_p = maths.row_sums(inverse, rest, ties, m)
    p, p_minus_1 = maths.label_chance(z_top - z_y, p_top, p_top_minus_1, m)
    w_y, lse = widen(chosen(w, is_label)), z_top + log_s
    q, mass, others, distance = maths.label_terms(law, w_y, z_top - z_y, distance)
    push = maths.row_factor(scale, mass, lse, law.z_loss, to_p)
    special = scale * maths.place_gradient(mass, q, others, lse, law.z_loss, p, p_minus_1)
    loss = maths.row_loss(mass, log_s, distance, lse, law.z_loss)
    pull = maths.where(off == 0.0, 0.0, scale * off)  # −0 would change signs of zeros
    return lse, loss, narrow(push, m), narrow(pull, m), narrow(special, m)
