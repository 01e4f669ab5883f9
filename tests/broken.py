"""A library broken on purpose, in one way after the other, to see that the torture finds out."""

import ctypes
from contextlib import contextmanager
from unittest import mock

import numpy as np
from fences import span

from fastsce import arrays, check, problem
from fastsce.backends import cpu, reference
from fastsce.law import law_of


def after(function, change):
    """The function, and what `change` does with its result and its arguments."""

    def broken(*args, **given):
        found = function(*args, **given)
        return change(found, *args, **given)

    return broken


def poke(a, beyond) -> None:
    """Change a byte so far beyond the end of an array."""
    lowest = a.ctypes.data + sum(s * (n - 1) for s, n in zip(a.strides, a.shape) if s < 0)
    byte = ctypes.c_uint8.from_address(lowest + span(a.shape, a.strides, a.itemsize) - 1 + beyond)
    byte.value ^= 0x55


def write_beyond(beyond):
    def change(found, *args, grad=None, **given):
        if grad is not None and grad.size and grad.base is not None:
            poke(grad, beyond)
        return found

    return change


def write_between(found, *args, grad=None, **given):
    """Into a gap of the results, where they have any."""
    if grad is not None and grad.size > 1 and abs(grad.strides[-1]) > grad.itemsize:
        ctypes.c_uint8.from_address(grad[..., :1].ctypes.data + grad.itemsize).value ^= 0x55
    return found


def scaled(found, *args, out, **given):
    out *= 1 + 1e-6
    return found


def write_early(check_out):
    def early(name, buffer, *args, **given):
        if buffer.flags.writeable:
            buffer[...] = np.zeros((), buffer.dtype)
        return check_out(name, buffer, *args, **given)

    return early


def any_label(spec, labels, classes, weight, sample_weight, *args):
    return -1, float(labels.size), weight, sample_weight


def key_error(*args, **given):
    raise KeyError("label")


WAYS = {  # where, what, instead; all of the cpu backend or of what both share
    "a byte beyond the results": (cpu, "forward_backward", after(cpu.forward_backward, write_beyond(1))),
    "a byte between the results": (cpu, "forward_backward", after(cpu.forward_backward, write_between)),
    "losses off by a millionth": (cpu, "reduce", after(cpu.reduce, scaled)),
    "writes before it refuses": (check, "out", write_early(check.out)),
    "labels not checked": (cpu, "scan_labels", any_label),
    "another error": (check, "bad_label", key_error),
    "a row too far": (
        cpu,
        "scan_labels",
        after(cpu.scan_labels, lambda found, *args: (max(found[0] - 1, -1), *found[1:])),
    ),
    "overlap not seen": (check, "overlap", lambda a, b: False),
    "shape not checked": (check, "same_shape", lambda name, array, shape, of: array),
    "dtype not checked": (check, "floating", lambda name, array: array),
    "read-only not checked": (check, "out", lambda name, buffer, *args: buffer),
    "options not checked": (check, "number", lambda name, value: float(np.nan_to_num(np.real(np.ravel(value)[0])))),
    "denominator forgotten": (check, "reducing", lambda reduction, denominator: (reduction, None)),
    "axis of the last only": (check, "axis", after(check.axis, lambda found, value, shape: len(shape) - 1)),
    "another array than out": (problem.Call, "wrap", after(problem.Call.wrap, lambda found, *args: np.copy(found))),
    "a copy for out": (arrays.NumPy, "view", staticmethod(after(arrays.NumPy.view, lambda found, x: found.copy()))),
    "float64 for all": (arrays.NumPy, "wrap", staticmethod(after(arrays.NumPy.wrap, lambda a, *more: np.float64(a)))),
    "the reference off": (reference, "reduce", after(reference.reduce, scaled)),
    "smoothing forgotten": (cpu, "law_of", lambda spec, *args: law_of(spec._replace(label_smoothing=0.0), *args)),
}


@contextmanager
def library(way):
    where, what, instead = WAYS[way]
    with mock.patch.object(where, what, instead):
        yield
