"""The same bits from the cpu backend: for any number of threads, any cut of the batch, wherever rows and results lie.

And where another kernel serves another layout, results that differ by no more than rounding allows.
"""

from contextlib import contextmanager

import ml_dtypes
import numba
import numpy as np
import pytest
from cases import DTYPES, class_first, every_second_class, labels, logits, options, probabilities
from expect import same_bits
from law import Law, stored
from ulp import assert_within

import fastsce
from fastsce import small
from fastsce.backends import cpu

# Rows in registers (side by side with options), side by side, together, in groups, one by one with their terms kept and
# not kept; (rows, classes).
SHAPES = {
    "few": (301, 5),
    "columns": (70, 61),
    "together": (150, 330),
    "groups": (70, 600),
    "rows": (37, 5003),
    "long": (3, 70_001),
}
LAYOUTS = {"classes last": np.ascontiguousarray, "classes first": class_first, "every second class": every_second_class}


def losses(x, target, out, **more):
    return fastsce.cross_entropy_value_and_grad(x, target, reduction="none", out=out, **more)


def backward(x, target, out):
    lse = losses(x, target, None).lse
    return (fastsce.cross_entropy_backward(x, target, lse, np.linspace(0, 1, len(x)), reduction="none", out=out),)


FUNCTIONS = {
    "labels": lambda x, y, t, out: losses(x, y, out),
    "probabilities": lambda x, y, t, out: losses(x, t, out),
    "options": lambda x, y, t, out: losses(
        x, y, out, **options("everything", len(x), x.shape[1]) | {"sample_weight": 2 * y}
    ),
    "backward": lambda x, y, t, out: backward(x, y, out),
    "Hessian": lambda x, y, t, out: fastsce.cross_entropy_grad_and_hess(
        x, y, reduction="sum", out=(out, np.empty_like(x))
    ),
    "softmax": lambda x, y, t, out: (fastsce.softmax(x), fastsce.log_softmax(x), fastsce.logsumexp(x)),
    "vjp": lambda x, y, t, out: (fastsce.softmax_vjp(x, t),),
    "binary": lambda x, y, t, out: fastsce.binary_cross_entropy_value_and_grad(x, t, reduction="none", out=out)[:2],
    "binary hess": lambda x, y, t, out: fastsce.binary_cross_entropy_grad_and_hess(
        x, t, reduction="sum", out=(out, np.empty_like(x))
    ),
}
THREADS = "fastsce.backends.cpu.threads"
WORKING = {
    "again": {},
    "past the caches": {
        "fastsce.backends.cpu.STREAM_BYTES": 0,
        "fastsce.backends.cpu.STREAM_ROW_BYTES": 0,
        "fastsce.backends.cpu.ways.SHARED_BYTES": 0,
    },
    "1 thread": {f"{THREADS}.thread_count": lambda: 1, f"{THREADS}.ALONE": 0},
    "3 threads": {f"{THREADS}.thread_count": lambda: 3, f"{THREADS}.ALONE": 0},
    "many parts": {f"{THREADS}.thread_count": lambda: 2, f"{THREADS}.ALONE": 0, f"{THREADS}.PART": 3000},
    "many parts past the caches": {  # rows of a part are written behind those of another
        f"{THREADS}.thread_count": lambda: 2,
        f"{THREADS}.ALONE": 0,
        f"{THREADS}.PART": 3000,
        "fastsce.backends.cpu.STREAM_BYTES": 0,
        "fastsce.backends.cpu.STREAM_ROW_BYTES": 0,
        "fastsce.backends.cpu.ways.SHARED_BYTES": 0,
    },
    "many rounds": {
        f"{THREADS}.thread_count": lambda: 2,
        f"{THREADS}.ALONE": 0,
        f"{THREADS}.PART": 3000,
        f"{THREADS}.ROUND": 3000,
    },
    "the system's threads": {
        f"{THREADS}.thread_count": lambda: 3,
        f"{THREADS}.ALONE": 0,
        f"{THREADS}.PART": 10_000,
        f"{THREADS}.ROUND": 20_000,
        "fastsce.forks.child": True,
    },
}


@pytest.fixture(autouse=True, scope="module")
def started():
    numba.get_num_threads()  # which starts them; `thread_count` is replaced below
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "KEEP_BYTES", 4 * 70_000)  # the terms of "long" are worked out twice
        cpu.plan_of.cache_clear()
        yield
    cpu.plan_of.cache_clear()


@contextmanager
def working(settings):
    """Some of them changed, also for calls of a kind that has gone the short way, which remembers what it was told."""
    with pytest.MonkeyPatch.context() as patch:
        for setting, value in settings.items():
            patch.setattr(setting, value)
        small.small_call.cache_clear()
        yield
    small.small_call.cache_clear()


def at_offset(a, offset):
    """The same numbers, so many bytes past a boundary."""
    memory = np.empty(a.nbytes + 64 + offset, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    moved = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def all_the_same(found, expected):
    return len(found) == len(expected) and all(map(same_bits, found, expected))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_grid(shape, dtype, function):
    call, (n, c) = FUNCTIONS[function], SHAPES[shape]
    x, y, t = logits((n, c), dtype), labels(n, c), probabilities((n, c), dtype)
    expected = call(x, y, t, np.empty_like(x))

    for name, settings in WORKING.items():
        with working(settings):
            assert all_the_same(call(x, y, t, np.full_like(x, 7)), expected), name

    for offset in (x.itemsize, 5 * x.itemsize, 32, 1):
        assert all_the_same(call(at_offset(x, offset), y, at_offset(t, offset), np.empty_like(x)), expected), offset
        assert all_the_same(call(x, y, t, at_offset(x, offset)), expected), f"out at {offset}"
        with working(WORKING["past the caches"]):
            assert all_the_same(call(x, y, t, at_offset(x, offset)), expected), f"streamed to {offset}"
    copy = x.copy()
    assert all_the_same(call(copy, y, t, copy), expected), "in place"

    if function != "options":  # whose sample_weight is of the whole batch
        cuts = [slice(0, 1), slice(1, n // 2), slice(n // 2, n)]
        pieces = [call(x[cut], y[cut], t[cut], np.empty_like(x[cut])) for cut in cuts if cut.start < cut.stop]
        whole = call(x, y, t, np.empty_like(x))
        if function != "backward":  # whose grad_output is, too
            assert all_the_same([np.concatenate(parts) for parts in zip(*pieces)], whole), "cut"


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("shape", SHAPES)
def test_reduced_losses(shape, reduction):
    n, c = SHAPES[shape]
    x, y = logits((n, c)), labels(n, c, ignored=True)
    chosen = options("everything", n, c) | {"reduction": reduction}
    expected = fastsce.cross_entropy_value_and_grad(x, y, **chosen)
    for name, settings in WORKING.items():
        with working(settings):
            assert all_the_same(fastsce.cross_entropy_value_and_grad(x, y, **chosen), expected), name


@pytest.mark.parametrize("function", ["labels", "Hessian"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_of_1_change_no_bit(shape, dtype, function):
    """Without options the law is known when kernels are compiled, and with weights it is not. Of columns, gradients of
    labels and Hessians of equal logits are then made in another way. A NaN may have either sign.
    """
    n, c = SHAPES[shape]
    x, y = logits((n, c), dtype), labels(n, c)
    x[0], x[1, y[1]] = -np.inf, 60  # masked, and confident
    x[2] -= np.asarray(400, x.dtype)
    call = fastsce.cross_entropy_grad_and_hess if function == "Hessian" else fastsce.cross_entropy_value_and_grad
    plain, weighted = call(x, y, reduction="none"), call(x, y, reduction="none", weight=np.ones(c, np.float32))
    if shape in ("few", "columns"):
        close = 4 * float(ml_dtypes.finfo(x.dtype).eps)
        for name in {"grad", "hess"} & set(plain._fields):
            a, b = getattr(plain, name), getattr(weighted, name)
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=close)
            own = x == x.max(1, keepdims=True) if name == "hess" else np.arange(c) == y[:, None]
            a[own] = b[own]
    assert all_the_same(*([np.where(a == a, a, a.dtype.type("nan")) for a in found] for found in (weighted, plain)))


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_layouts_agree(shape, dtype, kind):
    """Each with what is exact, as closely as every other: the kernels share one goal, if not every bit."""
    n, c = SHAPES[shape]
    x = logits((n, c), dtype)
    target = labels(n, c) if kind == "labels" else probabilities((n, c), "float64" if dtype == "float64" else "float32")
    wide = x.astype(np.float64)
    law = Law(wide, target, reduction="none")
    true = losses(wide, target, None, backend="reference")
    for layout in LAYOUTS.values():
        found = losses(layout(x), target, None)
        assert_within(found.loss, true.loss, law.loss_bound(dtype), "loss")
        assert_within(found.grad, true.grad, stored(law.grad_bound(dtype), true.grad, dtype), "grad")
