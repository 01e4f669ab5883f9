"""Calls on less than 16 MB of logits in the CPU's memory, in which much of the time is Python's, or nearly all: what
follows from types, shapes and options is found out once for all calls like them.

Any other call goes the long way, by `fastsce.problem`: one that names a backend, so that tests can compare both ways,
and one whose arrays or labels are to be refused.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from fastsce import arrays, check, dispatch
from fastsce.spec import BFLOAT16

REAL = {np.dtype(np.float32), np.dtype(np.float64)}
PLAIN = {*REAL, np.dtype(np.float16)}
FLOATS = {*PLAIN, BFLOAT16}
SEEN = {arrays.NumPy, arrays.Torch, arrays.Jax}  # whose arrays may be viewed again on the long way
LABELS = np.dtype(np.int64)
INTEGERS = {np.dtype(kind) for kind in ("i1", "i2", "i4", "i8", "u1", "u2", "u4")}  # that become int64 as they are
CONSTANTS = {int, float, str, type(None)}  # other numbers, torch's for one, may be looked up though they change


def attempt(
    gradient: bool, logits: Any, target: Any, out: Any, weight: Any, sample_weight: Any, options: tuple, axis: Any
) -> tuple[Any, Any, Any] | None:
    """(loss, gradient, lse), or None for the long way; options as `check.spec` takes them."""
    if type(logits) is np.ndarray and type(target) is np.ndarray and logits.dtype in PLAIN:
        return of_numpy(gradient, logits, target, out, weight, sample_weight, options, axis)
    if out is not None and type(out) is not np.ndarray and arrays.library_of(out) is not arrays.Torch:
        return None
    library = arrays.library_of(logits)
    try:
        if library not in SEEN or library.device(logits) != "cpu" or target.shape != logits.shape[:-1]:
            return None
        x = seen(logits)
        if x.dtype not in FLOATS or not x.flags.c_contiguous:
            return None
        found = of_numpy(gradient, x, seen(target), seen(out), seen(weight), seen(sample_weight), options, axis)
    except (AttributeError, TypeError, ValueError, RuntimeError):  # of an array that is to be refused
        return None
    if found is None:
        return None
    loss, grad, lse = found
    grad = library.wrap(grad, logits) if out is None else arrays.written(out)
    return library.wrap(np.asarray(loss), logits), grad, library.wrap(lse, logits)


def seen(a: Any) -> Any:
    """An array as NumPy sees it; TypeError of others, of what has to be copied, and of what lies elsewhere."""
    if a is None:
        return a
    library = arrays.library_of(a)
    if library not in SEEN or library.device(a) != "cpu" or (library is arrays.NumPy and type(a) is not np.ndarray):
        raise TypeError("not to be seen as it is")
    return library.view(a)


def of_numpy(
    gradient: bool, logits: Any, target: Any, out: Any, weight: Any, sample_weight: Any, options: tuple, axis: Any
) -> tuple[Any, Any, Any] | None:
    """The same of NumPy's arrays, and of views in which a bfloat16 is `spec.BFLOAT16`."""
    dtype, shape, kind = logits.dtype, logits.shape, target.dtype
    ignored, smoothing, zeta, cap, scale, reduction, denominator = options  # one by one: faster than as a list
    try:
        found = small_call(
            gradient, dtype, shape, kind, target.shape, axis, reduction, ignored, smoothing, zeta, cap, scale
        )
    except (TypeError, ValueError):  # of an option that cannot be remembered, or is to be refused
        return None
    if found is None:
        return None
    run, exact, rows, divisor = found
    if not (weight is None or countable(weight, shape[-1:])):
        return None
    if not (sample_weight is None or countable(sample_weight, rows)):
        return None
    if not gradient:
        grad = logits
    elif out is None:
        grad = np.empty(shape, dtype)
    elif type(out) is np.ndarray and out.dtype is dtype and out.shape == shape and out.flags.writeable:
        if kind is not LABELS and np.may_share_memory(target, out):
            return None  # for the kernel sees a copy of such labels
        grad = out
    else:
        return None
    if denominator is not None:
        divisor = check.reducing(reduction, denominator)[1]
    lse, losses = np.empty(rows), np.empty(rows, exact) if reduction == "none" else None
    given: tuple[Any, ...] = logits, target, weight, sample_weight, losses, lse, grad
    if len(rows) != 1:
        if not all(a is None or a.flags.c_contiguous for a in given):
            return None
        given = tuple(a if a is None or a is weight else a.reshape(-1, *a.shape[len(rows) :]) for a in given)
    loss = run(divisor, *given)
    return None if loss is None else (exact(loss) if losses is None else losses, grad, lse)


def countable(numbers: Any, shape: tuple[int, ...]) -> bool:
    """Whether a kernel may be given a copy of them."""
    return type(numbers) is np.ndarray and numbers.dtype in REAL and numbers.shape == shape


@lru_cache(maxsize=256, typed=True)  # True is no label_smoothing, though 1.0 is
def small_call(gradient, dtype, shape, target_dtype, target_shape, axis, reduction, *others: Any) -> Any:
    """The backend's function for calls of this kind, the losses' type and shape, and what it is to divide by, where 0
    stands for what rows that are not ignored count; None if there is no such function. Others: a Spec's first options.
    """
    if not CONSTANTS.issuperset(map(type, (axis, reduction, *others))):
        raise TypeError("not to be remembered")
    ignore_index, label_smoothing, z_loss, softcap, logit_scale = others
    spec = check.spec(ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, None)
    if dtype not in FLOATS or target_dtype not in INTEGERS or check.axis(axis, shape) != len(shape) - 1:
        return None
    if target_shape != shape[:-1] or len(shape) < 2 or 0 in shape:
        return None
    check.computable(spec, np.empty(0, dtype))
    run = dispatch.load("cpu").small_call(spec, dtype, (math.prod(shape[:-1]), shape[-1]), gradient)
    exact = np.float64 if dtype == np.float64 else np.float32
    return run and (run, exact, shape[:-1], 0.0 if reduction == "mean" else 1.0)
