"""What a call does with its arrays besides the loss itself, where a GPU has them: the names of `fastsce.host`.

Nothing here waits for the GPU but `item`, which an error message asks for.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastsce.backends.cuda import elementwise as kernels
from fastsce.backends.cuda.job import Line, Pointer, View
from fastsce.backends.cuda.launch import read, run
from fastsce.device import DeviceArray
from fastsce.layout import blocks, runs

FLOAT64, INT64 = np.dtype(np.float64), np.dtype(np.int64)
THREADS = 256
MOST_BLOCKS = 1024  # of a kernel whose threads take every n-th number; not measured
PIECE = 8192  # numbers that are added up by one block


class Scale(NamedTuple):
    """What gradients are multiplied by: a number, and float64 arrays or None. Their product is formed on the GPU."""

    factor: float
    inverse: Any  # of the mean's divisor, one number
    upstream: Any  # one number, or one a row
    sample_weight: Any  # one a row


class Normaliser(NamedTuple):
    """Σ w_y·sample_weight and 1 ÷ it, which only the GPU knows."""

    total: Any
    inverse: Any


def pointer(a: Any) -> Pointer:
    return Pointer(a.__array_interface__["data"][0], a.dtype)


def nothing(dtype: Any) -> Pointer:
    return Pointer(0, np.dtype(dtype))


def view(a: Any) -> View:
    """Of an array (A, B, C)."""
    size = a.itemsize
    return View(pointer(a), *[s // size for s in a.strides])


def line(a: Any) -> Line:
    """Of one float64 a row, of one for all, or of None."""
    return Line(nothing(FLOAT64), -1) if a is None else Line(pointer(a), 1 if a.ndim else 0)


def blocks_for(size: int) -> int:
    return max(1, min(MOST_BLOCKS, -(-size // (4 * THREADS))))


def empty(x: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    return x.home.empty(shape, np.dtype(dtype))


def empty_like(x: Any) -> Any:
    return x.home.empty_like(x)


def number(x: Any, a: Any) -> Any:
    """A number of NumPy's in memory beside x."""
    kind, value = (INT64, int(a)) if a.dtype.kind in "iu" else (FLOAT64, float(a))
    out = empty(x, (), kind)
    run(kernels.fill, kernels.Fill(pointer(out), value), 1, (THREADS, 1), out.home)
    return out


def borrow(x: Any, shape: tuple[int, ...]) -> Any:
    return empty(x, shape, FLOAT64)


def shape_of(a: Any) -> kernels.Shape:
    return kernels.Shape(a.shape[1], a.shape[2], a.size)


def copy_into(out: Any, source: Any, kernel: Any = kernels.convert) -> Any:
    if out.size:
        for to, what in runs([out, source]):
            job = kernels.Convert(view(what), view(to), shape_of(to))
            run(kernel, job, blocks_for(to.size), (THREADS, 1), out.home)
    return out


def as_dtype(a: Any, dtype: Any) -> Any:
    return a if a.dtype == dtype else copy_into(empty(a, a.shape, dtype), a)


def numbers(a: Any) -> Any:
    return copy_into(empty(a, a.shape, FLOAT64), a)


def labels(target: Any) -> Any:
    if target.dtype == INT64 and target.flags.c_contiguous:
        return target
    return copy_into(empty(target, target.shape, INT64), target, kernels.convert_labels)


def item(a: Any, i: int) -> int:
    """The i-th number of an array of integers."""
    if a.ndim:
        a = a[tuple(slice(k, k + 1) for k in np.unravel_index(i, a.shape))]
    unsigned = a.dtype == np.uint64
    wide = labels(a.view(INT64) if unsigned else a)
    found = read(pointer(wide), a.home)
    return found % 2**64 if unsigned else found


def scale(upstream: Any, normaliser: Any, sample_weight: Any) -> Scale:
    factor, inverse = 1.0, None
    if isinstance(normaliser, Normaliser):
        inverse = normaliser.inverse
    else:
        factor = 1.0 / normaliser if normaliser else math.inf
    if upstream is not None and not isinstance(upstream, DeviceArray):
        factor, upstream = factor * float(upstream), None
    return Scale(factor, inverse, None if upstream is None else numbers(upstream), sample_weight)


def weigh(losses: Any, sample_weight: Any, labels: Any, ignore_index: int) -> None:
    if losses.size:
        targets = nothing(INT64) if labels is None else pointer(labels)
        job = kernels.Weigh(
            pointer(losses), pointer(sample_weight), targets, int(labels is not None), ignore_index, losses.size
        )
        run(kernels.weigh, job, blocks_for(losses.size), (THREADS, 1), losses.home)


def finished(losses: Any, sample_weight: Any, labels: Any, ignore_index: int, dtype: Any) -> Any:
    if sample_weight is not None:
        weigh(losses, sample_weight, labels, ignore_index)
    return as_dtype(losses, dtype)


def mend(logits: Any, lse: Any) -> None:
    if logits.size:
        for (x,), (rows,) in blocks([logits], [lse]):
            job = kernels.Mend(view(x), pointer(rows), x.shape[1], x.shape[2], rows.size)
            run(kernels.mend, job, min(rows.size, 1 << 20), (THREADS, 1), lse.home)


def identity(x: Any, n: int) -> Any:
    out = empty(x, (n, n), x.dtype)
    if n:
        run(kernels.identity, kernels.Square(pointer(out), n), blocks_for(n * n), (THREADS, 1), x.home)
    return out


def scan(labels: Any, classes: int, ignore_index: int, weight: Any, sample_weight: Any) -> Any:
    """Three float64 on the GPU: the first bad row or −1, Σ w_y·sample_weight over the rows not ignored, and 1 ÷ it."""
    home, size = labels.home, labels.size
    count = max(1, min(MOST_BLOCKS, -(-size // PIECE)))
    out = home.empty((3,), FLOAT64)
    pieces = home.empty((2 * count,), FLOAT64) if count > 1 else out
    job = kernels.Scan(
        pointer(labels),
        nothing(FLOAT64) if weight is None else pointer(weight),
        int(weight is not None),
        nothing(FLOAT64) if sample_weight is None else pointer(sample_weight),
        int(sample_weight is not None),
        pointer(pieces),
        classes,
        ignore_index,
        size,
        pointer(out),
    )
    run(kernels.scan, job, count, (THREADS, 1), home)
    if count > 1:
        run(kernels.gather, kernels.Gather(pointer(pieces), count, pointer(out)), 1, (THREADS, 1), home)
    return out


def add_up(values: Any, divisor: float, total: Any, out: Any) -> None:
    """out = Σ values ÷ divisor ÷ total; in one piece, or in pieces first."""
    count = max(1, min(MOST_BLOCKS, -(-values.size // PIECE)))
    given = nothing(FLOAT64) if total is None else pointer(total)
    if count > 1:
        pieces = empty(values, (count,), FLOAT64)
        job = kernels.Sum(pointer(values), values.size, 1.0, nothing(FLOAT64), 0, pointer(pieces))
        run(kernels.sum_up, job, count, (THREADS, 1), values.home)
        values = pieces
    job = kernels.Sum(pointer(values), values.size, float(divisor), given, int(total is not None), pointer(out))
    run(kernels.sum_up, job, 1, (THREADS, 1), values.home)
