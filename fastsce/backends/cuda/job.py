"""What a kernel is told about a call: one tuple of numbers and pointers, which the launcher lays flat."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce.law import Law

IGNORED, BAD, NO_TARGET, SOFT = -1, -2, -3, -4  # stand for a label
NOTHING, GRADIENT, HESSIAN, LOG_SOFTMAX = range(4)  # what to write; HESSIAN: the gradient too
ROWS, LONG, COLUMNS = range(3)  # regimes, see softmax.py


class Pointer(NamedTuple):
    """An address on the GPU, and the dtype of what is there."""

    address: int
    dtype: np.dtype


class View(NamedTuple):
    """An array (A, B, C): two axes of rows, then the classes."""

    data: Any
    a: int  # strides, in numbers
    b: int
    c: int


class Line(NamedTuple):
    """One float64 a row, `step` apart: 0 if all share one, −1 if there is none, which stands for 1."""

    data: Any
    step: int


class Plan(NamedTuple):
    rows: int  # A·B
    inner: int  # B
    per_inner: float  # 1 ÷ B
    classes: int
    ignore_index: int
    labelled: int  # there are labels
    saved: int  # lse is given, and loss and lse are not written
    team: int  # threads that share a row
    kept: int  # words of a row that lie in shared memory


class Job(NamedTuple):
    logits: View
    grad: View
    hess: View
    soft: View  # the target, where it is class probabilities
    labels: Any  # int64 pointer, one a row
    weight: Any  # pointer, (C,), in the working precision
    total: Line  # Σ of the weights; none where classes have no weights
    factor: float  # what gradients are multiplied by, as far as the host knows
    inverse: Line  # and as far as it does not: 1 ÷ what the mean divides by
    upstream: Line
    sample_weight: Line
    loss: Any  # float64 pointer, one a row
    lse: Any  # likewise
    law: Law
    plan: Plan
