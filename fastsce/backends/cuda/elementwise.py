"""Kernels without a maximum to find: dtypes and layouts, labels, sums, binary cross-entropy, softmax's Jacobian.

Each thread takes every n-th number; sums are of as many pieces as there are blocks, added in their order.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import logistic, maths
from fastsce.backends.cuda.job import View
from fastsce.backends.cuda.reduce import PLACES, TOP, Where, agree_largest, agree_sum
from fastsce.backends.cuda.threads import block, blocks, cuda, device, float64, thread, threads
from fastsce.backends.cuda.words import anew, label, load, load_like, number, store

NOWHERE = 2.0**62  # further than any row


class Shape(NamedTuple):
    """(A, B, C), and how many numbers that are."""

    b: int
    c: int
    size: int


@device
def first_number():
    return block() * threads() + thread()


@device
def step():
    return blocks() * threads()


@device
def offset(view, i, shape):
    """Of the i-th number in C order."""
    if shape.b == 1 and shape.c == shape.size:
        return i * view.c
    row = i // shape.c
    a = row // shape.b
    return a * view.a + (row - a * shape.b) * view.b + (i - row * shape.c) * view.c


# --- dtypes and layouts -----------------------------------------------------------------------------------------------


class Convert(NamedTuple):
    source: View
    out: View
    shape: Shape


def convert(job):
    """out = source, in out's dtype."""
    i = first_number()
    while i < job.shape.size:
        store(job.out.data, offset(job.out, i, job.shape), load(job.source.data, offset(job.source, i, job.shape)))
        i += step()


def convert_labels(job):
    """The same for integers, into int64."""
    i = first_number()
    while i < job.shape.size:
        store(job.out.data, i, label(load(job.source.data, offset(job.source, i, job.shape))))
        i += step()


class Fill(NamedTuple):
    out: Any
    value: Any  # float or integer, as out's numbers are


def fill(job):
    """out = one number."""
    if first_number() == 0:
        store(job.out, 0, job.value)


class Square(NamedTuple):
    out: Any
    n: int


def identity(job):
    """out = the n × n identity matrix."""
    i = first_number()
    while i < job.n * job.n:
        store(job.out, i, number(1.0 if i % (job.n + 1) == 0 else 0.0, job.out))
        i += step()


# --- numbers of rows --------------------------------------------------------------------------------------------------


class Weigh(NamedTuple):
    losses: Any
    sample_weight: Any
    labels: Any
    labelled: int
    ignore_index: int
    size: int


def weigh(job):
    """Multiply losses by their rows' weights; an ignored row stays 0."""
    i = first_number()
    while i < job.size:
        ignored = job.labelled and load(job.labels, i) == job.ignore_index
        if not ignored:
            store(job.losses, i, load(job.losses, i) * load(job.sample_weight, i))
        i += step()


class Mend(NamedTuple):
    logits: View
    lse: Any
    b: int
    classes: int
    size: int


def mend(job):
    """Where lse is NaN, the row's largest logit, or NaN if it has one; a block a row."""
    at = Where(cuda.shared.array(PLACES, float64), thread(), threads(), 0, 1)
    row = block()
    while row < job.size:
        if load(job.lse, row) != load(job.lse, row):
            a = row // job.b
            start = a * job.logits.a + (row - a * job.b) * job.logits.b
            top, odd = -np.inf, 0.0
            c = thread()
            while c < job.classes:
                x = maths.widen(load(job.logits.data, start + c * job.logits.c))
                top, odd = maths.maximum(top, x), 1.0 if x != x else odd
                c += threads()
            top, odd = agree_largest(top, at, 0, False), agree_largest(odd, at, 1, False)
            if thread() == 0:
                store(job.lse, row, np.nan if odd > 0.0 else top)
        row += blocks()


class Scan(NamedTuple):
    labels: Any
    weight: Any  # float64, one a class
    weighted: int
    sample_weight: Any
    sampled: int
    pieces: Any  # two float64 a block: the first bad row, and the sum
    classes: int
    ignore_index: int
    size: int
    out: Any  # three float64, for a grid of one block, which needs no pieces


def scan(job):
    """Of each block's labels: the first bad row, and Σ w_y·sample_weight over the rows that are not ignored."""
    at = Where(cuda.shared.array(PLACES, float64), thread(), threads(), 0, 1)
    first, total = NOWHERE, 0.0
    i = first_number()
    while i < job.size:
        y = anew(load(job.labels, i))
        if 0 <= y < job.classes and y != job.ignore_index:
            w = load(job.weight, y) if job.weighted else 1.0
            total += w * load(job.sample_weight, i) if job.sampled else w
        elif y != job.ignore_index:
            first = min(first, float(i))
        i += step()
    first, total = -agree_largest(-first, at, 0, False), agree_sum(total, at, 1, False)
    if thread() == 0:
        if blocks() == 1:
            conclude(first, total, job.out)
        else:
            store(job.pieces, 2 * block(), first)
            store(job.pieces, 2 * block() + 1, total)


@device
def conclude(first, total, out):
    """The first bad row or −1, the sum, and 1 ÷ it."""
    store(out, 0, -1.0 if first == NOWHERE else first)
    store(out, 1, total)
    store(out, 2, 1.0 / total if total != 0.0 else np.inf)


class Gather(NamedTuple):
    pieces: Any
    number: int  # of pieces
    out: Any


def gather(job):
    """One block: what all pieces of a scan come to."""
    at = Where(cuda.shared.array(PLACES, float64), thread(), threads(), 0, 1)
    first, total = NOWHERE, 0.0
    i = thread()
    while i < job.number:
        first = min(first, load(job.pieces, 2 * i))
        total += load(job.pieces, 2 * i + 1)
        i += threads()
    first, total = -agree_largest(-first, at, 0, False), agree_sum(total, at, 1, False)
    if thread() == 0:
        conclude(first, total, job.out)


class Sum(NamedTuple):
    values: Any
    size: int
    divisor: float
    total: Any  # what to divide by as well, if `divided`
    divided: int
    out: Any


def sum_up(job):
    """Each block's sum of its values, divided."""
    at = Where(cuda.shared.array(PLACES, float64), thread(), threads(), 0, 1)
    total = 0.0
    i = first_number()
    while i < job.size:
        total += load(job.values, i)
        i += step()
    total = agree_sum(total, at, 0, False)
    if thread() == 0:
        divisor = job.divisor * load(job.total, 0) if job.divided else job.divisor
        store(job.out, block(), total / divisor)


# --- binary cross-entropy ---------------------------------------------------------------------------------------------


class Factors(NamedTuple):
    weight: View
    sample_weight: View
    pos_weight: View
    upstream: View


class Results(NamedTuple):
    loss: View
    grad: View
    hess: View


class Binary(NamedTuple):
    logits: View
    target: View
    factors: Factors
    given: int  # which of the factors are: 1, 2, 4, 8
    share: float  # what stands for weight and sample_weight where they are numbers
    pos: float  # for pos_weight
    factor: float  # for upstream, or beside it
    results: Results
    wanted: int  # which of the results are: 1, 2, 4
    sums: Any
    shape: Shape


def binary(job):
    """Loss, gradient and Hessian of every element; the losses' sum of every block."""
    at = Where(cuda.shared.array(PLACES, float64), thread(), threads(), 0, 1)
    p, shape = job.logits.data, job.shape
    one, total = number(1.0, p), 0.0
    share_of_all, pos_of_all, scale = number(job.share, p), number(job.pos, p), number(job.factor, p)
    i = first_number()
    while i < shape.size:
        x, t = load(p, offset(job.logits, i, shape)), load_like(job.target.data, offset(job.target, i, shape), p)
        share, pos, pull = share_of_all, pos_of_all, scale
        if job.given & 1:
            share = share * factor(job.factors.weight, i, p, shape)
        if job.given & 2:
            share = share * factor(job.factors.sample_weight, i, p, shape)
        if job.given & 4:
            pos = factor(job.factors.pos_weight, i, p, shape)
        if job.given & 8:
            pull = pull * factor(job.factors.upstream, i, p, shape)
        right, wrong = logistic.sides(x, t * pos, one - t)
        large, small, log_u = logistic.sigmoid(logistic.decay(x))
        loss = share * logistic.loss(x, right, wrong, log_u)
        total += maths.widen(loss)
        pull = share * pull
        if job.wanted & 1:
            store(job.results.loss.data, offset(job.results.loss, i, shape), loss)
        g, h = logistic.gradient(x, right, wrong, large, small), logistic.curvature(right, wrong, large, small)
        if job.wanted & 2:
            store(job.results.grad.data, offset(job.results.grad, i, shape), pull * g)
        if job.wanted & 4:
            store(job.results.hess.data, offset(job.results.hess, i, shape), pull * h)
        i += step()
    total = agree_sum(total, at, TOP, False)
    if thread() == 0:
        store(job.sums, block(), total)


@device
def factor(view, i, p, shape):
    """As numbers of p are worked on."""
    return load_like(view.data, offset(view, i, shape), p)


# --- softmax's Jacobian -----------------------------------------------------------------------------------------------


class Product(NamedTuple):
    p: View
    v: View
    out: View
    b: int
    classes: int
    rows: int


def softmax_vjp(job):
    """p·(v − ⟨p, v⟩), a block a row."""
    at = Where(cuda.shared.array(PLACES, float64), thread(), threads(), 0, 1)
    row = block()
    while row < job.rows:
        a = row // job.b
        b = row - a * job.b
        p, v = a * job.p.a + b * job.p.b, a * job.v.a + b * job.v.b
        dot = 0.0
        c = thread()
        while c < job.classes:
            x, y = load(job.p.data, p + c * job.p.c), load(job.v.data, v + c * job.v.c)
            dot = maths.fma(maths.widen(x), maths.widen(y), dot)
            c += threads()
        dot = agree_sum(dot, at, 0, False)
        mean, rest = maths.in_two_parts(dot, number(0.0, job.p.data))
        c = thread()
        while c < job.classes:
            x, y = load(job.p.data, p + c * job.p.c), load(job.v.data, v + c * job.v.c)
            product = maths.jacobian_product(x, y, mean, rest)
            store(job.out.data, a * job.out.a + b * job.out.b + c * job.out.c, product)
            c += threads()
        agree_sum(0.0, at, 1, False)  # the next row may not begin before all have read this one's sum
        row += blocks()
