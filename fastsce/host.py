"""What a call does with its arrays besides the loss itself, where they lie in NumPy's reach.

Every backend of the CPU offers these; a backend of another device has its own of the same names.
"""

from __future__ import annotations

import numpy as np

from fastsce import scratch
from fastsce.spec import BFLOAT16

INT64 = np.dtype(np.int64)


def empty(x, shape, dtype):
    """Memory for a result, beside the array x."""
    return np.empty(shape, dtype)


def empty_like(x):
    return np.empty_like(x)


def number(x, a):
    """A number's array, where x is."""
    return a


def borrow(x, shape, reduced):
    """Float64 memory for losses; they are not seen by the caller if they are reduced."""
    return scratch.floats(shape) if reduced and 8 * x.size >= scratch.SMALL else np.empty(shape)


def give_back(losses):
    if losses.base is not None:
        scratch.give_back(losses.base)


def numbers(a):
    """A float64 copy of a view's values; a bfloat16 is the upper half of a float32."""
    if a.dtype == BFLOAT16:
        a = (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return np.array(a, np.float64, order="C")


def as_dtype(a, dtype):
    with np.errstate(all="ignore"):
        return np.asarray(a, dtype)


def labels(target):
    """As int64, side by side; labels that do not fit have been refused."""
    if target.dtype == INT64 and target.flags.c_contiguous:
        return target
    return np.ascontiguousarray(target, dtype=np.int64).reshape(target.shape)


def item(a, i):
    """The i-th number of an array."""
    return a.reshape(-1)[i] if a.ndim else a[()]


def scale(upstream, normaliser, sample_weight):
    """upstream × sample_weight ÷ normaliser in float64: one number for all rows, or one a row; None stands for 1."""
    if upstream is None:
        quotient = 1.0 / normaliser if normaliser else float("inf")
    else:
        with np.errstate(all="ignore"):
            quotient = upstream.astype(np.float64) / np.float64(normaliser)
        quotient = quotient if quotient.ndim else float(quotient)
    if sample_weight is None:
        return quotient
    with np.errstate(all="ignore"):
        return np.asarray(quotient * sample_weight)


def weigh(losses, sample_weight, labels, ignore_index):
    """Multiply losses by their rows' weights; `labels` is None where there are none. An ignored row stays 0."""
    with np.errstate(all="ignore"):
        np.multiply(losses, sample_weight, out=losses)
    if labels is not None and not np.isfinite(sample_weight).all():
        losses[labels == ignore_index] = 0.0


def mend(logits, lse):
    """For rows of −inf only, or with +inf or NaN, where lse is NaN: the largest element is the answer."""
    odd = np.isnan(lse)
    if odd.any():
        lse[odd] = numbers(logits[odd]).max(-1)


def identity(x, n):
    """The n × n identity matrix, in the dtype of x."""
    if x.dtype != BFLOAT16:
        return np.eye(n, dtype=x.dtype)
    return (np.eye(n, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)
