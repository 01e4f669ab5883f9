"""The CPU backend: explicit SIMD from numba, one pass over the logits and one over the gradient.

Arrays are NumPy views with the class axis last; `fastsce.backends.reference` says what each function does.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np

from fastsce import host as chores
from fastsce.backends.cpu import bands, columns, elementwise, few, room, rows, threads, vjp
from fastsce.backends.cpu.coefficients import optionless
from fastsce.backends.cpu.labels import (
    finished,
    in_order,
    int64_labels,
    of_rows_alone,
    scan_labels,
    sum_losses,
    sum_weighted,
)
from fastsce.backends.cpu.parts import JOB_BYTES
from fastsce.backends.cpu.plan import GRADIENT, HESSIAN, LOG_SOFTMAX, NOTHING, Block, Plan
from fastsce.backends.cpu.small import small, small_bytes
from fastsce.backends.cpu.threads import cache_directory, parts_of, thread_count, threading_layer
from fastsce.backends.cpu.tuning import (
    ALONE,
    COPIES,
    DESK_CLASSES,
    FEW_BYTES,
    GROUP_CLASSES,
    GROUP_CLASSES_BEHIND,
    GROUP_CLASSES_FAR,
    KEEP_BYTES,
    LONGEST_COLUMN,
    PIECE,
    SHORT,
    SHORT_APART,
    STREAM_BYTES,
    STREAM_ROW_BYTES,
    TOGETHER,
    TOGETHER_SAVED,
)
from fastsce.backends.cpu.ways import line_by_line, line_shared, sheets_side_by_side, way_out
from fastsce.backends.cpu.weights import equal_weights, ones, weighted
from fastsce.law import law_of
from fastsce.layout import (
    STORAGE,
    adjoins,
    blocks,
    broadcast_as,
    compute_dtype,
    contiguous,
    float_copy,
    native,
    pieces,
    runs,
    stored,
)
from fastsce.scratch import borrow, copy_of, floats, give_back
from fastsce.spec import Spec

__all__ = [
    "backward",
    "binary",
    "cache_directory",
    "chores",
    "finished",
    "forward_backward",
    "int64_labels",
    "log_softmax",
    "reduce",
    "scan_labels",
    "small_call",
    "softmax_vjp",
    "thread_count",
    "threading_layer",
]

NO_LABELS = np.zeros(1, np.int64)


def forward_backward(spec, logits, target, weight, row_scale, *, loss, lse, grad=None, hess=None, summed=False):
    write = NOTHING if grad is None else GRADIENT if hess is None else HESSIAN
    how = {"write": write, "saved": False, "summed": summed}
    total = run(spec, logits, target, weight, row_scale, loss, lse, grad, hess, **how)
    if summed and total is None and row_scale.each is not None:
        return sum_weighted(loss.reshape(-1), row_scale.each.reshape(-1))
    return total


def backward(spec, logits, target, weight, row_scale, *, lse, grad):
    run(spec, logits, target, weight, row_scale, None, lse, grad, None, write=GRADIENT, saved=True)


def log_softmax(logits, *, out):
    loss, lse = floats(logits.shape[:-1]), floats(logits.shape[:-1])
    run(Spec(), logits, None, None, chores.Scale(1.0), loss, lse, out, None, write=LOG_SOFTMAX, saved=False)


def reduce(losses, divisor, *, out):
    if isinstance(losses, float):  # their sum
        with np.errstate(all="ignore"):
            out[...] = losses / divisor
    else:
        sum_losses(losses.ravel(), divisor, out)


def run(spec, logits, target, weight, row_scale, loss, lse, grad, hess, *, write, saved, summed=False):
    """Lay the call out for the kernels, and pick one. If no more is wanted of the losses than their sum, it may be
    returned, and they are not written then.
    """
    if not logits.size:
        return
    classes = logits.shape[-1]
    dtype = compute_dtype(logits)
    soft = target is not None and target.ndim == logits.ndim
    if soft and not native(target, logits):
        for piece in pieces(logits.shape[:-1], classes):
            t = float_copy(target[piece], dtype)
            scale = row_scale._replace(each=row_scale.each if row_scale.each is None else row_scale.each[piece])
            results = [a if a is None else a[piece] for a in (loss, lse, grad, hess)]
            run(spec, logits[piece], t, weight, scale, *results, write=write, saved=saved)
        return
    law = law_of(spec, classes, dtype)
    if weight is not None:
        law, w = weighted(law, weight, dtype)
    elif soft or not optionless(law, False):
        w = equal_weights(classes, dtype)
    else:  # nobody reads it
        w = nothing(dtype, 1)
    large = write != NOTHING and logits.nbytes >= STREAM_BYTES
    wide = [logits, grad, hess, target if soft else None]
    if logits.dtype in STORAGE:
        wide = [stored(a) for a in wide]
    empty = nothing(wide[0].dtype, 3)
    narrow = (row_scale.each, loss, lse, None if soft else target)
    for arrays, (scales, losses, sums, labels) in blocks(wide, narrow):
        x, g, h, q = arrays
        given, results = [a for a in arrays if a is not None], [a for a in (g, h) if a is not None]
        contiguous_rows, aligned = all(map(contiguous, given)), all(a.flags.aligned for a in given)
        stream = large and aligned
        if contiguous_rows and write == GRADIENT:
            stream = stream and classes * x.itemsize >= STREAM_ROW_BYTES
        plain = nothing_else(spec, law, weight is not None)
        simple = not (soft or saved or write == LOG_SOFTMAX)
        simple = simple and (write == GRADIENT or (plain and spec.softcap is None))
        side_by_side = not contiguous_rows and all(a.strides[1] == a.itemsize for a in given)
        few_classes, few_stream, whole = FEW_BYTES // dtype.itemsize if simple else 0, False, True
        if side_by_side:
            few_classes, few_stream, whole = sheets_side_by_side(x, results, few_classes, stream)
        elif not (contiguous_rows and all(map(adjoins, given))):
            few_classes = 0
        banded = write in (NOTHING, GRADIENT) and not (contiguous_rows or soft or saved or spec.softcap is not None)
        behind, desk = way_out(g, stream and write == GRADIENT, not saved and is_scaled(spec, law, soft, weight))
        block = Block(
            x.shape,
            dtype.itemsize,
            contiguous=contiguous_rows,
            either=contiguous_rows or all(contiguous(a) or a.strides[1] == a.itemsize for a in given),
            aligned=aligned,
            few_classes=few_classes,
            few_stream=few_stream,
            banded=banded and side_by_side,
            apart=soft or spec.softcap is not None,
            summed=summed and whole and target is not None and sums.size == lse.size,
            line=line_shared(g),
            stream_rows=stream and (write == GRADIENT or (line_by_line(g) and line_by_line(h))),
            behind=behind,
            desk=desk,
        )
        parts = parts_of(x.nbytes, sums.size)
        asked = Plan(parts, write, saved, stream, weight is not None, target is None, spec.ignore_index)
        kernel, plan, scratch = plan_of(block, asked, thread_count())
        if plan.summed:
            losses = np.empty(-(-sums.size // PIECE))
        form, chosen = choice(kernel, x.dtype, classes, write, spec, plain, q.dtype.char if soft else "")
        args = (
            x,
            NO_LABELS if target is None else q if soft else labels,
            w,
            (ones(1, np.float64) if scales is None else scales, row_scale.factor),
            sums if losses is None else losses,
            sums,
            empty if g is None else g,
            empty if h is None else h,
            law,
            chosen,
            plan,
        )
        threads.run(kernel, form, args, plan.parts, scratch, x.nbytes * (COPIES if plan.copies else 1))
    return in_order(losses) if plan.summed else None


@lru_cache(maxsize=64)
def plan_of(block, asked, workers):
    """The kernel for a block of rows, its plan, and the bytes of memory that each thread needs to itself."""
    (a, b, classes), size = block.shape, block.shape[2] * block.itemsize
    if 2 <= classes <= block.few_classes and (a == 1 or not block.contiguous):
        pieces = -(-a * b // PIECE)
        summed = block.summed and pieces >= 4 * workers  # a part has whole pieces
        parts = min(asked.parts, pieces) if summed else asked.parts
        plan = asked._replace(parts=parts, summed=summed, stream=block.few_stream, side=not block.contiguous)
        return few.few, plan, few.scratch_bytes(classes, block.itemsize)
    if size < 4 * (SHORT if block.contiguous else SHORT_APART) or (
        block.either and not block.contiguous and classes <= LONGEST_COLUMN
    ):
        if block.banded and bands.suits(classes, block.itemsize):
            return bands.bands, *bands.planned(block, asked, workers)
        return columns.columns, *columns.planned(block, asked, workers)
    keep = asked.write == GRADIENT and not asked.saved and size <= KEEP_BYTES
    keep = keep or asked.write == HESSIAN  # gradient and Hessian are both written, one may be on the logits
    copies, parts = not (block.contiguous and block.aligned), asked.parts
    if copies and parts > 1:
        parts = min(COPIES * parts, a * b)
    behind = block.behind and keep and not copies
    together = classes <= (TOGETHER_SAVED if asked.saved else TOGETHER)
    most = GROUP_CLASSES
    if together and (asked.stream or asked.write == NOTHING):
        most = GROUP_CLASSES_BEHIND if behind else GROUP_CLASSES_FAR
    group = room.group_rows(classes, copies, most)
    desk = (group if together else DESK_CLASSES // classes) if block.desk and not copies else 0
    stream = block.stream_rows and not copies and not desk
    how = {"together": together, "keep": keep, "behind": behind, "copies": copies, "group": group, "desk": desk}
    plan = asked._replace(parts=parts, stream=stream, **how)
    return rows.rows, plan, room.scratch_bytes(classes, plan)


def choice(kernel, dtype, classes, write, spec, plain, soft=""):
    """From which the types of arguments follow, and what chooses code: `known`, `smooth` or the softcap."""
    if kernel is few.few:
        softcap = None if spec.softcap is None else True
        known = (0,) * classes, (0,) * write, None if plain else True, softcap
        return (dtype.char, classes, write, *known[2:]), known
    if kernel is bands.bands:
        return (dtype.char, spec.label_smoothing > 0.0), True if spec.label_smoothing > 0.0 else None
    return (dtype.char, soft, spec.softcap is None), spec.softcap


def nothing_else(spec, law, weighted):
    """Whether there are no options, or a softcap alone."""
    return optionless(law if spec.softcap is None else law._replace(gain=1.0), weighted)


def is_scaled(spec, law, soft, weight):
    """Whether a gradient is terms, times a factor, minus targets or weights as they lie in memory, times another."""
    if soft:
        return law.keep == 1.0 and law.off == 0.0 and weight is None and spec.softcap is None
    return law.off == 0.0 or spec.softcap is None


def small_call(spec, dtype, shape, gradient):
    """A function of (divisor, logits, labels, weight, sample_weight, losses, lse, grad) for calls of this kind; None if
    they are too large.
    """
    (rows, classes), size = shape, dtype.itemsize * math.prod(shape)
    if size >= STREAM_BYTES or rows > ALONE:  # threads look through labels whose eighth has so many bytes
        return None
    example = np.empty((1, 1, 1), dtype)
    wide, dtype = stored(example), compute_dtype(example)
    unweighted, write = law_of(spec, classes, dtype), GRADIENT if gradient else NOTHING
    equal = nothing(dtype, 1) if optionless(unweighted, False) else equal_weights(classes, dtype)

    def planned(parts, weights):
        simple = gradient or (spec.softcap is None and nothing_else(spec, unweighted, weights))
        few_classes = FEW_BYTES // dtype.itemsize if simple else 0
        block = Block((1, rows, classes), dtype.itemsize, few_classes=few_classes, apart=spec.softcap is not None)
        return plan_of(block, Plan(parts, write, False, False, weights, False, spec.ignore_index), parts)

    numbers, memory = np.empty(1), np.empty(JOB_BYTES, np.uint8)
    no_losses = nothing(dtype, 1)

    @cache
    def alone(weights):
        """The plan, the memory that a thread needs, and where the code is, which the kernel says."""
        kernel, plan, scratch = planned(1, weights)
        form, chosen = choice(kernel, wide.dtype, classes, write, spec, nothing_else(spec, unweighted, weights))
        rest = (unweighted, chosen, plan._replace(parts=2), memory)
        args = (wide, NO_LABELS, equal, (numbers, 1.0), numbers, numbers, wide, wide, *rest)
        return plan, scratch, kernel.entry(form, args)(*args)

    @cache
    def ready(counted, weights, parts, workers):
        """All that need not be found out for each call: of several parts, how many threads they are for, too."""
        (plan, scratch, address), several = alone(weights), 1
        if parts > 1:
            _, plan, scratch = planned(parts, weights)
            several = min(plan.parts, workers)
        own = several * scratch
        arrays = (wide[0], NO_LABELS, (numbers, numbers, True) if counted else None, no_losses, numbers, wide[0])
        args = (unweighted, spec.softcap, plan, equal, address, 1.0, *arrays, 0, False, memory)
        code = small.entry((wide.dtype.char, spec.softcap is None, counted), args)
        return code, plan, scratch, address, several, own, small_bytes(rows, own, counted)

    def run(divisor, logits, labels, weight, sample_weight, losses, lse, grad):
        law, w, counts, weights = unweighted, equal, None, False
        if weight is not None or sample_weight is not None:
            share, each = ones(classes, np.float64), ones(1, np.float64)
            if weight is not None:
                share = copy_of(weight)
                weights = not of_rows_alone(spec, share)
            if sample_weight is not None:
                each = copy_of(sample_weight)
            counts = share, each, not weights
        if weights:
            law, w = weighted(unweighted, share, dtype)
        if labels.dtype != np.int64:
            labels = copy_of(labels, np.int64)
        if wide is not example:
            logits, grad = stored(logits), stored(grad)
        parts, workers = (1, 1) if size <= ALONE else (parts_of(size, rows), thread_count())
        code, plan, scratch, address, several, own, needed = ready(counts is not None, weights, parts, workers)
        memory = borrow(needed)
        given = (logits, labels, counts, no_losses if losses is None else losses, lse, grad, own)
        found = code(law, spec.softcap, plan, w, address, divisor, *given, False, memory)
        if plan.parts > 1 and found is not None:
            threads.drive(address, memory, scratch, 0, plan.parts, several)
            found = code(law, spec.softcap, plan, w, address, found, *given, True, memory)
        give_back(memory)
        return found

    return run


@cache
def nothing(dtype, ndim):
    """Stands for what is not given or not asked for."""
    return np.empty((0,) * ndim, dtype)


def softmax_vjp(p, v, *, out):
    if p.size:
        size = 2 * p.nbytes
        parts = parts_of(size, p.size // p.shape[-1])
        arrays = [stored(a) for a in (p, v, out)]
        streams = p.nbytes >= STREAM_BYTES and arrays[2].flags.aligned
        for views, _ in blocks(arrays, []):
            if vjp.suits(views):
                plan, scratch = vjp.planned(views, compute_dtype(p).itemsize, parts, streams)
                threads.run(vjp.vjp, views[0].dtype.char, (*views, plan), plan.parts, scratch, size)
            else:
                args = (*views, streams, parts)
                threads.run(elementwise.softmax_vjp, views[0].dtype.char, args, parts, elementwise.SCRATCH, size)


def binary(logits, target, weight, sample_weight, pos_weight, upstream, *, loss=None, grad=None, hess=None):
    total = np.zeros(1)
    if not logits.size:
        return total
    factors, as_it_is = (weight, sample_weight, pos_weight, chores.scaled(upstream)), native(target, logits)
    with np.errstate(all="ignore"):
        for piece in [(...,)] if as_it_is else pieces(logits.shape):
            t = target[piece] if as_it_is else float_copy(target[piece], compute_dtype(logits))
            inputs = [a[piece] if isinstance(a, np.ndarray) else a for a in factors]
            outputs = [None if a is None else a[piece] for a in (loss, grad, hess)]
            total += binary_piece(logits[piece], t, inputs, outputs)
    return total


def binary_piece(logits, target, factors, outputs):
    """Of targets that a kernel reads: the sum of the losses."""
    dtype = compute_dtype(logits)
    operands = [broadcast_as(a, dtype) if isinstance(a, np.ndarray) else np.array(a, dtype, ndmin=3) for a in factors]
    kinds = (dtype, logits.dtype, logits.dtype)
    results = [nothing(kind, 3) if a is None else a for a, kind in zip(outputs, kinds)]
    arrays = [logits, target, *operands, *results]
    if logits.dtype in STORAGE:
        arrays = [stored(a) for a in arrays]
    streams = logits.nbytes >= STREAM_BYTES and all(a.flags.aligned for a in arrays[-len(results) :])
    form = (logits.dtype.char, target.dtype.char)
    total = np.zeros(1)
    for views in runs(arrays):
        a, _, b = views[0].shape
        sums = np.empty(a * -(-b // elementwise.RUN))
        size = logits.nbytes + target.nbytes
        parts = parts_of(size, sums.size)
        threads.run(elementwise.binary, form, (*views, sums, streams, parts), parts, elementwise.SCRATCH, size)
        total += sums.sum() if sums.size > 1 else sums[0]
    return total
