"""Binary cross-entropy: extremes, dtypes, layouts, factors, and results in place."""

import numpy as np
import pytest
from cases import DTYPES, INF, LAYOUTS, NAN, logits, rng
from expect import same_bits
from numpy.testing import assert_allclose
from ulp import assert_within, spacing

import fastsce


def law(x, target, weight=1.0, pos_weight=1.0):
    """loss, gradient and Hessian's diagonal of each element in float64, from sigmoids that do not cancel."""
    x, target = np.asarray(x).astype(np.float64), np.asarray(target).astype(np.float64)
    u = np.exp(-np.abs(x))
    p, not_p = np.where(x < 0, u, 1) / (1 + u), np.where(x < 0, 1, u) / (1 + u)
    pos, neg = weight * pos_weight * target, weight * (1 - target)
    loss = pos * (np.log1p(u) + np.maximum(-x, 0)) + neg * (np.log1p(u) + np.maximum(x, 0))
    size = np.abs(neg) * p + np.abs(pos) * not_p
    return loss, neg * p - pos * not_p, (pos + neg) * p * not_p, size


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element(backend, dtype, layout):
    shape = (37, 19)
    x = LAYOUTS[layout](logits(shape, dtype, 8))
    target = rng("target").random(shape).astype(np.float32)
    weight, pos = rng("weight").uniform(0.1, 2, shape), rng("pos").uniform(0.1, 4, 19)
    given = {"weight": weight, "pos_weight": pos, "reduction": "none", "backend": backend}
    loss, grad, lse = fastsce.binary_cross_entropy_value_and_grad(x, target, **given)
    again, hess = fastsce.binary_cross_entropy_grad_and_hess(x, target, **given)
    true_loss, true_grad, true_hess, size = law(x, target, weight, pos)
    eps = 2.0**-50 if dtype == "float64" else 2.0**-20
    assert loss.dtype == (np.float64 if dtype == "float64" else np.float32) and lse is None
    assert grad.dtype == hess.dtype == x.dtype
    assert_within(loss, true_loss, eps * true_loss, "loss")
    assert_within(grad, true_grad, 0.51 * spacing(true_grad, dtype) + eps * size, "grad")
    assert_within(hess, true_hess, 0.51 * spacing(true_hess, dtype) + eps * true_hess, "hess")
    assert again.tobytes() == grad.tobytes()
    total = fastsce.binary_cross_entropy(x, target, **given | {"reduction": "sum"})
    assert_allclose(total, true_loss.sum(), rtol=1e-6 if dtype != "float64" else 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_confident_elements(backend, dtype):
    """A small loss is not 0, and a large one not infinite."""
    x = np.array([-3e38, -200, -87, -40, -1, 0, 1, 40, 87, 200, 3e38], dtype)
    for target in (0.0, 1.0):
        loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(
            x, np.full(11, target), reduction="none", backend=backend
        )
        true_loss, true_grad, _, _ = law(x, target)
        assert_allclose(loss, true_loss, rtol=1e-5 if dtype == "float32" else 1e-14, atol=np.finfo(dtype).tiny)
        assert_allclose(grad, true_grad, rtol=1e-5 if dtype == "float32" else 1e-14, atol=np.finfo(dtype).tiny)


def test_infinite_logits(backend):
    """Certain and right costs nothing, certain and wrong +inf; a soft target between costs +inf; NaN stays NaN."""
    x = np.array([INF, INF, INF, -INF, -INF, -INF, NAN])
    target = np.array([1.0, 0.0, 0.5, 1.0, 0.0, 0.5, 0.0])
    loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(x, target, reduction="none", backend=backend)
    assert_allclose(loss, [0, INF, INF, INF, 0, INF, NAN])
    assert_allclose(grad, [0, 1, 0.5, -1, 0, -0.5, NAN])


def test_sums_that_overflow_are_no_warning(backend):
    x = np.full(2000, -1e305)
    assert fastsce.binary_cross_entropy(x, np.ones(2000), backend=backend) == INF


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "float32"])
def test_factors_are_multiplied_in_float64(backend, dtype):
    """In their own dtype 100·100 would overflow, or a product be rounded."""
    x, factor = logits((5,), "float64"), np.array([100, 99, 98, 97, 3], dtype)
    found = fastsce.binary_cross_entropy(x, np.ones(5), weight=factor, sample_weight=factor, backend=backend)
    expected = fastsce.binary_cross_entropy(x, np.ones(5), weight=factor.astype(float) ** 2, backend=backend)
    assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 1023, 1056, 5000, (4 << 20) + 77])
@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_that_count_alike(dtype, size):
    """Where all count 1, and no more than the gradient is wanted, they have a loop of their own: the same bits."""
    x, target = rng("alike").standard_normal(size).astype(np.float32) * 4, rng("target").random(size, np.float32)
    places = np.linspace(0, size - 1, 5).astype(int)
    for odd in ([120.0, -120.0, 90.0, -90.0, 0.0], [NAN, INF, -INF, NAN, -0.0]):
        x[places] = odd
        given = {"target": target.astype(DTYPES[dtype]), "reduction": "sum", "backend": "cpu"}
        a = x.astype(DTYPES[dtype])
        loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(a, **given)
        for ones in ({"weight": np.ones(size)}, {"pos_weight": np.ones(size)}):
            general = fastsce.binary_cross_entropy_value_and_grad(a, **given, **ones)
            assert same_bits(grad, general.grad)
            assert same_bits(loss, general.loss)
        each = fastsce.binary_cross_entropy_value_and_grad(a, **given | {"reduction": "none"})
        assert same_bits(grad, each.grad)
        curved = fastsce.binary_cross_entropy_grad_and_hess(a, **given)
        assert same_bits(grad, curved.grad)
        assert same_bits(curved.hess, fastsce.binary_cross_entropy_grad_and_hess(a, **given, weight=np.ones(size)).hess)
        fastsce.binary_cross_entropy_value_and_grad(a, **given, out=a)
        assert same_bits(a, grad)


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "int8", "float16", "bfloat16", "float64"])
def test_target_dtypes(backend, dtype):
    x, hot = logits((40,), "float64"), rng("hot").integers(0, 2, 40)
    expected = fastsce.binary_cross_entropy_value_and_grad(x, hot.astype(float), backend=backend)
    found = fastsce.binary_cross_entropy_value_and_grad(x, hot.astype(DTYPES.get(dtype, dtype)), backend=backend)
    assert found.loss == expected.loss and np.array_equal(found.grad, expected.grad)


@pytest.mark.parametrize("shape", [(), (1,), (4, 5, 6)])
def test_any_shape(backend, shape):
    x, target = logits(shape, "float64"), rng("any").random(shape)
    loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(x, target, backend=backend)
    true_loss, true_grad, _, _ = law(x, target)
    assert_allclose(loss, true_loss.mean(), rtol=1e-14)
    assert_allclose(grad, true_grad / x.size, rtol=1e-13)
    assert grad.shape == shape


@pytest.mark.parametrize("share", [(4,), (4, 5), (4, 5, 6)])
def test_sample_weight_goes_with_the_first_axes(backend, share):
    x, target, factor = logits((4, 5, 6), "float64"), np.full((4, 5, 6), 0.3), rng("share").random(share)
    wide = factor.reshape(share + (1,) * (3 - len(share)))
    loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(
        x, target, sample_weight=factor, reduction="sum", backend=backend
    )
    true_loss, true_grad, _, _ = law(x, target)
    assert_allclose(loss, (true_loss * wide).sum(), rtol=1e-13)
    assert_allclose(grad, true_grad * wide, rtol=1e-13)


def test_denominator_and_upstream(backend):
    x, target = logits((8,), "float64"), np.full(8, 0.3)
    plain = fastsce.binary_cross_entropy_value_and_grad(x, target, reduction="sum", backend=backend)
    found = fastsce.binary_cross_entropy_value_and_grad(x, target, denominator=20, grad_output=3, backend=backend)
    assert_allclose(found.loss, plain.loss / 20, rtol=1e-14)
    assert_allclose(found.grad, plain.grad * 3 / 20, rtol=1e-14)
    up = np.arange(8.0)
    each = fastsce.binary_cross_entropy_value_and_grad(x, target, reduction="none", grad_output=up, backend=backend)
    assert_allclose(each.grad, plain.grad * up, rtol=1e-14)


@pytest.mark.parametrize("offset", [0, 1, 5, 31])
@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("shape", [(1, 5003), (700, 3), (90, 80), (40, 1023), (9, 3000)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_streamed_results_are_those_of_the_caches(dtype, shape, gap, offset, monkeypatch):
    """Rows that adjoin, whose ends share lines with the next, and rows that do not; what lies around them is kept."""
    n, c = shape
    x, target = logits(shape, dtype, 8), rng("target").random(shape).astype(np.float32)
    size = n * (c + gap) + 192
    memory = np.full(2 * size, 7, x.dtype)
    start = -memory.ctypes.data % 64 // x.itemsize + 64 + offset
    starts = start, start + size  # of the gradient, and of the Hessian, which may begin elsewhere in a line
    out, hess = (memory[i : i + n * (c + gap)].reshape(n, c + gap)[:, :c] for i in starts)
    given = {"weight": rng("weight").uniform(0.1, 2, c), "backend": "cpu"}  # so that each row is a run of its own
    kept, found = memory.copy(), {}
    for limit in (1 << 40, 0):
        monkeypatch.setattr("fastsce.backends.cpu.STREAM_BYTES", limit)
        memory[...] = kept
        loss = fastsce.binary_cross_entropy_value_and_grad(x, target, out=out, reduction="none", **given).loss
        found[limit] = [out.tobytes(), loss.tobytes()]
        fastsce.binary_cross_entropy_grad_and_hess(x, target, out=(out, hess), **given)
        found[limit] += [out.tobytes(), hess.tobytes()]
        out[...] = hess[...] = 7
        assert memory.tobytes() == kept.tobytes()
    assert found[0] == found[1 << 40]


def test_in_place(backend):
    x, target = logits((37, 19)), np.full((37, 19), 0.3, np.float32)
    kept = x.copy()
    expected = fastsce.binary_cross_entropy_value_and_grad(x, target, backend=backend)
    assert np.array_equal(x, kept)
    found = fastsce.binary_cross_entropy_value_and_grad(x, target, out=x, backend=backend)
    assert found.grad is x and np.array_equal(x, expected.grad) and found.loss == expected.loss
    pair = (np.empty_like(kept), kept)
    hess = fastsce.binary_cross_entropy_grad_and_hess(kept.copy(), target, backend=backend).hess
    found = fastsce.binary_cross_entropy_grad_and_hess(kept, target, out=pair, backend=backend)
    assert found.hess is kept and np.array_equal(kept, hess) and np.array_equal(found.grad, expected.grad)


@pytest.mark.parametrize("offset", [0, 1, 5, 31])
@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("shape", [(700, 3), (90, 80), (40, 1023), (40, 1024), (9, 3000)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_streamed_products_are_those_of_the_caches(dtype, shape, gap, offset, monkeypatch):
    """`softmax_vjp` into rows as above; test_vjp.py has more of short ones."""
    from fastsce.backends import cpu

    (n, c), v = shape, logits(shape, dtype, 8)
    p = fastsce.softmax(v)
    memory = np.full(n * (c + gap) + 192, 7, v.dtype)
    start = -memory.ctypes.data % 64 // v.itemsize + 64 + offset
    out, kept, found = memory[start : start + n * (c + gap)].reshape(n, c + gap)[:, :c], memory.copy(), []
    for limit in (1 << 40, 0):
        monkeypatch.setattr(cpu, "STREAM_BYTES", limit)
        cpu.softmax_vjp(p, v, out=out)
        found.append(out.tobytes())
        out[...] = 7
        assert memory.tobytes() == kept.tobytes()
    assert found[0] == found[1]
