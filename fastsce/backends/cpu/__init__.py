"""The CPU backend: explicit SIMD from numba, one pass over the logits and one over the gradient.

Arrays are NumPy views with the class axis last; `fastsce.backends.reference` says what each function does.
"""

from __future__ import annotations

import math

import numpy as np

from fastsce.backends.cpu import columns, elementwise, rows
from fastsce.backends.cpu.labels import scan_labels
from fastsce.backends.cpu.layout import blocks, compute_dtype, constant, contiguous, stored
from fastsce.backends.cpu.plan import GRADIENT, HESSIAN, LOG_SOFTMAX, NOTHING, Law, Plan
from fastsce.backends.cpu.threads import cache_directory, thread_count, threading_layer
from fastsce.spec import BFLOAT16, Spec

__all__ = [
    "backward",
    "binary",
    "cache_directory",
    "forward_backward",
    "log_softmax",
    "scan_labels",
    "softmax_vjp",
    "thread_count",
    "threading_layer",
]

STREAM_BYTES = 32 << 20  # of logits: from here on the gradient is written past the caches
SHORT = 192  # classes: rows with fewer are worked on side by side
LONGEST_COLUMN = 16384  # classes: tiles of 16 longer columns would leave the caches; their rows are copied instead
PIECE_BYTES = 4 << 20  # of a soft target whose dtype has to be converted on the way


def forward_backward(spec, logits, target, weight, row_scale, *, loss, lse, grad=None, hess=None):
    write = NOTHING if grad is None else GRADIENT if hess is None else HESSIAN
    run(spec, logits, target, weight, row_scale, loss, lse, grad, hess, write=write, saved=False)


def backward(spec, logits, target, weight, row_scale, *, lse, grad):
    run(spec, logits, target, weight, row_scale, None, lse, grad, None, write=GRADIENT, saved=True)


def log_softmax(logits, *, out):
    shape = logits.shape[:-1]
    loss, lse, scale = np.empty(shape), np.empty(shape), constant(1.0, shape)
    run(Spec(), logits, None, None, scale, loss, lse, out, None, write=LOG_SOFTMAX, saved=False)


def run(spec, logits, target, weight, row_scale, loss, lse, grad, hess, *, write, saved):
    """Lay the call out for the kernels, and pick one."""
    if not logits.size:
        return
    classes = logits.shape[-1]
    dtype = compute_dtype(logits)
    soft = target is not None and target.ndim == logits.ndim
    if soft and not native(target, logits):
        for piece in pieces(logits.shape[:-1], classes):
            t = float_copy(target[piece], dtype)
            out = {"loss": loss, "lse": lse, "grad": grad, "hess": hess}
            out = {name: None if a is None else a[piece] for name, a in out.items()}
            run(spec, logits[piece], t, weight, row_scale[piece], **out, write=write, saved=saved)
        return
    w = np.ones(classes, dtype) if weight is None else weight.astype(dtype)
    capped = spec.softcap is not None
    law = Law(
        keep=1.0 - spec.label_smoothing,
        off=0.0 if target is None else spec.label_smoothing / classes,
        total=float(w.sum(dtype=np.float64)),
        z_loss=spec.z_loss,
        gain=spec.softcap if capped else spec.logit_scale,
        inner=spec.logit_scale / spec.softcap if capped else spec.logit_scale,
        scale=spec.logit_scale,
    )
    untargeted = target is None
    if untargeted:
        target = constant(0, logits.shape[:-1], np.int64)
    stream = write != NOTHING and logits.nbytes >= STREAM_BYTES
    wide = [stored(a) for a in (logits, grad, hess, target if soft else None)]
    narrow = (row_scale, loss, lse, None if soft else target)
    for (x, g, h, q), (scale, losses, sums, labels) in blocks(wide, narrow):
        nothing = np.empty((0, 0, 0), x.dtype)
        arrays = [a for a in (x, g, h, q) if a is not None]
        kernel, how = choose(arrays, write)
        plan = Plan(
            write=write,
            saved=saved,
            stream=stream and not how.get("copies") and all(a.flags.aligned for a in arrays),
            weighted=weight is not None,
            untargeted=untargeted,
            ignore_index=spec.ignore_index,
            **how,
        )
        kernel(
            x,
            q if soft else labels,
            w,
            scale,
            np.empty(0) if losses is None else losses,
            sums,
            nothing if g is None else g,
            nothing if h is None else h,
            law,
            spec.softcap,
            plan,
        )


def choose(arrays, write):
    """The kernel for a block of rows, and the part of its plan that depends on their layout."""
    a, b, classes = arrays[0].shape
    side_by_side = all(contiguous(x) for x in arrays)
    either = all(contiguous(x) or x.strides[1] == x.itemsize for x in arrays)
    if classes < SHORT or (either and not side_by_side and classes <= LONGEST_COLUMN):
        lanes = columns.tile_lanes(classes, b, compute_dtype(arrays[0]).itemsize, side_by_side)
        parts = min(thread_count(), a * -(-b // lanes))
        return columns.columns, {"parts": parts, "scratch": columns.scratch_bytes(classes, lanes), "lanes": lanes}
    keep = classes <= rows.KEEP or write == HESSIAN  # gradient and Hessian are both written, one may be on the logits
    copies = not side_by_side
    group = rows.group_rows(classes, keep, copies)
    scratch = rows.scratch_bytes(classes, keep, group, copies)
    parts = min(thread_count(), a * b)
    return rows.rows, {"parts": parts, "scratch": scratch, "keep": keep, "copies": copies, "group": group}


def softmax_vjp(p, v, *, out):
    if p.size:
        for views, _ in blocks([stored(a) for a in (p, v, out)], []):
            elementwise.softmax_vjp(*views, min(thread_count(), p.size // p.shape[-1]))


def binary(logits, target, weight, sample_weight, pos_weight, upstream, *, loss=None, grad=None, hess=None):
    if not logits.size:
        return 0.0
    if not native(target, logits):
        total = 0.0
        for piece in pieces(logits.shape, 1):
            inputs = [a[piece] for a in (weight, sample_weight, pos_weight, upstream)]
            outputs = {n: a[piece] for n, a in (("loss", loss), ("grad", grad), ("hess", hess)) if a is not None}
            total += binary(logits[piece], float_copy(target[piece], compute_dtype(logits)), *inputs, **outputs)
        return total
    dtype = compute_dtype(logits)
    factors = [as_dtype(a, dtype) for a in (weight, sample_weight, pos_weight, upstream)]
    elements = [None if a is None else stored(a)[..., None] for a in (logits, target, *factors, loss, grad, hess)]
    nothing = [np.empty((0, 0, 0), d) for d in (dtype, stored(logits).dtype, stored(logits).dtype)]
    total = 0.0
    for views, _ in blocks(elements, []):  # of shape (A, B, 1): every element is a row
        runs = [None if a is None else a.transpose(0, 2, 1) for a in views]
        written = [empty if a is None else a for a, empty in zip(runs[6:], nothing, strict=True)]
        a, b, _ = np.shape(views[0])
        sums = np.empty(a * -(-b // elementwise.RUN))
        elementwise.binary(*runs[:6], *written, sums, min(thread_count(), sums.size))
        total += float(sums.sum())
    return total


def native(target, logits):
    """Whether a kernel reads this target as it is."""
    return target.dtype in (logits.dtype, compute_dtype(logits)) and target.dtype.isnative


def float_copy(target, dtype):
    return bfloat16_values(target).astype(dtype) if target.dtype == BFLOAT16 else target.astype(dtype)


def bfloat16_values(a):
    return (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def pieces(rows, width):
    """Indices that cut arrays of shape (*rows, width) into parts of some PIECE_BYTES as float64."""
    if not rows:
        yield (...,)
        return
    step = PIECE_BYTES // (8 * width * math.prod(rows[1:]))
    for start in range(0, rows[0], max(step, 1)):
        part = slice(start, start + max(step, 1))
        for rest in [(...,)] if step else pieces(rows[1:], width):
            yield (part, *rest)


def as_dtype(a, dtype):
    """A broadcast array in another dtype, still broadcast."""
    if a.dtype == dtype:
        return a
    small = a[tuple(slice(0, 1) if s == 0 else slice(None) for s in a.strides)]
    return np.broadcast_to(small.astype(dtype), a.shape)
