"""From arrays of any shape to the kernels' (A, B, C): two axes of rows, then the classes. Views only."""

from __future__ import annotations

import math

import numpy as np

from fastsce.spec import BFLOAT16

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
PIECE_BYTES = 4 << 20  # of what NumPy does at once, so that Ctrl-C is seen and copies stay small; not measured
STORAGE = {np.dtype(np.float16): np.dtype(np.uint16), BFLOAT16: np.dtype(np.int16)}  # see cpu/storage.py, cuda/words.py


def stored(array):
    """The array as the kernels know its dtype."""
    return array.view(STORAGE[array.dtype]) if array is not None and array.dtype in STORAGE else array


def compute_dtype(array):
    return FLOAT64 if array.dtype == FLOAT64 else FLOAT32


def contiguous(array):
    """Whether the classes of a row lie side by side."""
    return array.strides[-1] == array.itemsize or array.shape[-1] == 1


def adjoins(array):
    """Whether rows of a block, (A, B, C), begin where the ones before end."""
    return array.shape[1] <= 1 or array.strides[1] == array.shape[2] * array.itemsize


def order(array):
    """Its axes as they lie in memory, the one of the largest steps first."""
    return sorted(range(array.ndim), key=lambda axis: (-abs(array.strides[axis]), axis))


def blocks(wide, narrow):
    """Cut a problem into blocks that two axes of rows describe; nearly always there is one.

    `wide`: arrays of one shape (*rows, C), or None; `narrow`: contiguous arrays of shape (*rows,), or None.
    Their (A, B, C) and (A·B,) views.
    """
    shape = wide[0].shape
    if len(shape) == 2:
        return [([a if a is None else a[None] for a in wide], narrow)]
    narrow = [v if v is None else v.reshape(-1) for v in narrow]
    axes = merged(shape[:-1], [a.strides for a in wide if a is not None])
    wide = [a if a is None else a.reshape(axes + shape[-1:]) for a in wide]  # views, for each can be merged so
    return cut(wide, narrow, axes[:-2], axes[-2] * axes[-1]) if len(axes) > 2 else [(wide, narrow)]


def cut(wide, narrow, lead, count):
    for number, index in enumerate(np.ndindex(*lead)):
        part = slice(number * count, (number + 1) * count)
        yield [a if a is None else a[index] for a in wide], [v if v is None else v[part] for v in narrow]


def runs(arrays):
    """Cut arrays of which no axis is special into blocks (A, 1, C), C as long as memory allows; nearly always one.

    An array of another size than the first one's stands for one number, or for nothing, and is left as it is.
    """
    size = arrays[0].size
    given = [a for a in arrays if a.size == size]
    dense = all(a.flags.c_contiguous for a in given)
    axes = (1, size) if dense else merged(arrays[0].shape, [a.strides for a in given])
    shape = (*axes[:-1], 1, axes[-1])
    views = [a.reshape(shape) if a.size == size else a for a in arrays]
    if len(axes) == 2:
        return [views]
    return ([a[index] if a.size == size else a for a in views] for index in np.ndindex(*axes[:-2]))


def pieces(rows, width=1):
    """Indices that cut arrays of shape (*rows, width) into parts of some PIECE_BYTES as float64."""
    if 8 * width * math.prod(rows) <= PIECE_BYTES or not rows:
        yield (...,)
        return
    step = PIECE_BYTES // (8 * width * math.prod(rows[1:]))
    for start in range(0, rows[0], max(step, 1)):
        part = slice(start, start + max(step, 1))
        for rest in [(...,)] if step else pieces(rows[1:], width):
            yield (part, *rest)


def merged(rows, strides):
    """The lengths of the row axes, neighbours merged where every array allows it; at least two."""
    lengths: list[int] = []
    steps: list[int] = []  # of the last axis so far, array by array
    for number in range(len(rows) - 1, -1, -1):
        if rows[number] == 1:
            continue
        here = [s[number] for s in strides]
        if lengths and here == [s * lengths[0] for s in steps]:
            lengths[0] *= rows[number]
        else:
            lengths.insert(0, rows[number])
            steps = here
    return (1,) * (2 - len(lengths)) + tuple(lengths)


def native(target, logits):
    """Whether a kernel reads this target as it is."""
    return target.dtype in (logits.dtype, compute_dtype(logits)) and target.dtype.isnative


def float_copy(target, dtype):
    with np.errstate(all="ignore"):
        return (bfloat16_values(target) if target.dtype == BFLOAT16 else target).astype(dtype)


def bfloat16_values(a):
    return (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def broadcast_as(a, dtype):
    """A broadcast array in another dtype, still broadcast."""
    if a.dtype == dtype:
        return a
    small = a[tuple(slice(0, 1) if s == 0 else slice(None) for s in a.strides)]
    return np.broadcast_to(small.astype(dtype), a.shape)
