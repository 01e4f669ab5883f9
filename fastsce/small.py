"""Calls on plain NumPy arrays of less than 16 MB, in which much of the time is Python's, or nearly all: what follows
from types, shapes and options is found out once for all calls like them.

Any other call goes the long way, by `fastsce.problem`: one that names a backend, so that tests can compare both ways,
and one whose arrays or labels are to be refused.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastsce import check, dispatch

FLOATS = {np.dtype(np.float32), np.dtype(np.float64)}
LABELS = np.dtype(np.int64)
CONSTANTS = {int, float, str, type(None)}  # other numbers, torch's for one, may be looked up though they change


def attempt(gradient: bool, logits: Any, target: Any, out: Any, *options: Any) -> tuple[Any, Any, Any] | None:
    """(loss, gradient, lse), or None for the long way; options as `check.spec` takes them, and the class axis."""
    if type(logits) is not np.ndarray or type(target) is not np.ndarray:
        return None
    *others, reduction, denominator, axis = options
    try:
        run = small_call(gradient, logits.dtype, logits.shape, target.dtype, target.shape, axis, reduction, *others)
    except TypeError:  # of an option that cannot be remembered, or is to be refused
        return None
    if run is None:
        return None
    if not gradient:
        grad = logits
    elif out is None:
        grad = np.empty(logits.shape, logits.dtype)
    elif type(out) is np.ndarray and out.dtype is logits.dtype and out.shape == logits.shape and out.flags.writeable:
        grad = out
    else:
        return None
    divisor = 1.0 if reduction == "sum" else 0.0  # which stands for the number of rows that are not ignored
    if denominator is not None:
        divisor = check.reducing(reduction, denominator)[1]
    lse = np.empty(len(logits))
    loss = run(divisor, logits, target, lse, grad)
    return None if loss is None else (logits.dtype.type(loss), grad, lse)


@lru_cache(maxsize=256, typed=True)  # True is no label_smoothing, though 1.0 is
def small_call(gradient, dtype, shape, target_dtype, target_shape, axis, reduction, *others: Any) -> Any:
    """The backend's function for calls of this kind, or None if it has none; others: the first options of a Spec."""
    if not CONSTANTS.issuperset(map(type, (axis, reduction, *others))):
        raise TypeError("not to be remembered")
    ignore_index, label_smoothing, z_loss, softcap, logit_scale = others
    spec = check.spec(ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, None)
    if dtype not in FLOATS or target_dtype != LABELS or len(shape) != 2 or check.axis(axis, shape) != 1:
        return None
    if target_shape != shape[:1] or 0 in shape or softcap is not None or reduction == "none":
        return None
    return dispatch.load("cpu").small_call(spec, dtype, shape, gradient)
