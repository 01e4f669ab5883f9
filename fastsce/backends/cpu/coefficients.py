"""What there is once a row, for LANES rows side by side: their losses, and what their gradients are made with.

The kernels go through a group of up to GROUP rows three times: they read the rows and note `Facts`, work out the
coefficients from them here, and write the rows. (plain.py and few.py do it at once, without facts.)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import gather, integers, load, moved, store, workspace
from fastsce.backends.cpu.partial import load_part, store_part
from fastsce.backends.cpu.plan import HESSIAN, IGNORED, NO_TARGET, NOTHING, SOFT, Job
from fastsce.backends.cpu.tuning import GROUP, LANES
from fastsce.backends.cpu.vectors import frozen, lane_numbers, narrow, splat, widen
from fastsce.frame import At
from fastsce.law import Law

FACTS_BYTES = 21 * 8 * GROUP + 3 * 64

# Places in Facts: each holds a number for each of GROUP rows.
# sums: Σ 2^power·(term of z) but for the largest z, and how often that occurs; Σ q of a soft target and
# Σ q·(z of m − z), or Σ w·(z of m − z) where only smoothing asks for it
REST, TIES, MASS, DISTANCE = (i * GROUP for i in range(4))
# numbers: the largest logit; x and q at the label, or at the largest logit where the target is soft; m, the largest u
# or lse/gain; then what comes of them: log S; gradient = push·term − pull·q, but `special` where p and q may both be
# large; p = to_p·term; Hessian = curve·p·(1 − p), but `bend` where p may be near 1. The rest is that of frame.At.
X_TOP, X_K, Q_K, POWER, M, LOG_S, PUSH, PULL, SPECIAL, TO_P, CURVE, BEND = (i * GROUP for i in range(12))
RATE, OFFSET, LIFT = (i * GROUP for i in range(12, 15))
# places: the label, IGNORED or NO_TARGET, or that of the largest logit where the target is soft; the largest logit's
PLACE, TOP_PLACE = (i * GROUP for i in range(2))


class Facts(NamedTuple):
    sums: Any  # float64
    numbers: Any  # in the working precision
    places: Any  # integers


@device
def facts_at(scratch, job):
    return Facts(
        workspace(scratch, 0, job.lse),
        workspace(scratch, 4 * 8 * GROUP + 64, job.logits.data),
        integers(scratch, 19 * 8 * GROUP + 128, job.lse),
    )


@device
def values(line, i, n, fill, lanes):
    """n numbers from row i on."""
    if line.step == 0:
        return splat(load(line.data, 0, 0), lanes)
    return load_part(line.data, i, n, fill, lanes)


@device
def scales(row_scale, i, n, like, law):
    """What rows' gradients are multiplied by, logit_scale included, in the precision of `like` too, and the power of
    two for their terms.
    """
    if row_scale.rows.step == 0:
        scale = row_scale.factor * law.scale
        return splat(scale, like), splat(narrow(scale, like), like), splat(narrow(maths.carried(scale), like), like)
    scale = row_scales(row_scale, i, n, like, law)
    return scale, narrow(scale, like), narrow(maths.carried(scale), like)


@device
def begin(i, n, lane, facts, job):
    """Note the labels of n rows, and the power of two for their terms.

    Labels are read once and checked again, for the caller's memory may have changed since the scan.
    """
    y = labels_at(job.labels, i, n, job.logits.shape[2], job.plan, lane_numbers(LANES))
    power = maths.carried(row_scales(job.row_scale, i, n, lane_numbers(LANES), job.law))
    store(facts.places, PLACE + lane, y)
    store(facts.numbers, POWER + lane, narrow(power, load(facts.numbers, 0, 0)))
    return y


@device
def labels_at(labels, i, n, classes, plan, lanes):
    if labels is None:
        return lanes * 0 + SOFT
    if plan.untargeted:
        return lanes * 0 + NO_TARGET
    y = frozen(values(labels, i, n, IGNORED, lanes))
    y = maths.where(y == plan.ignore_index, IGNORED, y)
    return maths.where(y < 0, IGNORED, maths.where(y < classes, y, IGNORED))


@device
def row_scales(row_scale, i, n, like, law):
    """The first of `scales` alone."""
    if row_scale.rows.step == 0:
        return splat(row_scale.factor * law.scale, like)
    return values(row_scale.rows, i, n, 0.0, like) * row_scale.factor * law.scale


@device
def note_frame(numbers, m, power, law):
    """Of one row, or of LANES: m, and what terms are relative to, which is returned."""
    m = maths.where(m == -np.inf, narrow(0.0, m), m)  # −∞ − (−∞) would be NaN
    at = frame.about(m, power, law)
    store(numbers, M, m)
    store(numbers, RATE, at.rate)
    store(numbers, OFFSET, at.offset)
    store(numbers, LIFT, at.lift)
    return m, at


@device
def frames_of(numbers):
    return At(load(numbers, RATE, LANES), load(numbers, OFFSET, LANES), load(numbers, LIFT, LANES))


@device
def from_lse(job, soft):
    """Whether m is made of an lse that is given, so that a row need be read only once. A float64 has no more digits
    than z, and would not say which u is the largest; and lse/gain must be no infinite float32.
    """
    if soft is not None:
        return False
    return job.plan.saved and (job.law.near > 0.0 or (job.logits.item < 8 and job.law.gain > 2.0**-64))


@device
def settle(i, n, facts, job, soft, softcap):
    """Work out the coefficients of n rows from row i on."""
    if soft is None and softcap is None and is_plain(job.law, job.plan):
        settle_rows(i, n, facts, plain(job), soft, softcap)
    else:
        settle_rows(i, n, facts, job, soft, softcap)


@device
def is_plain(law, plan):
    """Whether there is nothing but labels, and no option on that changes what there is once a row."""
    return optionless(law, plan.weighted) and not (plan.saved or plan.untargeted)


@device
def optionless(law, weighted):
    """Whether nothing but a softcap may be on that changes what a row with a label is."""
    ones = law.keep == 1.0 and law.gain == 1.0 and law.scale == 1.0
    return ones and not (law.off > 0.0 or law.z_loss > 0.0 or weighted)


@device
def takes(law, soft):
    """Whether a gradient is a term and less something: a class's share of the target, or of smoothing."""
    return soft is not None or law.off > 0.0


@device
def plain(job):
    """The same job, with a law that the compiler knows: it leaves out factors of 1, and what is not asked for."""
    x, y, soft, weight, row_scale, loss, lse, grad, hess, law, plan = job
    law = Law(1.0, 0.0, law.total, 0.0, 1.0, 1.0, 1.0, frame.NEAR)
    return Job(x, y, soft, weight, row_scale, loss, lse, grad, hess, law, plan)


@device
def settle_rows(i, n, facts, job, soft, softcap):
    """With the law as it is given."""
    for lane in range(0, n, LANES):
        settle_lanes(i + lane, min(LANES, n - lane), lane, facts, job, soft, softcap)


@device
def settle_lanes(i, n, lane, facts, job, soft, softcap):
    law, plan = job.law, job.plan
    place = load(facts.places, PLACE + lane, LANES)
    x_top, x_k = load(facts.numbers, X_TOP + lane, LANES), load(facts.numbers, X_K + lane, LANES)
    m, f = load(facts.numbers, M + lane, LANES), moved(facts.numbers, lane)
    at = frames_of(f)
    mass, distance = splat(0.0, LANES), splat(0.0, LANES)
    if takes(law, soft):
        mass, distance = load(facts.sums, MASS + lane, LANES), load(facts.sums, DISTANCE + lane, LANES)
    ignored = place == IGNORED
    scale = maths.where(ignored, 0.0, row_scales(job.row_scale, i, n, place, law))
    w_k = splat(narrow(1.0, load(facts.numbers, 0, 0)), LANES)
    if plan.weighted or soft is not None:
        w_k = gather(job.weight, maths.where(place < 0, 0, place))

    z_top = maths.logit(x_top, law, softcap)
    unit = frame.inverse(widen(maths.unit(x_top, law.inner, softcap)), at, law)
    log_s, p_top, p_top_minus_1, to_p = maths.row_sums(
        unit, load(facts.sums, REST + lane, LANES), load(facts.sums, TIES + lane, LANES), m
    )
    lse = z_top + log_s
    if plan.saved:
        lse = load_part(job.lse, i, n, 0.0, LANES)
        to_p = frame.against(lse, m, at, law)
        p_top, p_top_minus_1 = maths.saved_chance(z_top, lse, m)
    if soft is not None:
        p, p_minus_1 = p_top, p_top_minus_1
        q = widen(maths.soft_mass(w_k, load(facts.numbers, Q_K + lane, LANES), law.keep, law.off))
        others = mass - q
    else:
        z_y = maths.logit(x_k, law, softcap)
        p, p_minus_1 = maths.label_chance(z_top - z_y, p_top, p_top_minus_1, m)
        if plan.saved:
            p, p_minus_1 = maths.saved_chance(z_y, lse, m)
        q, mass, others, distance = maths.label_terms(law, widen(w_k), z_top - z_y, distance)
        if plan.untargeted:  # q = 0 and mass = 1: the loss is lse and the gradient p
            q, distance = q * 0.0, q * 0.0
            mass, others = q + 1.0, q + 1.0
    if not plan.saved:
        losses = maths.row_loss(mass, log_s, distance, lse, law.z_loss)
        if plan.untargeted:
            losses = lse
        store_part(job.lse, i, n, maths.where(ignored, 0.0, lse))
        store_part(job.loss, i, n, maths.where(ignored, 0.0, losses))
    if plan.write == NOTHING:
        return
    push = maths.row_factor(scale, mass, lse, law.z_loss, to_p)
    pull = scale if soft is not None else scale * law.off
    special = narrow(scale * maths.place_gradient(mass, q, others, lse, law.z_loss, p, p_minus_1), m)
    if softcap is not None:
        special = special * maths.slope(x_k, law.inner)
    store(facts.numbers, LOG_S + lane, narrow(log_s, m))
    store(facts.numbers, PUSH + lane, narrow(maths.where(ignored, 0.0, push), m))
    store(facts.numbers, PULL + lane, narrow(pull, m))
    store(facts.numbers, SPECIAL + lane, special)
    if plan.write == HESSIAN:
        curve = maths.where(ignored, 0.0, scale * mass * law.scale)  # a weight may be ∞
        store(facts.numbers, TO_P + lane, narrow(to_p, m))
        store(facts.numbers, CURVE + lane, narrow(curve, m))
        store(facts.numbers, BEND + lane, narrow(curve * maths.top_curvature(p_top, p_top_minus_1), m))
