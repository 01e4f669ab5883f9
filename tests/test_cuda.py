"""The CUDA backend: every regime, dtype, layout and option, in the simulator; or with --gpu on a GPU.

Shapes are small here: a simulated thread takes its time. With --gpu the tests of all backends run too.
"""

import importlib
import sys

import far
import gpu
import numpy as np
import pytest
from cases import (
    DTYPES,
    EXTREME_CASES,
    EXTREMES,
    LAYOUTS,
    OPTIONS,
    WRITABLE_LAYOUTS,
    labels,
    logits,
    options,
    probabilities,
)
from expect import same_bits
from law import Law, epsilon, stored
from test_agreement import agree, agree_hess, soft
from test_agreement import test_backward as check_backward
from test_odd_weights import test_the_weight_of_a_class_that_no_row_has as check_odd_weights
from ulp import assert_within

import fastsce
from fastsce import maths


@pytest.fixture(autouse=True)
def on_a_gpu(request, monkeypatch):
    """Few threads a block where they are simulated, which is what takes time; `many_threads` has as many as a GPU."""
    for name in gpu.MOVED:
        monkeypatch.setattr(fastsce, name, gpu.moved(name))
    if not request.config.getoption("--gpu") and "many_threads" not in request.fixturenames:
        import simulator

        monkeypatch.setattr(simulator.launcher, "threads", 64)
        monkeypatch.setattr(importlib.import_module("fastsce.backends.cuda.chores"), "THREADS", 32)


@pytest.fixture
def many_threads():
    pass


@pytest.fixture(scope="module")
def simulated(request):
    if request.config.getoption("--gpu"):
        pytest.skip("of the simulator")
    import simulator

    return simulator


REFUSED = "unaligned"  # a layout; see test_misaligned in test_cuda_arrays.py

# ------------------------------------------------------------------------------------------------------ loss, gradient

# Rows that are columns, since they are short; that fill part of a slot, all slots, one warp, two; several a block.
SHAPES = [(1, 1), (3, 2), (5, 31), (3, 40), (2, 64), (9, 77), (2, 301), (1, 1003)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    at = SHAPES.index(shape)
    for name in ("plain", list(OPTIONS)[at % len(OPTIONS)]):
        agree("cuda", logits(shape, dtype), labels(*shape, ignored=True), **options(name, *shape))
    agree("cuda", logits(shape, dtype), soft(shape, dtype), **options("everything_uncapped", *shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows(dtype):
    """Registers, shared memory, and a rest that is read again."""
    classes = {"float32": 3001, "float64": 1003}.get(dtype, 5001)
    x = logits((2, classes), dtype)
    agree("cuda", x, labels(2, classes))
    agree("cuda", x[:1], soft((1, classes), dtype), **options("everything_uncapped", 1, classes))
    if "simulator" in sys.modules:  # they were long ones, and part of them lay in shared memory
        assert [shared for *_, shared in sys.modules["simulator"].launcher.launched[-10:] if shared]


FAR = [("float32", 21, (2e9, 1e10, 3.3e38)), ("bfloat16", 70, [1e30]), ("float64", 5, (1e17, 1e300))]


@pytest.mark.parametrize(("dtype", "classes", "sizes"), FAR)
def test_scaled_logits_far_from_0(dtype, classes, sizes):
    far.check(dtype, classes, "cuda", sizes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_long_columns(dtype):
    """More classes than the team's registers hold."""
    x = np.asfortranarray(logits((33, 150), dtype))
    agree("cuda", x, labels(33, 150, ignored=True), **options("weight_and_smoothing", 33, 150))


@pytest.mark.parametrize("classes", [3, 40])
def test_the_weight_of_a_class_that_no_row_has(classes):
    check_odd_weights("cuda", classes, np.inf)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, kind):
    for shape, dtype in (((5, 10), "float64"), ((4, 70), "float32")):
        target = labels(*shape, ignored=True) if kind == "index" else soft(shape, dtype)
        agree("cuda", logits(shape, dtype), target, **options(name, *shape))


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_reductions(many_threads, kind, reduction):
    shape = (5, 10)
    target = labels(*shape, ignored=True) if kind == "index" else soft(shape, "float32")
    given = options("everything_uncapped", *shape)
    agree("cuda", logits(shape), target, reduction=reduction, **given)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != REFUSED])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_layouts(dtype, layout):
    for shape in ((5, 10), (3, 70)):
        x, target = logits(shape, dtype), soft(shape, dtype)
        agree("cuda", LAYOUTS[layout](x), labels(*shape, ignored=True))
        agree("cuda", LAYOUTS[layout](x), LAYOUTS[layout](target))


@pytest.mark.parametrize("layout", [name for name in WRITABLE_LAYOUTS if name != REFUSED])
def test_layouts_of_out(layout):
    for shape in ((5, 10), (3, 70)):
        x, target = logits(shape), labels(*shape)
        out = WRITABLE_LAYOUTS[layout](np.full_like(x, 7))
        found = fastsce.cross_entropy_value_and_grad(x, target, out=out, backend="cuda").grad
        law = Law(x.astype(np.float64), target)
        assert found is out
        assert_within(out, law.grad, stored(law.grad_bound("float32"), law.grad, "float32"), "out")
        if out.base is not None and out.base.size > out.size and out.base.dtype == x.dtype:
            assert (out.base == 77).sum() == out.base.size - out.size


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", range(8))
def test_any_alignment_of_a_row(offset, dtype):
    """Rows that begin anywhere in a word, in place too: nothing beside them changes."""
    shape = (3, 67)
    x, target = logits(shape, dtype), labels(*shape)
    room = np.full(x.size + 16, 77, x.dtype)
    moved = room[offset : offset + x.size].reshape(shape)
    moved[...] = x
    agree("cuda", moved, target)
    law = Law(x.astype(np.float64), target)
    found = fastsce.cross_entropy_value_and_grad(moved, target, out=moved, backend="cuda").grad
    assert found is moved
    assert_within(moved, law.grad, stored(law.grad_bound(dtype), law.grad, dtype), "grad")
    assert (room[:offset] == 77).all() and (room[offset + x.size :] == 77).all()


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("shape", [(2, 7, 40), (2, 33, 5)], ids=str)
def test_classes_not_last(shape, kind):
    x = logits(shape, "bfloat16")
    rows = (shape[0], shape[2])
    target = labels(rows, shape[1], ignored=True) if kind == "index" else soft(shape, "bfloat16")
    flat = np.moveaxis(x, 1, -1).reshape(-1, shape[1]).astype(np.float64)
    level = target.reshape(-1) if kind == "index" else np.moveaxis(target, 1, -1).reshape(-1, shape[1])
    law = Law(flat, level)
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, axis=1, backend="cuda")
    assert_within(loss, law.loss, law.loss_bound("bfloat16"), "loss")
    found = np.moveaxis(grad, 1, -1).reshape(-1, shape[1])
    assert_within(found, law.grad, stored(law.grad_bound("bfloat16"), law.grad, "bfloat16"), "grad")


@pytest.mark.parametrize(("name", "dtype"), EXTREME_CASES)
def test_extremes(name, dtype):
    x, target = EXTREMES[name]()
    if x.shape[1] > 4000 and dtype != "float32":
        x, target = x[:, ::8], target // 8
    x = x.astype(DTYPES[dtype])
    agree("cuda", x, target, reduction="none")
    agree_hess("cuda", x, target, reduction="none")


# ---------------------------------------------------------------------------------------------------- other functions


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 7), (2, 133)], ids=str)
def test_hessian(shape, dtype, kind):
    target = labels(*shape, ignored=True) if kind == "index" else soft(shape, dtype)
    agree_hess("cuda", logits(shape, dtype), target, **options("weight_and_smoothing", *shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 10), (2, 203)], ids=str)
def test_backward(shape, dtype):
    check_backward("cuda", shape, dtype)


def near(found, true, dtype, what, few=64):
    bound = few * epsilon(dtype) * np.abs(true)
    assert_within(found, true, stored(bound, true, dtype), what)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 10), (2, 203)], ids=str)
def test_softmax_family(shape, dtype):
    x = logits(shape, dtype)
    wide = x.astype(np.float64)
    p = fastsce.softmax(wide, backend="reference")
    near(fastsce.softmax(x, backend="cuda"), p, dtype, "softmax")
    near(fastsce.log_softmax(x, backend="cuda"), fastsce.log_softmax(wide, backend="reference"), dtype, "log_softmax")
    answer = "float64" if dtype == "float64" else "float32"
    near(fastsce.logsumexp(x, backend="cuda"), fastsce.logsumexp(wide, backend="reference"), answer, "logsumexp")
    v = soft(shape, dtype).astype(x.dtype)
    kept = p.astype(x.dtype)
    true = fastsce.softmax_vjp(kept.astype(np.float64), v.astype(np.float64), backend="reference")
    size = kept.astype(np.float64) * np.abs(v.astype(np.float64)) + np.abs(true)
    found = fastsce.softmax_vjp(kept, v, backend="cuda")
    assert_within(found, true, stored(64 * epsilon(dtype) * size, true, dtype), "softmax_vjp")
    true = fastsce.softmax_jacobian(kept[0, :20].astype(np.float64), backend="reference")
    found = fastsce.softmax_jacobian(kept[0, :20], backend="cuda")
    assert_within(found, true, stored(64 * epsilon(dtype) * np.abs(true) + 1e-9, true, dtype), "softmax_jacobian")


def test_logsumexp_of_odd_rows():
    rows = [[-np.inf, -np.inf], [np.inf, 1.0], [np.nan, np.inf], [0.0, 0.0]]
    found = fastsce.logsumexp(np.array(rows), backend="cuda")
    assert same_bits(found[:2], np.array([-np.inf, np.inf])) and np.isnan(found[2]) and found[3] == np.log(2)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_binary(dtype, reduction):
    shape = (5, 70)
    x, t = logits(shape, dtype), probabilities(shape, "float64" if dtype == "float64" else "float32")
    factors = {"weight": np.linspace(0.5, 1.5, 70), "pos_weight": np.linspace(2, 1, 5)[:, None]}
    factors["sample_weight"] = np.linspace(0, 1, 5)
    for given in ({}, factors):
        given = {**given, "reduction": reduction, "backend": "cuda"}
        true = fastsce.binary_cross_entropy_value_and_grad(x.astype(np.float64), t, **{**given, "backend": "reference"})
        loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(x, t, **given)
        near(loss, np.asarray(true.loss), "float64" if dtype == "float64" else "float32", "loss")
        size = np.abs(true.grad) + np.abs(true.grad).max() / 8
        assert_within(grad, true.grad, stored(16 * epsilon(dtype) * size, true.grad, dtype), "grad")
        hess = fastsce.binary_cross_entropy_grad_and_hess(x, t, **given).hess
        want = fastsce.binary_cross_entropy_grad_and_hess(x.astype(np.float64), t, **{**given, "backend": "reference"})
        near(hess, want.hess, dtype, "hess")


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("classes", [10, 70])
@pytest.mark.parametrize("bad", [-1, 70, 2**31, 2**62, -(2**63)])
def test_a_bad_label_is_nan_and_writes_nothing_else(bad, classes):
    """Unless labels are checked, which waits for the GPU."""
    shape = (5, classes)
    x, y = logits(shape), labels(*shape)
    y[2] = bad if classes == 70 or bad != 70 else classes
    good = np.arange(5) != 2
    given = {"reduction": "none", "backend": "cuda"}
    loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, y, check_targets=False, **given)
    want = fastsce.cross_entropy_value_and_grad(x[good], y[good], **given)
    assert np.isnan(loss[2]) and np.isnan(lse[2]) and (grad[2] == 0).all()
    assert same_bits(loss[good], want.loss) and same_bits(grad[good], want.grad)
    assert np.isnan(fastsce.cross_entropy(x, y, check_targets=False, backend="cuda"))
    message = f"target\\[2\\] is {y[2]}, but class indices run from 0 to {classes - 1}"
    with pytest.raises(IndexError, match=message):
        fastsce.cross_entropy(x, y, backend="cuda")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64])
def test_every_dtype_of_labels(dtype):
    x, y = logits((5, 70)), labels(5, 70)
    want = fastsce.cross_entropy(x, y, backend="cuda")
    assert fastsce.cross_entropy(x, y.astype(dtype), backend="cuda") == want


def test_labels_beyond_int64_are_no_labels():
    """Not even if their bits are those of ignore_index."""
    x, y = logits((3, 10)), labels(3, 10).astype(np.uint64)
    y[1] = 2**64 - 100
    loss = fastsce.cross_entropy(x, y, reduction="none", check_targets=False, backend="cuda")
    assert np.isnan(loss[1]) and np.isfinite(loss[[0, 2]]).all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_labels_on_a_cpu_are_always_checked(backend):
    with pytest.raises(IndexError, match="is 70, but class indices run from 0 to 69"):
        fastsce.cross_entropy(logits((3, 70)), np.array([0, 70, 1]), check_targets=False, backend=backend)


def test_nothing_to_average():
    x = logits((3, 70))
    loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, np.full(3, -100), backend="cuda")
    assert np.isnan(loss) and (grad == 0).all() and (lse == 0).all()
    assert fastsce.cross_entropy(x, np.full(3, -100), reduction="sum", backend="cuda") == 0
    assert np.isnan(fastsce.cross_entropy(x[:0], np.zeros(0, int), backend="cuda"))


# ----------------------------------------------------------------------------------------------------- the simulator


@pytest.mark.parametrize("shape", [(3, 70), (1, 2500), (40, 40)], ids=str)
def test_any_order_of_threads_gives_the_same_bits(simulated, many_threads, shape):
    x, y = np.asfortranarray(logits(shape)) if shape == (40, 40) else logits(shape), labels(*shape)
    found = []
    for seed in range(3):
        simulated.RANDOM.seed(seed)
        found.append(fastsce.cross_entropy_value_and_grad(x, y, backend="cuda", label_smoothing=0.1))
    assert all(same_bits(a, b) for other in found[1:] for a, b in zip(found[0], other))


@pytest.mark.parametrize("shape", [(2, 2500), (64, 64)], ids=str)
def test_a_missing_barrier_fails(simulated, many_threads, shape, monkeypatch):
    x, y = np.asfortranarray(logits(shape)) if shape == (64, 64) else logits(shape), labels(*shape)
    law = Law(x.astype(np.float64), y)
    monkeypatch.setattr(sys.modules["fastsce.backends.cuda.reduce"], "barrier", lambda: None)
    loss = fastsce.cross_entropy(x, y, backend="cuda")
    assert not abs(loss - law.loss) <= law.loss_bound("float32")


def test_a_write_out_of_bounds_fails(simulated):
    memory = simulated.allocate(40)
    p = simulated.Memory(memory.ctypes.data, np.dtype(np.float32))
    simulated.words.store(p, 9, 1.0)
    for i in (-1, 10):
        with pytest.raises(simulated.Fault, match="out of bounds"):
            simulated.words.store(p, i, 1.0)
    with pytest.raises(simulated.Fault, match="no multiple of 16"):
        simulated.words.load_word(p, 1, np.zeros(4, np.uint32), 0)


def test_threads_that_wait_for_each_other_fail(simulated):
    """Some at a barrier, some for their warp."""

    def kernel(job):
        if simulated.words.thread() < 8:
            simulated.words.barrier()
        else:
            simulated.words.lanes_xor(1.0, 1)

    with pytest.raises(simulated.Fault, match="wait for each other"):
        simulated.Block(0, 1, (32, 1), 0, kernel, None).run()


# ----------------------------------------------------------------------------------------------------------- geometry


def geometry_of(rows, classes, itemsize, words=True, samples=1, threads=512):
    from fastsce.backends.cuda.geometry import arrange

    return arrange(rows, classes, itemsize, words, samples, False, 132, 227 * 1024, threads)


@pytest.mark.parametrize("itemsize", [2, 4, 8])
@pytest.mark.parametrize("classes", [1, 2, 10, 31, 256, 1000, 8192, 16384, 32768, 50257, 128256, 262144, 10**7])
def test_every_class_has_a_place_and_every_block_is_allowed(classes, itemsize):
    """Of an H200: as many threads, as much shared memory, and no block of a few threads where there are many rows."""
    from fastsce.backends.cuda.job import COLUMNS, LONG, ROWS

    for words, samples in ((True, 1), (False, 1), (False, 7), (False, 10**6)):
        regime, slots, team, (x, y), grid, kept = geometry_of(10**6, classes, itemsize, words, samples)
        width = 16 // itemsize
        assert 64 <= x * y <= 512 and team & (team - 1) == 0 and 1 <= grid < 2**31
        rows = x if regime == COLUMNS else y
        assert grid * rows >= 10**6 or regime == LONG
        if regime == ROWS:
            assert team * slots * width >= classes and team == x
        if regime == LONG:
            blocks = grid // 132
            assert team == x and blocks * team <= 512
            assert blocks * (kept * 16 + 4096 + 1024) <= 228 * 1024
            assert kept * width >= classes - team * slots * width or (blocks == 1 and kept * 16 > 200 * 1024)


def test_ignored_rows_have_no_hessian():
    for shape in ((3, 7), (3, 133)):
        x, y = logits(shape), labels(*shape)
        x[1], y[1] = np.nan, -100
        grad, hess = fastsce.cross_entropy_grad_and_hess(x, y, backend="cuda")
        assert (grad[1] == 0).all() and (hess[1] == 0).all() and np.isfinite(hess).all()


@pytest.fixture
def maximum_of_a_gpu(request, monkeypatch):
    """The other number where one is NaN, which no simulated formula does by itself."""
    if not request.config.getoption("--gpu"):
        maximum = maths.maximum
        monkeypatch.setattr(maths, "maximum", lambda a, b: a if b != b else maximum(a, b))


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_among_logits(dtype, softcap, maximum_of_a_gpu):
    for classes in (7, 133):
        x, y = logits((4, classes), dtype), labels(4, classes)
        x[1, 3] = np.nan
        given = {"softcap": softcap, "reduction": "none"}
        true = fastsce.cross_entropy_value_and_grad(x.astype(np.float64), y, **given, backend="reference")
        found = fastsce.cross_entropy_value_and_grad(x, y, **given, backend="cuda")
        for a, b in zip(found, true, strict=True):
            np.testing.assert_array_equal(np.isnan(np.asarray(a).astype(np.float64)), np.isnan(b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_among_binary_logits(dtype, maximum_of_a_gpu):
    x, t = logits((3, 7), dtype), probabilities((3, 7), "float32")
    x[1, 3] = np.nan
    found = fastsce.binary_cross_entropy_value_and_grad(x, t, reduction="none", backend="cuda")
    for a in (found.loss, found.grad):
        np.testing.assert_array_equal(np.isnan(np.asarray(a).astype(np.float64)), np.isnan(x.astype(np.float64)))


def test_numbers_stay_numbers_of_one_kind():
    """A kernel is compiled for the types of its first call."""
    x, t = logits((3, 7)), probabilities((3, 7), "float32")
    for weight in (None, 2, np.float32(2), np.full(7, 2.0)):
        for sample_weight in (None, np.ones(3)):
            given = {"weight": weight, "sample_weight": sample_weight}
            loss = fastsce.binary_cross_entropy(x, t, **given, backend="cuda")
            near(loss, np.asarray(fastsce.binary_cross_entropy(x, t, **given)), "float32", "loss")
    y = labels(3, 7)
    for scale in (1, 2, 0.5):
        for option in ("denominator", "logit_scale", "softcap"):
            fastsce.cross_entropy(x, y, **{option: scale}, backend="cuda")
