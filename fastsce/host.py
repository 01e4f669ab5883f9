"""What a call does with its arrays besides the loss itself, where they lie in NumPy's reach.

Every backend of the CPU offers these; a backend of another device has its own of the same names.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastsce import results, scratch
from fastsce.layout import bfloat16_values, order, pieces
from fastsce.spec import BFLOAT16

FLOAT64, INT64 = np.dtype(np.float64), np.dtype(np.int64)


def empty(x, shape, dtype):
    """Memory for a result, beside the array x."""
    if dtype.itemsize * math.prod(shape) >= results.LEAST:
        return results.empty(shape, dtype, range(len(shape)))
    return np.empty(shape, dtype)


def empty_like(x):
    """Memory as x lies in it, but for rows that are one row again and again: NumPy would lay theirs across."""
    if x.nbytes >= results.LEAST:
        return results.empty(x.shape, x.dtype, range(x.ndim) if 0 in x.strides else order(x))
    return np.empty(x.shape, x.dtype) if 0 in x.strides else np.empty_like(x)


def number(x, a):
    """A number's array, where x is."""
    return a


def borrow(x, shape):
    """Float64 memory for numbers that the caller does not see."""
    return scratch.floats(shape) if 8 * math.prod(shape) <= scratch.LARGEST else empty(x, shape, FLOAT64)


def numbers(a):
    """A float64 copy of a view's values, which the caller does not see."""
    return copied(a, borrow(a, a.shape))


def as_dtype(a, dtype):
    return a if a.dtype == dtype else copied(a, empty(a, a.shape, dtype))


def labels(target):
    """As int64, side by side; labels that do not fit have been refused."""
    if target.dtype == INT64 and target.flags.c_contiguous:
        return target
    return copied(target, borrow(target, target.shape).view(INT64))


def copied(a, out):
    with np.errstate(all="ignore"):
        for piece in pieces(a.shape):
            out[piece] = values(a[piece])
    return out


def values(a):
    """As NumPy knows them: a bfloat16 is the upper half of a float32."""
    return bfloat16_values(a) if a.dtype == BFLOAT16 else a


def item(a, i):
    """The i-th number of an array."""
    return a.reshape(-1)[i] if a.ndim else a[()]


class Scale(NamedTuple):
    """What gradients are multiplied by, in float64: a number for all, and one for each, where it is not None."""

    factor: float
    each: np.ndarray | None = None


def scale(upstream, normaliser, sample_weight):
    """upstream × sample_weight ÷ normaliser; None stands for 1. What has one for each loss is divided by nothing."""
    if upstream is None:
        return Scale(1.0 / normaliser if normaliser else float("inf"), sample_weight)
    if not upstream.ndim:
        with np.errstate(all="ignore"):
            return Scale(float(np.divide(upstream, normaliser, dtype=FLOAT64)), sample_weight)
    each = numbers(upstream)
    if sample_weight is not None:
        multiply(each, sample_weight)
    return Scale(1.0, each)


def scaled(factors):
    """Of a Scale, both in one: a number, or an array."""
    if factors.each is None:
        return factors.factor
    return factors.each if factors.factor == 1.0 else factors.factor * factors.each


def weigh(losses, sample_weight, labels, ignore_index):
    """Multiply losses by their rows' weights; `labels` is None where there are none. An ignored row stays 0."""
    multiply(losses, sample_weight)
    if labels is not None:
        for piece in pieces(losses.shape):
            if not np.isfinite(sample_weight[piece]).all():
                losses[piece][labels[piece] == ignore_index] = 0.0


def multiply(a, b):
    """a times b, in its place."""
    with np.errstate(all="ignore"):
        for piece in pieces(a.shape):
            np.multiply(a[piece], b[piece], out=a[piece])


def finished(losses, sample_weight, labels, ignore_index, dtype):
    """What the caller gets of losses, one a row."""
    if sample_weight is not None:
        weigh(losses, sample_weight, labels, ignore_index)
    return as_dtype(losses, dtype)


def mend(logits, lse):
    """For rows of −inf only, or with +inf or NaN, where lse is NaN: the largest element is the answer."""
    for piece in pieces(lse.shape, logits.shape[-1]):
        found = lse[piece]
        odd = np.isnan(found)
        if odd.any():
            found[odd] = values(logits[piece][odd]).max(-1)


def identity(x, n):
    """The n × n identity matrix, in the dtype of x."""
    if x.dtype != BFLOAT16:
        return np.eye(n, dtype=x.dtype)
    return (np.eye(n, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)
