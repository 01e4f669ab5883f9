"""Few classes whose rows adjoin, worked on in registers: the same bits as by the kernel for any number of classes, from
which the other tests learn that those are right; the sums of losses; and which calls go this way.
"""

import numpy as np
import pytest
from cases import DTYPES, labels, logits, probabilities
from expect import same_bits

import fastsce
from fastsce import small
from fastsce.backends import cpu
from fastsce.backends.cpu import few, threads
from fastsce.backends.cpu.tuning import FEW_BYTES, PIECE, SHEET, TALL_SHEET

MOST = FEW_BYTES // 4
CLASSES = {"float32": (2, 3, 4, 5, 7, 8, 10, 15, 16), "float64": (2, 3, 8), "float16": (2, 5), "bfloat16": (3, 10)}
ROWS = [1, SHEET - 1, SHEET + 1, 3 * TALL_SHEET, 3 * TALL_SHEET + 7, 10 * TALL_SHEET + SHEET]
CANARY = 0xA5


def forget():
    cpu.plan_of.cache_clear()  # what is changed here is not among what they remember
    small.small_call.cache_clear()


@pytest.fixture(autouse=True)
def nothing_remembered():
    forget()
    yield
    forget()


@pytest.fixture
def by_columns(monkeypatch):
    """Has a call done by the kernel for any number of classes."""

    def call(function, *args, **options):
        with monkeypatch.context() as patch:
            patch.setattr(cpu, "FEW_BYTES", 0)
            forget()
            result = function(*args, **options)
        forget()
        return result

    return call


@pytest.fixture
def chosen(monkeypatch):
    """Kernels and their plans."""
    found, plan_of = [], cpu.plan_of

    def watched(*args):
        kernel, plan, scratch = plan_of(*args)
        found.append((kernel, plan))
        return kernel, plan, scratch

    watched.cache_clear = plan_of.cache_clear
    monkeypatch.setattr(cpu, "plan_of", watched)
    return found


def kernels(chosen):
    return {kernel for kernel, _ in chosen}


def batch(n, c, dtype):
    """Rows of every kind: equal logits, masks, confident ones, NaN and infinity, and labels to leave out."""
    x, y = logits((n, c), dtype), labels(n, c, ignored=True)
    x[1::11] = 2.5
    x[2::11, : c - 1] = -np.inf
    x[4::11] = -np.inf
    x[5::11] *= np.asarray(30, x.dtype)
    x[6::55, c // 2] = np.nan
    x[7::55, 0] = np.inf
    x[8::11, :2] = x[8::11].max(-1, keepdims=True)
    return x, y


def alike(found, expected):
    """The same bits; of NaN, whatever sign it has."""
    found, expected = np.asarray(found), np.asarray(expected)
    nan = np.isnan(expected.astype(np.float64))
    return same_bits(np.isnan(found.astype(np.float64)), nan) and same_bits(
        np.where(nan, np.asarray(0, found.dtype), found), np.where(nan, np.asarray(0, found.dtype), expected)
    )


def between_canaries(x, offset):
    """A copy so many numbers past a line, and all memory it is in."""
    memory = np.full(x.nbytes + 256 + offset * x.itemsize, CANARY, np.uint8)
    start = -memory.ctypes.data % 64 + 64 + offset * x.itemsize
    copy = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy, memory


CASES = [(dtype, c) for dtype, some in CLASSES.items() for c in some if c * max(4, DTYPES[dtype].itemsize) <= FEW_BYTES]


@pytest.mark.parametrize("n", ROWS)
@pytest.mark.parametrize(("dtype", "c"), CASES)
def test_the_bits_of_columns(dtype, c, n, by_columns, chosen):
    x, y = batch(n, c, dtype)
    given = {"reduction": "none", "backend": "cpu"}
    expected = by_columns(fastsce.cross_entropy_value_and_grad, x, y, **given)
    curved = by_columns(fastsce.cross_entropy_grad_and_hess, x, y, backend="cpu")
    chosen.clear()
    for offset in (0, 3):
        out, memory = between_canaries(np.zeros_like(x), offset)
        found = fastsce.cross_entropy_value_and_grad(x, y, out=out, **given)
        assert all(map(alike, found, expected))
        other, others_memory = between_canaries(x, offset)
        assert all(map(alike, fastsce.cross_entropy_grad_and_hess(x, y, out=(out, other), backend="cpu"), curved))
        for a, around in ((out, memory), (other, others_memory)):
            a.view(np.uint8)[...] = CANARY
            assert (around == CANARY).all()
    assert alike(fastsce.cross_entropy(x, y, **given), expected.loss)
    assert kernels(chosen) == {few.few}


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize(("dtype", "c"), CASES)
def test_softmax(dtype, c, axis, by_columns, chosen):
    x, _ = batch(2 * TALL_SHEET + 7, c, dtype)
    x = x if axis else np.ascontiguousarray(x.T)
    for function in (fastsce.softmax, fastsce.logsumexp):
        expected = by_columns(function, x, axis, backend="cpu")
        chosen.clear()
        assert alike(function(x, axis, backend="cpu"), expected)
        if axis or 2 * c <= MOST:
            assert kernels(chosen) == {few.few}


@pytest.mark.parametrize("c", [2, 3, MOST])
def test_in_place_and_with_weights_of_samples(c, by_columns):
    x, y = batch(500, c, "float32")
    weights = np.linspace(0, 2, len(x)) ** 8
    expected = by_columns(fastsce.cross_entropy_value_and_grad, x, y, sample_weight=weights, backend="cpu")
    for backend in ("cpu", None):  # the second goes by the short way
        out = x.copy()
        found = fastsce.cross_entropy_value_and_grad(out, y, sample_weight=weights, out=out, backend=backend)
        assert all(map(alike, found, expected))
        assert found.grad is out
    every_third = np.repeat(y, 3)[::3]
    found = fastsce.cross_entropy_value_and_grad(x, every_third, sample_weight=weights, backend="cpu")
    assert all(map(alike, found, expected))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("n", [12 * PIECE, 13 * PIECE + 5])
@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize("weights", ["none", "float32", "of ignored rows infinite"])
def test_sums_of_losses(weights, c, n, count, by_columns, chosen, monkeypatch):
    """The same as of all losses, one by one, whatever the number of threads."""
    x, y = logits((n, c)), labels(n, c, ignored=True)
    given = {"backend": "cpu"}
    if weights != "none":
        given["sample_weight"] = np.linspace(0, 2, n, dtype="float32" if weights == "float32" else "float64")
    if weights == "of ignored rows infinite":
        given["sample_weight"][y == -100] = np.inf
    expected = by_columns(fastsce.cross_entropy_value_and_grad, x, y, **given)
    monkeypatch.setattr(threads, "thread_count", lambda: count)
    monkeypatch.setattr(cpu, "thread_count", lambda: count)
    assert np.isfinite(expected.loss)
    assert all(map(same_bits, fastsce.cross_entropy_value_and_grad(x, y, **given), expected))
    assert chosen[-1][1].summed
    for reduction in ("mean", "sum"):
        one_by_one = by_columns(fastsce.cross_entropy, x, y, reduction=reduction, **given)
        assert same_bits(fastsce.cross_entropy(x, y, reduction=reduction, **given), one_by_one)


@pytest.mark.parametrize("c", [2, 4, 5])
@pytest.mark.parametrize("place", [0, SHEET - 1, SHEET, TALL_SHEET - 1, TALL_SHEET])
def test_one_row_to_leave_out(c, place, by_columns):
    """Wherever in a sheet it is."""
    x, y = logits((2 * TALL_SHEET + 3, c)), labels(2 * TALL_SHEET + 3, c)
    y[place] = -100
    given = {"reduction": "none", "backend": "cpu"}
    found = fastsce.cross_entropy_value_and_grad(x, y, **given)
    assert found.loss[place] == found.lse[place] == 0
    assert all(map(same_bits, found, by_columns(fastsce.cross_entropy_value_and_grad, x, y, **given)))


def test_without_targets_the_loss_is_lse():
    """As backends promise each other; of many rows, too, whose losses nobody sums."""
    for n in (40, 8 * PIECE):
        x, (loss, lse) = logits((n, 3)), np.empty((2, n))
        scale = cpu.chores.Scale(1.0)
        assert cpu.forward_backward(fastsce.spec.Spec(), x, None, None, scale, loss=loss, lse=lse, summed=True) is None
        assert same_bits(loss, lse)


def test_no_losses_that_are_summed_are_written(monkeypatch):
    n = 12 * PIECE
    x, y = logits((n, 3)), labels(n, 3)
    losses, lse = np.full(n, 7.0), np.empty(n)
    spec = fastsce.spec.Spec()
    monkeypatch.setattr(cpu, "thread_count", lambda: 2)
    total = cpu.forward_backward(spec, x, y, None, cpu.chores.Scale(1.0), loss=losses, lse=lse, summed=True)
    assert (losses == 7).all()
    cpu.forward_backward(spec, x, y, None, cpu.chores.Scale(1.0), loss=losses, lse=lse)
    np.testing.assert_allclose(total, losses.sum(), rtol=1e-14)


PLAIN = {
    "labels": {},
    "weights": {"weight": np.ones(5)},
    "weights of samples": {"sample_weight": np.linspace(0, 1, 40)},
    "a label to leave out": {"ignore_index": 1},
    "a sum": {"reduction": "sum"},
}
OPTIONS = PLAIN | {
    "weights that z-loss does not have": {"weight": np.ones(5), "z_loss": 1e-4},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing that leaves 1 − ε at 1": {"label_smoothing": 1e-17},
    "z-loss": {"z_loss": 1e-4},
    "scale": {"logit_scale": 0.5},
    "softcap": {"softcap": 30.0},
    "softcap of 1": {"softcap": 1.0},
    "softcap and scale": {"softcap": 30.0, "logit_scale": 0.5},
}


@pytest.mark.parametrize("backend", ["cpu", None])
@pytest.mark.parametrize("name", OPTIONS)
def test_which_options(name, backend, chosen):
    x, y, options = logits((40, 5)), labels(40, 5), OPTIONS[name]
    fastsce.cross_entropy_value_and_grad(x, y, backend=backend, **options)
    assert kernels(chosen) == {few.few}
    chosen.clear()
    fastsce.cross_entropy(x, y, backend=backend, **options)
    assert kernels(chosen) == {few.few if name in PLAIN else cpu.columns.columns}


def weights_of(c, last=0.4):
    return np.append(np.linspace(0.5, 2, c - 1), last)


SOME = {
    "weights": lambda n, c: {"weight": weights_of(c)},
    "a weight of 0": lambda n, c: {"weight": weights_of(c, 0.0)},
    "an infinite weight": lambda n, c: {"weight": weights_of(c, np.inf), "label_smoothing": 0.1, "reduction": "none"},
    "smoothing": lambda n, c: {"label_smoothing": 0.3},
    "scale": lambda n, c: {"logit_scale": 1.7},
    "a huge scale": lambda n, c: {"logit_scale": 1e30, "reduction": "none"},
    "z-loss": lambda n, c: {"z_loss": 0.02, "reduction": "none"},
    "gradients of any sign": lambda n, c: {
        "logit_scale": 1.7,
        "reduction": "none",
        "grad_output": np.linspace(-1, 1, n),
    },
    "weights and z-loss": lambda n, c: {"weight": weights_of(c), "z_loss": 0.02},
    "all": lambda n, c: {
        "weight": weights_of(c),
        "sample_weight": np.linspace(0, 2, n),
        "label_smoothing": 0.1,
        "z_loss": 1e-3,
        "logit_scale": 0.7,
    },
    "softcap": lambda n, c: {"softcap": 2.0},
    "a tiny softcap": lambda n, c: {"softcap": 1e-3},  # so that others than the largest logit are as high
    "softcap and gradients of any sign": lambda n, c: {
        "softcap": 2.0,
        "reduction": "none",
        "grad_output": np.linspace(-1, 1, n),
    },
    "softcap and smoothing of infinite weights": lambda n, c: {
        "softcap": 2.0,
        "weight": weights_of(c, np.inf),
        "label_smoothing": 0.1,
        "reduction": "none",
    },
    "softcap and scale": lambda n, c: {"softcap": 2.0, "logit_scale": 0.7},
    "softcap and all": lambda n, c: SOME["all"](n, c) | {"softcap": 2.0},
}


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("n", [SHEET + 1, 3 * TALL_SHEET + 7])
@pytest.mark.parametrize(
    ("dtype", "c"), [("float32", 2), ("float32", 5), ("float32", 10), ("float64", 3), ("float16", 3)]
)
def test_the_bits_of_columns_with_options(dtype, c, n, name, by_columns, chosen):
    if c * max(4, DTYPES[dtype].itemsize) > FEW_BYTES:
        pytest.skip("too many classes for the registers there are")
    x, y = batch(n, c, dtype)
    options = SOME[name](n, c)
    expected = by_columns(fastsce.cross_entropy_value_and_grad, x, y, backend="cpu", **options)
    chosen.clear()
    out, memory = between_canaries(np.zeros_like(x), 3)
    found = fastsce.cross_entropy_value_and_grad(x, y, out=out, backend="cpu", **options)
    assert kernels(chosen) == {few.few}
    assert all(map(alike, found, expected))
    short = fastsce.cross_entropy_value_and_grad(x, y, **options)
    assert all(map(alike, short[1:], expected[1:]))
    out.view(np.uint8)[...] = CANARY
    assert (memory == CANARY).all()


@pytest.mark.parametrize("backend", ["cpu", None])
@pytest.mark.parametrize("kind", ["weight", "sample_weight", "both"])
def test_weights_and_a_label_to_leave_out(kind, backend):
    """What the mean divides by; and of a row to leave out nothing is left, whatever its class or itself counts."""
    x, y = logits((300, 5)), labels(300, 5)
    given = {"weight": weights_of(5), "sample_weight": np.where(y == 1, np.inf, np.linspace(1, 2, 300))}
    given = given if kind == "both" else {kind: given[kind]}
    found = fastsce.cross_entropy_value_and_grad(x, y, ignore_index=1, backend=backend, **given)
    true = fastsce.cross_entropy_value_and_grad(x, y, ignore_index=1, backend="reference", **given)
    np.testing.assert_allclose(found.loss, true.loss, rtol=1e-6)
    np.testing.assert_allclose(found.grad, true.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("c", [3, 40, 300])
def test_the_hessian_of_a_row_to_leave_out_is_0(c):
    x, y = logits((40, c)), labels(40, c, ignored=True)
    curved = fastsce.cross_entropy_grad_and_hess(x, y, weight=weights_of(c, np.inf), reduction="sum", backend="cpu")
    assert not curved.hess[y == -100].any() and not curved.grad[y == -100].any()


def test_which_arrays(chosen):
    x, y = logits((40, 5)), labels(40, 5)
    wide = np.zeros((40, 9), np.float32)
    wide[:, :5] = x
    others = {
        "one class": (x[:, :1].copy(), y * 0, {}),
        "more classes": (logits((40, MOST + 1)), y, {}),
        "probabilities": (x, probabilities((40, 5), "float32"), {}),
        "rows that do not adjoin": (wide[:, :5], y, {}),
        "rows of a gradient that do not": (x, y, {"out": wide[:, :5]}),
        "classes first, and too many": (logits((MOST + 1, 40)), y, {"axis": 0}),
        "every second sample": (np.repeat(np.ascontiguousarray(x.T), 2, axis=1)[:, ::2], y, {"axis": 0}),
        "rows of a gradient, and logits side by side": (
            np.asfortranarray(x),
            y,
            {"out": np.zeros((40, 5), np.float32)},
        ),
        "classes that are reversed": (x[:, ::-1], y, {}),
        "one row of every second class": (wide[3:4, ::2], y[:1], {}),
    }
    for name, (a, target, options) in others.items():
        chosen.clear()
        fastsce.cross_entropy_value_and_grad(a, target, backend="cpu", **options)
        assert kernels(chosen) == {cpu.columns.columns}, name
    chosen.clear()
    cube = np.ascontiguousarray(x.reshape(8, 5, 5))
    fastsce.cross_entropy_value_and_grad(cube, y.reshape(8, 5), backend="cpu")
    fastsce.cross_entropy_value_and_grad(wide[3:4, :5], y[:1], backend="cpu")
    fastsce.cross_entropy_value_and_grad(np.ascontiguousarray(x.T), y, axis=0, backend="cpu")
    fastsce.cross_entropy_value_and_grad(np.asfortranarray(x), y, backend="cpu")
    assert kernels(chosen) == {few.few}


def test_small_and_large_calls_agree():
    """Small ones leave the kernel less than it asks for: what it is compiled for has nothing to be read."""
    for c in (c for dtype, c in CASES if dtype == "float32"):
        x, y = batch(77, c, "float32")
        short, long = (fastsce.cross_entropy_value_and_grad(x, y, backend=backend) for backend in (None, "cpu"))
        assert all(map(same_bits, short[1:], long[1:]))
