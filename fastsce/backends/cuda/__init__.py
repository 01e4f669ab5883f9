"""The CUDA backend: one launch reads the logits, and writes loss and gradient.

Arrays are `device.DeviceArray` views with the class axis last; `fastsce.backends.reference` says what each function
does. Nothing waits for the GPU unless labels are to be checked before anything is written.
"""

from __future__ import annotations

import math

import numpy as np

from fastsce.backends.cuda import chores
from fastsce.backends.cuda import elementwise as kernels
from fastsce.backends.cuda.chores import finished, line, nothing, pointer, view
from fastsce.backends.cuda.chores import labels as int64_labels
from fastsce.backends.cuda.geometry import SHORT, WORD, arrange, kernel, most_threads
from fastsce.backends.cuda.job import GRADIENT, HESSIAN, LOG_SOFTMAX, NOTHING, Job, Plan, View
from fastsce.backends.cuda.launch import gpus, limits, read, run
from fastsce.law import law_of
from fastsce.layout import blocks, compute_dtype, runs
from fastsce.spec import Spec

__all__ = [
    "backward",
    "binary",
    "chores",
    "finished",
    "forward_backward",
    "gpus",
    "int64_labels",
    "log_softmax",
    "reduce",
    "scan_labels",
    "softmax_vjp",
]

NO_SCALE = chores.Scale(1.0, None, None, None)
FLOAT64 = np.dtype(np.float64)
MOST_CLASSES = 2**31 - 2**20  # a thread counts them in 32 bits, some slots beyond the last


def scan_labels(spec, labels, classes, weight, sample_weight, summed=True, checked=None):
    """−1, what the mean divides by, and the weights of classes and of rows, in float64; the first bad row, where labels
    are checked before anything is written.
    """
    share = None if sample_weight is None else chores.numbers(sample_weight)
    if not labels.size or not (summed or checked):
        return -1, math.nan, weight, share
    found = chores.scan(labels, classes, spec.ignore_index, weight, share)
    bad = int(read(pointer(found), found.home)) if checked else -1
    return bad, chores.Normaliser(found[1:2], found[2:3]), weight, share


def forward_backward(spec, logits, target, weight, row_scale, *, loss, lse, grad=None, hess=None, summed=False):
    write = NOTHING if grad is None else GRADIENT if hess is None else HESSIAN
    softmax(spec, logits, target, weight, row_scale, loss, lse, grad, hess, write=write, saved=False)


def backward(spec, logits, target, weight, row_scale, *, lse, grad):
    softmax(spec, logits, target, weight, row_scale, lse, lse, grad, None, write=GRADIENT, saved=True)


def log_softmax(logits, *, out):
    lse = chores.empty(logits, logits.shape[:-1], np.float64)
    softmax(Spec(), logits, None, None, NO_SCALE, lse, lse, out, None, write=LOG_SOFTMAX, saved=False)


def reduce(losses, divisor, *, out):
    if isinstance(divisor, chores.Normaliser):
        chores.add_up(losses, 1.0, divisor.total, out)
    else:
        chores.add_up(losses, divisor, None, out)


def softmax(spec, logits, target, weight, scale, loss, lse, grad, hess, *, write, saved):
    """Lay the call out for the kernel, and launch it."""
    classes, dtype, home = logits.shape[-1], compute_dtype(logits), logits.home
    if classes > MOST_CLASSES:
        raise ValueError(f"rows of {classes} classes are too long for a GPU; it takes up to {MOST_CLASSES}")
    soft = target is not None and target.ndim == logits.ndim
    law = law_of(spec, classes, dtype)
    total = None
    if weight is not None:
        total = chores.empty(weight, (1,), np.float64)
        chores.add_up(weight, 1.0, None, total)
        weight = chores.as_dtype(weight, dtype)
    shared = soft or law.off > 0.0
    precise = logits.dtype == dtype
    heavy = spec.softcap is not None or write == HESSIAN
    most = limits(home.index)
    threads = most_threads(most.threads, logits.itemsize, shared, spec.softcap is not None)
    upstream = scale.upstream if scale.upstream is not None and scale.upstream.ndim else None
    single = scale.upstream if upstream is None else None
    wide = [logits, grad, hess, target if soft else None]
    narrow = (upstream, scale.sample_weight, loss, lse, None if soft else target)
    for (x, g, h, q), (ups, samples, losses, sums, labels) in blocks(wide, narrow):
        rows, words, across = x.shape[0] * x.shape[1], in_words(x, g, h), neighbours(x)
        shape = arrange(rows, classes, x.itemsize, words, across, heavy, most.processors, most.shared, threads)
        plan = Plan(
            rows=rows,
            inner=x.shape[1],
            per_inner=1.0 / x.shape[1],
            classes=classes,
            ignore_index=spec.ignore_index,
            labelled=int(labels is not None),
            saved=int(saved),
            team=shape.team,
            kept=shape.kept,
        )
        absent = View(nothing(x.dtype), 0, 0, 0)
        job = Job(
            logits=view(x),
            grad=absent if g is None else view(g),
            hess=absent if h is None else view(h),
            soft=absent if q is None else view(q),
            labels=nothing(np.int64) if labels is None else pointer(labels),
            weight=nothing(dtype) if weight is None else pointer(weight),
            total=line(None) if total is None else line(total[0:1].reshape(())),
            factor=scale.factor,
            inverse=line(None) if scale.inverse is None else line(scale.inverse.reshape(())),
            upstream=line(ups if single is None else single),
            sample_weight=line(samples),
            loss=pointer(losses),
            lse=pointer(sums),
            law=law,
            plan=plan,
        )
        variant = kernel(shape.regime, shape.slots, shared, soft, spec.softcap is not None, write, precise)
        run(variant, job, shape.grid, shape.block, home, shape.kept * WORD, threads)


def in_words(x, *others):
    """Whether rows move word by word: classes side by side, each result at the same place of a word as its logit."""
    if x.strides[2] != x.itemsize and x.shape[2] > 1:
        return False
    start = pointer(x).address
    for a in others:
        if a is None:
            continue
        steps = zip(a.strides[:2], x.strides[:2], x.shape[:2])
        if any((s - t) % WORD and n > 1 for s, t, n in steps) or (pointer(a).address - start) % WORD:
            return False
        if a.strides[2] != a.itemsize and a.shape[2] > 1:
            return False
    return True


def neighbours(x):
    """How many rows lie closer to each other than one row's classes do, or are so short that it is all the same."""
    closer = abs(x.strides[1]) < abs(x.strides[2]) or x.shape[2] * x.itemsize < SHORT
    return x.shape[1] if closer else 1


def softmax_vjp(p, v, *, out):
    if p.size:
        for (p_, v_, out_), _ in blocks([p, v, out], []):
            rows = p_.shape[0] * p_.shape[1]
            job = kernels.Product(view(p_), view(v_), view(out_), p_.shape[1], p_.shape[2], rows)
            run(kernels.softmax_vjp, job, min(rows, 1 << 20), (chores.THREADS, 1), out.home)


def binary(logits, target, weight, sample_weight, pos_weight, upstream, *, loss=None, grad=None, hess=None):
    """Sums of the losses, one a block."""
    home, dtype = logits.home, compute_dtype(logits)
    if not logits.size:
        return home.empty((0,), FLOAT64)
    ups = upstream.upstream
    if ups is not None and ups.ndim == 0:
        ups = np.broadcast_to(ups, logits.shape, subok=True)
    factors = [weight, sample_weight, pos_weight, ups]
    arrays = [a if isinstance(a, np.ndarray) else None for a in factors]
    results = [loss, grad, hess]
    sums = []
    for views in runs([logits, target, *[logits if a is None else a for a in arrays + results]]):
        x, t, *others = (view(a) for a in views)
        blank = [View(nothing(kind), 0, 0, 0) for kind in (dtype, logits.dtype, logits.dtype)]
        pieces = home.empty((chores.blocks_for(logits.size),), FLOAT64)
        job = kernels.Binary(
            logits=x,
            target=t,
            factors=kernels.Factors(*others[:4]),
            given=bits(arrays),
            share=math.prod((float(a) for a in factors[:2] if not isinstance(a, np.ndarray)), start=1.0),
            pos=1.0 if isinstance(pos_weight, np.ndarray) else float(pos_weight),
            factor=upstream.factor,
            results=kernels.Results(*[v if a is not None else b for v, a, b in zip(others[4:], results, blank)]),
            wanted=bits(results),
            sums=pointer(pieces),
            shape=chores.shape_of(views[0]),
        )
        run(kernels.binary, job, pieces.size, (chores.THREADS, 1), home)
        sums.append(pieces)
    if len(sums) == 1:
        return sums[0]
    out = home.empty((len(sums),), FLOAT64)
    for i, pieces in enumerate(sums):
        chores.add_up(pieces, 1.0, None, out[i : i + 1])
    return out


def bits(given):
    """One for each that is not None."""
    return sum(1 << i for i, a in enumerate(given) if a is not None)
