"""From arrays of any shape to the kernels' (A, B, C): two axes of rows, then the classes. Views only."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from fastsce.spec import BFLOAT16

STORAGE = {np.dtype(np.float16): np.dtype(np.uint16), BFLOAT16: np.dtype(np.int16)}  # see vectors.py


def stored(array):
    """The array as the kernels know its dtype."""
    return array.view(STORAGE[array.dtype]) if array is not None and array.dtype in STORAGE else array


def compute_dtype(array):
    return np.dtype(np.float64 if array.dtype == np.float64 else np.float32)


def contiguous(array):
    """Whether the classes of a row lie side by side, each where its type wants it."""
    return (array.strides[-1] == array.itemsize or array.shape[-1] == 1) and array.flags.aligned


def blocks(wide, narrow):
    """Cut a problem into blocks that two axes of rows describe; nearly always there is one.

    `wide`: arrays of one shape (*rows, C), or None; `narrow`: contiguous or constant arrays of shape (*rows,), or None.
    Yields their (A, B, C) and (A·B,) views.
    """
    shape = wide[0].shape
    rows = shape[:-1]
    if len(rows) < 2:
        lead = (None,) * (2 - len(rows))
        yield [a if a is None else a[lead] for a in wide], [v if v is None else flat(v) for v in narrow]
        return
    axes = merged(rows, [a.strides for a in wide if a is not None])
    lead, (outer, inner) = axes[:-2], axes[-2:]
    size = (outer.length, inner.length, shape[-1])
    count = outer.length * inner.length
    for index in np.ndindex(*[axis.length for axis in lead]):
        first = sum(i * axis.step for i, axis in zip(index, lead, strict=True))
        place = np.unravel_index(first, rows)
        strides = iter(zip(outer.strides, inner.strides, strict=True))
        yield (
            [a if a is None else as_strided(a[place], size, (*next(strides), a.strides[-1])) for a in wide],
            [v if v is None else flat(v)[first : first + count] for v in narrow],
        )


class Axis:
    """Rows that follow each other at an even distance, in every array."""

    def __init__(self, length, step, strides):
        self.length, self.step, self.strides = length, step, strides


def merged(rows, strides):
    """The row axes, neighbours merged where every array allows it; at least two."""
    axes: list[Axis] = []
    step = 1
    for number in range(len(rows) - 1, -1, -1):
        axis = Axis(rows[number], step, tuple(s[number] for s in strides))
        step *= axis.length
        if axis.length == 1:
            continue
        if axes and axis.strides == tuple(s * axes[0].length for s in axes[0].strides):
            axes[0].length *= axis.length
        else:
            axes.insert(0, axis)
    while len(axes) < 2:
        axes.insert(0, Axis(1, step, (0,) * len(strides)))
    return axes


def flat(values):
    """One value a row, side by side, or one for all."""
    if values.ndim == 1:
        return values
    if values.size > 1 and not any(values.strides):
        return constant(values[(0,) * values.ndim], (values.size,), values.dtype)
    return values.reshape(-1)


def constant(value, shape, dtype=np.float64):
    """One number for every place, in the memory of one."""
    return np.ndarray(shape, dtype, np.array(value, dtype), strides=(0,) * len(shape))
