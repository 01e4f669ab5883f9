"""What there is once a row: its label, what its sums say, its loss, and what its gradient is made with."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cuda.job import BAD, IGNORED, NO_TARGET, SOFT
from fastsce.backends.cuda.terms import power_of, raised
from fastsce.backends.cuda.threads import device
from fastsce.backends.cuda.words import anew, load, load_like, number, small, store, wide
from fastsce.frame import At
from fastsce.law import Law


class Row(NamedTuple):
    """Where a row is, and what is known before it is read."""

    i: int
    x: int  # offsets of class 0
    g: int
    h: int
    q: int
    place: int  # the label, or what stands for it
    skip: bool  # nothing is read, and zeros are written
    scale: float  # what its gradient is multiplied by, logit_scale included
    power: Any  # of two, with which terms are kept


class Facts(NamedTuple):
    """What reading a row gives."""

    x_top: Any  # the largest logit
    x_k: Any  # the logit at `place`
    place: int  # the label; where the target is soft, the first place of the largest logit
    rest: float  # Σ 2^power·(the term of z) but for the largest z, and how often that occurs
    ties: float
    mass: float  # Σ q and Σ q·(rate·m − rate·u); of w where only smoothing asks for them
    distance: float


class Outcome(NamedTuple):
    """The gradient is push·term − pull·q, but `special` where p and q may both be large; p is to_p·term; the Hessian
    curve·p·(1 − p), but `bend` where p may be near 1.
    """

    push: Any
    pull: Any
    special: Any
    to_p: Any
    curve: Any
    bend: Any
    log_s: Any
    loss: float
    lse: float


@device
def value(line, i):
    return 1.0 if line.step < 0 else load(line.data, i * line.step)


@device
def law_of(job):
    """The law, with the weights' sum, which the host does not know, where it is asked for: one that is not may be ∞."""
    law = job.law
    total = law.total if job.total.step < 0 or law.off == 0.0 else load(job.total.data, 0)
    return Law(law.keep, law.off, total, law.z_loss, law.gain, law.inner, law.scale, law.near)


@device
def row_at(i, place, scale, job):
    """Row i, and where it lies."""
    a = whole(i, job.plan.inner, job.plan.per_inner)
    b = i - a * job.plan.inner
    return Row(
        i,
        a * job.logits.a + b * job.logits.b,
        a * job.grad.a + b * job.grad.b,
        a * job.hess.a + b * job.hess.b,
        a * job.soft.a + b * job.soft.b,
        place,
        BAD <= place <= IGNORED,
        scale,
        power_of(job.logits.data, scale),
    )


@device
def whole(i, n, per_n):
    """i // n, up to 2^53; an instruction for it there is not, and a call takes registers."""
    a = int(float(i) * per_n)
    a = a - 1 if a * n > i else a
    return a + 1 if (a + 1) * n <= i else a


@device
def scale_of(i, job):
    """What the gradient of a row is multiplied by, logit_scale included."""
    scale = job.factor * value(job.inverse, 0) * value(job.upstream, i) * value(job.sample_weight, i)
    return scale * job.law.scale


@device
def label_at(i, job, soft):
    """Read once, and checked here, where it is used: nothing else stands between a bad label and memory."""
    if soft is not None:
        return SOFT
    if not job.plan.labelled:
        return NO_TARGET
    y = anew(load(job.labels, i))
    if y == job.plan.ignore_index:
        return IGNORED
    return y if 0 <= y < job.plan.classes else BAD


@device
def label_logit(row, job):
    """The logit at the label; read before any thread may write there. Anything else is as good where there is none."""
    return load(job.logits.data, row.x + max(row.place, 0) * job.logits.c)


@device
def share(c, row, law, job, soft):
    """q of a class, or w where only smoothing asks for it."""
    w = number(1.0, job.logits.data) if job.total.step < 0 else load(job.weight, wide(c))
    if soft is None:
        return w
    t = load_like(job.soft.data, row.q + wide(c) * job.soft.c, job.logits.data)
    return maths.soft_mass(w, t, law.keep, law.off)


@device
def settle(row, facts, law, job, soft, softcap):
    """Work out a row's coefficients. Inlined, it costs a caller only what is used of them."""
    untargeted = row.place == NO_TARGET
    p = job.logits.data
    m = maths.unit(facts.x_top, law.inner, softcap)
    z_top = maths.logit(facts.x_top, law, softcap)
    at = at_top(m, row.power, law)
    unit = number(1.0, p) / term(facts.x_top, at, law, job, softcap)
    log_s, p_top, p_top_minus_1, to_p = maths.row_sums(unit, facts.rest, facts.ties, m)
    lse = z_top + log_s
    if job.plan.saved:
        lse = load(job.lse, row.i)
        to_p = raised(p, maths.narrow(frame.below(lse, m, at, law), m), -row.power)
        p_top, p_top_minus_1 = maths.saved_chance(z_top, lse, m)
    if soft is not None:
        distance = frame.distance_to(m, at, facts.distance, facts.mass, law)
        p_k, p_k_minus_1 = p_top, p_top_minus_1
        q, mass = maths.widen(share(small(facts.place), row, law, job, soft)), facts.mass
        others, pull = mass - q, row.scale
    else:
        w = maths.widen(share(small(max(facts.place, 0)), row, law, job, soft))
        z_k = maths.logit(facts.x_k, law, softcap)
        p_k, p_k_minus_1 = maths.label_chance(z_top - z_k, p_top, p_top_minus_1, m)
        if job.plan.saved:
            p_k, p_k_minus_1 = maths.saved_chance(z_k, lse, m)
        distance = frame.distance_to(m, at, facts.distance, law.total, law)
        q, mass, others, distance = maths.label_terms(law, w, z_top - z_k, distance)
        if untargeted:  # q = 0 and mass = 1: the loss is lse and the gradient p
            q, mass, others, distance = 0.0, 1.0, 1.0, 0.0
        pull = row.scale * law.off
    loss = lse if untargeted else maths.row_loss(mass, log_s, distance, lse, law.z_loss)
    push = maths.row_factor(row.scale, mass, lse, law.z_loss, maths.widen(to_p))
    special = maths.narrow(
        row.scale * maths.place_gradient(mass, q, others, lse, law.z_loss, p_k, p_k_minus_1), facts.x_top
    )
    if softcap is not None:
        special = special * maths.slope(facts.x_k, law.inner)
    curve = row.scale * mass * law.scale
    return Outcome(
        number(0.0 if row.skip else push, p),
        number(0.0 if row.skip else pull, p),
        special,
        maths.where(row.skip, 0.0, to_p),
        number(0.0 if row.skip else curve, p),
        maths.narrow(curve * maths.top_curvature(p_top, p_top_minus_1), facts.x_top),
        maths.narrow(log_s, facts.x_top),
        loss,
        lse,
    )


@device
def report(row, outcome, job):
    """Loss and lse of a row: 0 for an ignored one, NaN for one with a bad label."""
    empty = np.nan if row.place == BAD else 0.0
    store(job.loss, row.i, empty if row.skip else outcome.loss)
    store(job.lse, row.i, empty if row.skip else outcome.lse)


@device
def at_top(m, power, law):
    """What terms are relative to, without octaves."""
    rate = frame.rate(m, law)
    return At(rate, rate * m, power)


@device
def term(v, at, law, job, softcap):
    return raised(job.logits.data, frame.exponent(v, at.rate, at.offset, law.inner, softcap), at.lift)
