"""Corners that a review found: each was wrong once."""

import far
import numpy as np
import pytest

import fastsce
from fastsce import cross_entropy, cross_entropy_value_and_grad


def both(*args, **options):
    fast = cross_entropy_value_and_grad(*args, backend="cpu", **options)
    return fast, cross_entropy_value_and_grad(*args, backend="reference", **options)


@pytest.mark.parametrize("offset", [1, 2, 4, 61, 63])
@pytest.mark.parametrize(("shape", "axis"), [((21, 512), 0), ((70, 21), 1), ((70, 333), 1), ((9, 5003), 1)])
def test_streamed_at_any_address(shape, axis, offset, monkeypatch):
    from fastsce.backends import cpu

    monkeypatch.setattr(cpu, "STREAM_BYTES", 0)
    monkeypatch.setattr(cpu, "STREAM_ROW_BYTES", 0)
    logits = np.random.default_rng(0).standard_normal(shape, np.float32)
    memory = np.zeros(logits.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    out = memory[start : start + logits.nbytes].view(np.float32).reshape(logits.shape)
    target = np.zeros(shape[1 - axis], np.int64)
    cross_entropy_value_and_grad(logits, target, axis=axis, out=out, backend="cpu")
    monkeypatch.setattr(cpu, "STREAM_BYTES", 1 << 30)
    expected = cross_entropy_value_and_grad(logits, target, axis=axis, backend="cpu").grad
    np.testing.assert_array_equal(out, expected)
    assert not memory[:start].any() and not memory[start + logits.nbytes :].any()


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.bool_])
@pytest.mark.parametrize("axis", [0, -1])
def test_one_row_of_probabilities_of_another_dtype(dtype, axis):
    fast, exact = both(np.array([1, 2, 3], np.float32), np.array([0, 0, 1], dtype), axis=axis)
    np.testing.assert_allclose(fast.loss, exact.loss, rtol=1e-6)
    np.testing.assert_allclose(fast.grad, exact.grad, rtol=1e-6)


@pytest.mark.parametrize(("cap", "scale"), [(0.5, 1.0), (30.0, 100.0)])
@pytest.mark.parametrize("classes", [3, 300])
def test_a_huge_logit_under_a_softcap_is_no_mask(cap, scale, classes):
    logits = np.zeros((1, classes), np.float32)
    logits[0, :3] = -3e38, 3e38, 0
    fast, exact = both(logits, np.array([0]), softcap=cap, logit_scale=scale)
    np.testing.assert_allclose(fast.loss, exact.loss, rtol=1e-6)
    np.testing.assert_allclose(fast.grad, exact.grad, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("classes", [2, 3, 21, 70, 300, 2500, 5000])
@pytest.mark.parametrize("dtype", far.LARGE)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_scaled_logits_far_from_0(dtype, classes, backend):
    far.check(dtype, classes, backend)


@pytest.mark.parametrize("scale", [1.0, 0.75])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_blocks_of_masks(dtype, scale):
    x = np.random.default_rng(0).standard_normal((3, 13001)).astype(dtype)
    x[0, :4096] = x[1, 4096:8192] = x[2, 8192:] = -np.inf
    x[0] -= 2000
    for options in ({}, {"z_loss": 0.01}):
        fast, exact = both(x, np.array([9000, 0, 1]), logit_scale=scale, **options)
        np.testing.assert_allclose(fast.loss, exact.loss, rtol=1e-6)
        np.testing.assert_allclose(fast.grad, exact.grad, rtol=1e-4, atol=1e-12)


def test_factors_stay_normal_numbers():
    """Where an ulp of z is as large as it can be, with other terms to be seen."""
    scale = float(np.float32(14.3))
    for z in np.linspace(2.0e9, 2.0**31 - 1e3, 50):
        x = np.full((4, 50), -z / scale, np.float32)
        fast, exact = both(x, np.arange(4), logit_scale=scale, denominator=1e6)
        np.testing.assert_allclose(fast.grad, exact.grad, rtol=1e-6)


def test_the_largest_float64_under_a_scale():
    fast, exact = both(np.array([[1.5e308, 0.0, 1.0]]), np.array([0]), logit_scale=0.5)
    assert fast.loss == exact.loss == 0
    np.testing.assert_array_equal(fast.grad, exact.grad)


@pytest.mark.parametrize("scale", [2.0**-126, 2.0**-60])
def test_a_saved_lse_under_a_tiny_scale(scale):
    x, y = np.random.default_rng(0).standard_normal((2, 2000), np.float32), np.array([3, 4])
    options = {"logit_scale": scale, "sample_weight": np.full(2, 1 / scale)}
    lse, grads = cross_entropy_value_and_grad(x, y, **options).lse, []
    for backend in ("cpu", "reference"):
        grads.append(fastsce.cross_entropy_backward(x, y, lse=lse, backend=backend, **options))
    np.testing.assert_allclose(*grads, rtol=1e-5)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("place", [0, 1])
def test_gradient_or_hessian_in_place_of_long_rows(place, streamed, monkeypatch):
    """What takes the logits' place begins elsewhere in a line than the other."""
    from fastsce.backends import cpu

    memory = np.zeros((2, 2 * 65537 + 64), np.float32)
    x, other = memory[0, 5:131079].reshape(2, 65537), memory[1, 12:131086].reshape(2, 65537)
    x[...], target = np.random.default_rng(0).standard_normal(x.shape, np.float32), np.array([7, 65536])
    grad, hess = fastsce.cross_entropy_grad_and_hess(x, target)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0 if streamed else 1 << 40)
    pair = (other, x) if place else (x, other)
    fastsce.cross_entropy_grad_and_hess(x, target, out=pair)
    np.testing.assert_array_equal(pair[0], grad)
    np.testing.assert_array_equal(pair[1], hess)
    x[...] = other[...] = 0
    assert not memory.any()


def test_an_image_batch_converts_its_target_in_pieces(monkeypatch):
    from fastsce import layout

    monkeypatch.setattr(layout, "PIECE_BYTES", 4096)
    random = np.random.default_rng(0)
    logits, target = random.standard_normal((1, 5, 40, 30), np.float32), random.random((1, 5, 40, 30))
    fast, exact = both(logits, target, axis=1)
    np.testing.assert_allclose(fast.loss, exact.loss, rtol=1e-6)
    np.testing.assert_allclose(fast.grad, exact.grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("shape", [(70, 1), (70, 3), (), (1, 1), (5, 7, 600)])
def test_binary_of_any_shape(shape):
    random = np.random.default_rng(0)
    x, t = np.asarray(random.standard_normal(shape)), np.asarray(random.random(shape))
    fast = fastsce.binary_cross_entropy_value_and_grad(x, t, backend="cpu")
    exact = fastsce.binary_cross_entropy_value_and_grad(x, t, backend="reference")
    np.testing.assert_allclose(fast.loss, exact.loss, rtol=1e-13)
    np.testing.assert_allclose(fast.grad, exact.grad, rtol=1e-12, atol=1e-17)


def test_in_place_where_only_an_axis_of_length_one_differs():
    x = np.zeros((3, 4), np.float32)
    one = x[1:2]
    out = np.lib.stride_tricks.as_strided(one, (1, 4), (999, 4))
    assert cross_entropy_value_and_grad(one, np.array([0]), out=out).grad is out


def test_bfloat16_weights():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, w = np.zeros((2, 2)), np.array([0.5, 1.0])
    target = np.array([0, 1])
    assert cross_entropy(x, target, weight=w.astype(ml_dtypes.bfloat16)) == cross_entropy(x, target, weight=w)


def test_bfloat16_lse(backend):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, target, lse = np.zeros((2, 4), np.float32), np.array([0, 1]), np.array([1.5, 2.0])
    found = fastsce.cross_entropy_backward(x, target, lse.astype(ml_dtypes.bfloat16), backend=backend)
    assert np.array_equal(found, fastsce.cross_entropy_backward(x, target, lse, backend=backend))


def test_integers_of_more_than_64_bits(backend):
    x, target, p = np.zeros((2, 4), np.float32), np.array([0, 1]), np.ones((2, 4), np.float32)
    found = cross_entropy_value_and_grad(x, target, grad_output=2**70, backend=backend).grad
    assert np.array_equal(found, cross_entropy_value_and_grad(x, target, grad_output=2.0**70, backend=backend).grad)
    with pytest.raises(ValueError, match="grad_output must fit a float, and is larger"):
        cross_entropy_value_and_grad(x, target, grad_output=10**400, backend=backend)
    found = fastsce.binary_cross_entropy(x, p, weight=2**70, backend=backend)
    assert found == fastsce.binary_cross_entropy(x, p, weight=2.0**70, backend=backend)


def test_what_is_missing_is_said():
    with pytest.raises(TypeError, match="target is required"):
        cross_entropy(np.zeros((2, 3)), None)
    with pytest.raises(TypeError, match="'cuda' works on cuda arrays"):
        cross_entropy(np.zeros((2, 3)), np.array([0, 1]), backend="cuda")
    with pytest.raises(ValueError, match="64 signed bits"):
        cross_entropy(np.zeros((2, 3)), np.array([0, 1]), ignore_index=2**64)


@pytest.mark.parametrize("classes", [7, 200])
@pytest.mark.parametrize("weight", [None, 1.0])
def test_backward_where_the_first_class_is_masked(classes, weight):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((4, classes), np.float32), np.full(4, 3)
    x[1, 0] = -np.inf
    weight = None if weight is None else np.ones(classes)
    _, grad, lse = cross_entropy_value_and_grad(x, y, weight=weight, backend="cpu")
    again = fastsce.cross_entropy_backward(x, y, lse, weight=weight, backend="cpu")
    np.testing.assert_allclose(again, grad, atol=1e-7)


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize("classes", [2, 300])
def test_a_scale_enters_all_terms_alike(classes, axis):
    """Rounded once for the largest logit and once for the others, it would shift one against the other."""
    x = 1e6 - np.arange(classes, dtype=np.float32)
    fast, exact = both(x[None, :] if axis else x[:, None], np.zeros(1, np.int64), axis=axis, logit_scale=1.3)
    np.testing.assert_allclose(fast.loss, exact.loss, rtol=1e-6)
    np.testing.assert_allclose(fast.grad, exact.grad, rtol=2e-5, atol=1e-30)


@pytest.mark.parametrize("classes", [5, 200])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_ignored_rows_stay_zero_whatever_is_given_for_them(classes, smoothing):
    rng = np.random.default_rng(2)
    x, y, lse = rng.standard_normal((6, classes), np.float32), np.ones(6, np.int64), np.full(6, 9.0)
    y[[1, 3]], x[1], lse[1], lse[3] = -100, np.nan, np.nan, np.inf
    weight = np.ones(classes)
    weight[0] = np.inf
    grad = fastsce.cross_entropy_backward(x, y, lse, weight=weight, label_smoothing=smoothing, backend="cpu")
    assert not grad[[1, 3]].any()
    fused = cross_entropy_value_and_grad(x, y, weight=weight, label_smoothing=smoothing, backend="cpu")
    assert not fused.grad[[1, 3]].any()
    assert not fused.lse[[1, 3]].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_binary_loss_does_not_know_what_scratch_memory_held(dtype):
    from fastsce import scratch

    x = np.random.default_rng(3).standard_normal((5, 40_000)).astype(dtype)
    expected = fastsce.binary_cross_entropy(x, np.abs(x), backend="reference")
    for size in (scratch.SMALL, 8 * scratch.SMALL):
        memory = np.full(size, 255, np.uint8)
        scratch.kept[:] = [memory]
        np.testing.assert_allclose(fastsce.binary_cross_entropy(x, np.abs(x), backend="cpu"), expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [1, 10, 32, 100, 1500])
def test_vjp_of_one_number_for_all(classes):
    """Both operands have stride 0 along the classes, and a last vector that they do not fill."""
    p, v = np.broadcast_to(np.float32(0.125), (2, classes)), np.broadcast_to(np.float32(2), (2, classes))
    expected = np.full((2, classes), 0.125 * (2 - 0.25 * classes), np.float32)
    np.testing.assert_array_equal(fastsce.softmax_vjp(p, v), expected)


@pytest.mark.parametrize(("classes", "axis"), [(100, 1), (100, 0), (1672, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_a_weight_of_infinity_before_the_last_classes(classes, axis, dtype, label_smoothing):
    """Its share is ∞ when sums begin anew; the losses are ∞, and no NaN."""
    rng = np.random.default_rng(0)
    logits, target = rng.standard_normal((33, classes)).astype(dtype), rng.random((33, classes)).astype(dtype)
    target /= target.sum(1, keepdims=True)
    weight = np.ones(classes, dtype)
    weight[0] = np.inf
    if axis == 0:
        logits, target = np.ascontiguousarray(logits.T), np.ascontiguousarray(target.T)
    options = {"weight": weight, "label_smoothing": label_smoothing, "reduction": "none", "axis": axis}
    for backend in ("cpu", "reference"):
        losses = cross_entropy(logits, target, backend=backend, **options)
        assert (losses == np.inf).all(), backend
