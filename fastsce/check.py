"""Every refusal, in one place: what is wrong, where, and what to do. Nothing has been written when one is raised."""

from __future__ import annotations

import math
import operator

import numpy as np

from fastsce.spec import BFLOAT16, Spec

REDUCTIONS = ("none", "mean", "sum")
FLOATING = {np.dtype("float16"), BFLOAT16, np.dtype("float32"), np.dtype("float64")}  # of this machine's byte order
NORMAL = {kind: (float(np.finfo(kind).tiny), float(np.finfo(kind).max)) for kind in (np.float32, np.float64)}
OVERLAP_WORK = 10_000  # effort to spend on proving that two strided arrays do not overlap


def spec(ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, denominator) -> Spec:
    """The options as a Spec, each in its range."""
    try:
        ignore_index = int(operator.index(ignore_index))
    except TypeError:
        raise TypeError(f"ignore_index must be an integer, got {ignore_index!r}") from None
    if not -(2**63) <= ignore_index < 2**63:
        raise ValueError(f"ignore_index must fit 64 signed bits, got {ignore_index}")
    smoothing = number("label_smoothing", label_smoothing)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must lie in [0, 1], got {smoothing}")
    zeta = number("z_loss", z_loss)
    if not 0 <= zeta < math.inf:
        raise ValueError(f"z_loss must be finite and not negative, got {zeta}")
    cap = None if softcap is None else number("softcap", softcap)
    if cap is not None and not 0 < cap < math.inf:
        raise ValueError(f"softcap must be finite and positive, or None for no cap, got {cap}")
    scale = number("logit_scale", logit_scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"logit_scale must be finite and positive, got {scale}")
    reduction, denominator = reducing(reduction, denominator)
    return Spec(ignore_index, abs(smoothing), abs(zeta), cap, scale, reduction, denominator)  # −0 becomes 0


def computable(spec, logits) -> None:
    """What z is made with must be a number, and no subnormal one, where logits are worked on."""
    dtype = np.float64 if logits.dtype == np.float64 else np.float32
    lowest, highest = NORMAL[dtype]
    made = {"logit_scale": spec.logit_scale}
    if spec.softcap is not None:
        made = {"softcap": spec.softcap, "logit_scale / softcap": spec.logit_scale / spec.softcap}
    for name, value in made.items():
        if not lowest <= value <= highest:
            raise ValueError(
                f"{name} = {value} is out of the range of {dtype.__name__}, in which {dtype_name(logits)} logits are "
                f"computed: {lowest:.3g} to {highest:.3g}; choose another, or pass float64 logits"
            )


def reducing(reduction, denominator):
    """The reduction and its denominator."""
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(map(repr, REDUCTIONS))}, got {reduction!r}")
    if denominator is None:
        return reduction, None
    if reduction != "mean":
        raise ValueError(f"denominator goes with reduction='mean', got reduction={reduction!r}")
    value = number("denominator", denominator)
    if not 0 < value < math.inf:
        raise ValueError(f"denominator must be finite and positive, got {value}")
    return reduction, value


def number(name, value) -> float:
    """A Python float from any scalar: a number, or a zero-dimensional array of any library."""
    if type(value) is float:
        return value
    kind = getattr(getattr(value, "dtype", None), "kind", "f")  # V is ml_dtypes' bfloat16
    if isinstance(value, (bool, str, bytes)) or getattr(value, "shape", ()) != () or kind not in "iufV":
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    except OverflowError:
        raise ValueError(f"{name} must fit a float, and is larger") from None


def axis(value, shape, name="logits") -> int:
    """The class axis, counted from 0; it may be empty only when there is no row either."""
    ndim = len(shape)
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"axis must be an integer, got {value!r}") from None
    if ndim == 0:
        raise ValueError(f"{name} must have a class axis, got a single number of shape ()")
    if not -ndim <= index < ndim:
        raise ValueError(f"axis {index} is out of range for {name} with {ndim} axes; use {-ndim} to {ndim - 1}")
    index %= ndim
    if shape[index] == 0 and math.prod(shape[:index] + shape[index + 1 :]) > 0:
        raise ValueError(f"{name} must have classes, but axis {index} of shape {shape} is empty")
    return index


def target_kind(target, logits_shape, rows, axis, ignore_index) -> str:
    """'index' or 'soft', from the target's dtype and shape."""
    if target.shape == rows:
        if target.dtype.kind not in "iu":
            name = dtype_name(target)
            raise TypeError(f"class indices must be integers, got a target of dtype {name}; cast it to int64")
        return "index"
    if target.shape == logits_shape:
        probabilities("target", target)
        if ignore_index >= 0:
            raise ValueError(
                f"ignore_index={ignore_index} has no meaning for class probabilities; "
                "leave rows out with sample_weight=0"
            )
        return "soft"
    raise ValueError(
        f"target of shape {target.shape} fits neither class indices, shape {rows}, nor class probabilities, "
        f"shape {logits_shape}, for logits of shape {logits_shape} with the classes on axis {axis}"
    )


def labels(target):
    """Refuse unsigned labels that 64 signed bits cannot hold, where NumPy can look at them."""
    if type(target) is np.ndarray and target.size:
        flat = target.reshape(-1)
        row = int((flat > np.iinfo(np.int64).max).argmax())
        if flat[row] > np.iinfo(np.int64).max:
            raise IndexError(f"target[{position(row, target.shape)}] is {flat[row]}, which no class index can be")


def bad_label(value, row, shape, classes, ignore_index):
    """Raise the IndexError for the first bad label."""
    if value > np.iinfo(np.int64).max:
        raise IndexError(f"target[{position(row, shape)}] is {value}, which no class index can be")
    raise IndexError(
        f"target[{position(row, shape)}] is {int(value)}, but class indices run from 0 to {classes - 1} "
        f"({classes} classes); mark rows to leave out with ignore_index={ignore_index}"
    )


def position(row, shape) -> str:
    return ", ".join(str(int(i)) for i in np.unravel_index(row, shape)) if shape else "()"


def real(name, array) -> np.ndarray:
    """An array of real numbers in this machine's byte order."""
    if array.dtype.kind not in "iufb" or not array.dtype.isnative or array.dtype.itemsize > 8:
        raise TypeError(f"{name} of dtype {array.dtype} cannot be used; convert it with .astype('float64')")
    return array


def probabilities(name, array) -> np.ndarray:
    """A target: any real dtype, bfloat16 too."""
    return array if is_bfloat16(array) else real(name, array)


def floating(name, array) -> np.ndarray:
    """Logits: float16, bfloat16, float32 or float64."""
    if array.dtype in FLOATING:
        return array
    raise TypeError(
        f"{name} must be float32, float64, float16 or bfloat16, got {dtype_name(array)}; convert it to float32"
    )


def same_shape(name, array, shape, of):
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, one value {of}, got {array.shape}")
    return array


def same_dtype(name, array, other, other_name):
    if array.dtype != other.dtype:
        raise TypeError(f"{name} of dtype {dtype_name(array)} must have {other_name}'s dtype {dtype_name(other)}")


def factor(name, array, shape):
    """A factor as one number, where NumPy can look at it, or as a view of the logits' shape."""
    if array.ndim == 0 and type(array) is np.ndarray:
        return float(array)
    try:
        return np.broadcast_to(array, shape, subok=True)
    except ValueError:
        raise ValueError(f"{name} of shape {array.shape} does not broadcast to the logits' shape {shape}") from None


def per_sample(name, array, shape):
    """One value a sample, or one number: the array's axes are the first axes of `shape`; the rest is broadcast."""
    if array.ndim == 0:
        return factor(name, array, shape)
    if array.shape != shape[: array.ndim]:
        raise ValueError(f"{name} of shape {array.shape} does not match the first axes of the logits' shape {shape}")
    return np.broadcast_to(array.reshape(array.shape + (1,) * (len(shape) - array.ndim)), shape, subok=True)


def out(name, buffer, logits, others):
    """A buffer that can take a gradient: writable, of the logits' shape and dtype, on none of the other inputs."""
    if buffer.shape != logits.shape:
        raise ValueError(f"{name} of shape {buffer.shape} must have the logits' shape {logits.shape}")
    if buffer.dtype != logits.dtype:
        raise TypeError(f"{name} of dtype {dtype_name(buffer)} must have the logits' dtype {dtype_name(logits)}")
    if not buffer.flags.writeable:
        raise ValueError(f"{name} is read-only; pass a writable array")
    if not buffer.flags.c_contiguous and overlaps_itself(buffer):
        raise ValueError(f"{name} of strides {buffer.strides} overlaps itself; pass a dense array")
    if buffer is not logits and overlap(buffer, logits) and not same_memory(buffer, logits):
        raise ValueError(f"{name} overlaps the logits in part; pass the logits themselves, or memory apart from them")
    for other, array in others.items():
        if array is not None and overlap(buffer, array):
            raise ValueError(f"{name} overlaps {other}, which would be overwritten; pass memory apart from it")
    return buffer


def same_memory(a, b) -> bool:
    if a.__array_interface__["data"][0] != b.__array_interface__["data"][0] or a.shape != b.shape:
        return False
    return all(s == t for s, t, n in zip(a.strides, b.strides, a.shape) if n > 1)


def overlap(a, b) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=OVERLAP_WORK)  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def overlaps_itself(a) -> bool:
    """Whether two elements may share memory: sorted by stride, each axis must step over all that lies inside it."""
    reach = a.itemsize
    for stride, n in sorted((abs(s), n) for s, n in zip(a.strides, a.shape) if n > 1):
        if stride < reach:
            return True
        reach = stride * (n - 1) + reach
    return False


def is_bfloat16(array) -> bool:
    return array.dtype == BFLOAT16


def dtype_name(array) -> str:
    return "bfloat16" if is_bfloat16(array) else str(array.dtype)


def pair(name, value):
    """Two buffers, or two times None."""
    if value is None:
        return None, None
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of arrays (grad, hess), got {type(value).__name__}")
    return value


def apart(grad, hess):
    if overlap(grad, hess) and grad.size:
        raise ValueError("the two arrays of out overlap; pass memory apart")
