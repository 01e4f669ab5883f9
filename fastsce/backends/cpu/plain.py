"""Rows side by side whose target is a label, without options: a strip from its logits to its gradient in one piece.

What is worked out once a row stays in registers. To note it down in one pass for the next, as is done where there are
options (coefficients.py), took a third of the time of 2 classes.
"""

from __future__ import annotations

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.ahead import ask_for_group, further, lines_about
from fastsce.backends.cpu.coefficients import labels_at, plain, scales
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.memory import load, store
from fastsce.backends.cpu.partial import store_part
from fastsce.backends.cpu.plan import HESSIAN, IGNORED, NOTHING
from fastsce.backends.cpu.reductions import first
from fastsce.backends.cpu.strips import clear_ignored, terms
from fastsce.backends.cpu.tiles import Moving, next_to_go
from fastsce.backends.cpu.tuning import GROUP, LANES
from fastsce.backends.cpu.vectors import lane_numbers, narrow, same_integer, widen


@apart
def plain_tile(here, e, coming, going, job):
    """Work on a tile. The gradient is left in its place, the Hessian in e."""
    (x, a, b, n, _, _), classes = here, job.logits.shape[2]
    job = plain(job)
    later, soon = lines_about(job, a, b)
    for lane in range(0, n, GROUP):
        some = min(GROUP, n - lane)
        for j in range(lane, lane + some, LANES):
            i = a * job.logits.shape[1] + b + j
            moving = Moving(coming, going, further(later, j, classes), further(soon, j, classes))
            coming, going, _, _ = plain_strip(i, min(LANES, n - j), j, x, e, moving, job)
            ask_for_group(job, i)
        going = next_to_go(going, here, lane, some, job)
    return coming, going


@device
def plain_strip(i, n, lane, x, e, moving, job):
    """n rows from row i on, in a tile's lanes from `lane` on. The gradient is left in x, the Hessian in e."""
    law, plan, classes, width = job.law, job.plan, job.logits.shape[2], job.plan.width
    y = labels_at(job.labels, i, n, classes, plan, lane_numbers(LANES))
    clear_ignored(y, x, lane, width, classes)
    ignored = y == IGNORED
    x_top, x_y = largest_and_label(x, lane, width, classes, y)
    m = maths.where(x_top == -np.inf, 0.0, x_top)  # −∞ − (−∞) would be NaN
    scale, down, power = scales(job.row_scale, i, n, m, law)
    scale, down = maths.where(ignored, 0.0, scale), maths.where(ignored, 0.0, down)
    about = frame.about(m, power, law)
    rest, ties, moving = terms(x, e, None, lane, width, classes, x_top, about, moving, job, None)

    lse, loss, p_top, p_top_minus_1, to_p = plain_row(x_top, x_y, m, about, power, rest, ties)
    if first(ignored) < LANES:
        lse, loss = maths.where(ignored, 0.0, lse), maths.where(ignored, 0.0, loss)
    store_part(job.lse, i, n, lse)
    store_part(job.loss, i, n, loss)
    if plan.write == NOTHING:
        return moving
    push, here = plain_factors(scale, down, x_top, x_y, p_top_minus_1, to_p)
    if plan.write == HESSIAN:
        bend = narrow(scale * maths.top_curvature(p_top, p_top_minus_1), m)
        write_both(x, e, lane, width, classes, y, here, push, down, x_top, narrow(to_p, m), bend)
    else:
        write_terms(x, lane, width, classes, y, here, push)
    return moving


@device
def plain_row(x_top, x_y, m, about, power, rest, ties):
    """(lse, loss, p, p − 1, what makes a term a probability), p that of the largest logit."""
    unit = frame.inverse_top(x_top, m, about, power)
    log_s, p_top, p_top_minus_1, to_p = maths.row_sums(unit, rest, ties, x_top)
    return widen(x_top) + log_s, log_s + (widen(x_top) - widen(x_y)), p_top, p_top_minus_1, to_p


@device
def plain_factors(scale, down, x_top, x_y, p_top_minus_1, to_p):
    """What a term is multiplied by, and the label's factor and summand, as `gradient` takes them."""
    push, top = narrow(scale * to_p, x_top), narrow(scale * p_top_minus_1, x_top)
    return push, maths.label_gradient(push, down, top, x_y == x_top)


@device
def largest_and_label(x, lane, width, classes, y):
    """The largest logit, and the label's; of no label, any."""
    x_y = load(x, lane, LANES)
    m = maths.where(x_y == x_y, x_y, -np.inf)
    place = same_integer(y, maths.bits(m))
    for c in range(1, classes):
        v = load(x, c * width + lane, LANES)
        m, x_y = maths.maximum(v, m), maths.where(place == c, v, x_y)
    return m, x_y


@device
def write_terms(x, lane, width, classes, y, here, push):
    """The gradient, from the terms that are in its place."""
    place = same_integer(y, maths.bits(push))
    for c in range(classes):
        store(x, c * width + lane, gradient(load(x, c * width + lane, LANES), place == c, here, push))


@device
def gradient(t, is_label, here, push):
    return maths.fma(t, maths.where(is_label, here[0], push), maths.where(is_label, here[1], -0.0))  # −0 changes no bit


@device
def write_both(x, e, lane, width, classes, y, here, push, scale, x_top, to_p, bend):
    """The gradient, and scale·p·(1 − p) in place of the terms; `bend` of the largest logit."""
    place = same_integer(y, maths.bits(push))
    for c in range(classes):
        v, t = load(x, c * width + lane, LANES), load(e, c * width + lane, LANES)
        store(x, c * width + lane, gradient(t, place == c, here, push))
        store(e, c * width + lane, maths.where(v == x_top, bend, maths.curvature(t * to_p) * scale))
