"""Rows side by side whose target is a label, without options: from logits to gradient in the law's shortest form.

What is known of a row stays in registers here, where strips.py and coefficients.py note it down and read it again: of
few classes that is most of the work, and what a row's numbers wait for is overlapped with the next rows'.
"""

from __future__ import annotations

import numpy as np

from fastsce import maths
from fastsce.backends.cpu.coefficients import labels_at, values
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import load, store
from fastsce.backends.cpu.partial import store_part
from fastsce.backends.cpu.plan import IGNORED, NOTHING
from fastsce.backends.cpu.reductions import first
from fastsce.backends.cpu.strips import clear_ignored, terms
from fastsce.backends.cpu.tiles import stride
from fastsce.backends.cpu.tuning import LANES
from fastsce.backends.cpu.vectors import narrow, same_integer, widen


@device
def plain_strip(i, n, lane, x, coming, later, soon, job):
    """n rows from row i on, in a tile's lanes from `lane` on. The gradient is left in x."""
    law, classes, width = job.law, job.logits.shape[2], stride(job.plan.lanes)
    y, scale = labels_at(job.labels, i, n, classes, job.plan), values(job.row_scale, i, n, 0.0)
    clear_ignored(y, x, lane, width, classes)
    x_top, x_y = largest_and_label(x, lane, width, classes, y)
    power = maths.carried(scale)
    m = maths.where(x_top == -np.inf, 0.0, x_top)  # −∞ − (−∞) would be NaN
    rest, ties, coming = terms(x, x, lane, width, classes, x_top, m, narrow(power, m), coming, later, soon, job, None)

    unit = maths.inverse(widen(x_top), x_top, power, law.near)
    log_s, _, p_top_minus_1, to_p = maths.row_sums(unit, rest, ties, x_top)
    lse, loss = widen(x_top) + log_s, log_s + (widen(x_top) - widen(x_y))
    push = scale * to_p
    ignored = y == IGNORED
    if first(ignored) < LANES:
        lse, loss = maths.where(ignored, 0.0, lse), maths.where(ignored, 0.0, loss)
        push = maths.where(ignored, 0.0, push)
    store_part(job.lse, i, n, lse)
    store_part(job.loss, i, n, loss)
    if job.plan.write != NOTHING:
        top = narrow(scale * p_top_minus_1, m)
        write_plain(x, lane, width, classes, y, narrow(push, m), narrow(scale, m), x_y == x_top, top)
    return coming


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
def write_plain(x, lane, width, classes, y, push, scale, is_top, top):
    """scale·(p − [c = y]); of labels that have the largest logit, whose p may be near 1, it comes in as `top`."""
    place = same_integer(y, maths.bits(push))
    for c in range(classes):
        e = load(x, c * width + lane, LANES)
        at_label = maths.where(is_top, top, maths.fma(e, push, -scale))
        store(x, c * width + lane, maths.where(place == c, at_label, e * push))
