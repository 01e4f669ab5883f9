"""The oracle itself, against formulas written here once more, fifty digits, and finite differences."""

import mpmath
import numpy as np
import pytest
from cases import EXTREMES, OPTIONS, POISON, labels, logits, options, probabilities
from law import Law
from numpy.testing import assert_allclose
from ulp import FORMATS, spacing, ulp_error

import fastsce

REFERENCE = {"backend": "reference"}
CAPLESS = [name for name in OPTIONS if "softcap" not in OPTIONS[name] and "z_loss" not in OPTIONS[name]]


def batch(kind, rows=7, classes=5):
    target = labels(rows, classes, ignored=True) if kind == "index" else probabilities((rows, classes))
    return logits((rows, classes), "float64"), target


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_formulas(name, kind, reduction):
    x, target = batch(kind)
    chosen = options(name, 7, 5)
    if "denominator" in chosen and reduction != "mean":
        chosen.pop("denominator")
    loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, target, reduction=reduction, **chosen, **REFERENCE)
    law = Law(x, target, reduction=reduction, **chosen)
    assert_allclose(loss, law.loss, rtol=1e-12, atol=1e-14)
    assert_allclose(grad, law.grad, rtol=1e-11, atol=1e-14)
    assert_allclose(lse[law.valid], law.lse[law.valid], rtol=1e-14)
    assert not lse[~law.valid].any()
    if name in CAPLESS:
        again, hess = fastsce.cross_entropy_grad_and_hess(x, target, reduction=reduction, **chosen, **REFERENCE)
        assert np.array_equal(again, grad)
        assert_allclose(hess, law.hess, rtol=1e-11, atol=1e-15)


def fourth_order(f, x, h):
    """df/dx_ij for every element of x, error O(h⁴); f may return an array, whose axes come first."""
    slopes = []
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = h
        slopes.append((8 * (f(x + step) - f(x - step)) - (f(x + 2 * step) - f(x - 2 * step))) / (12 * h))
    return np.moveaxis(np.array(slopes), 0, -1)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_gradient_is_the_slope_of_the_loss(name, kind):
    x, target = batch(kind)
    chosen = {**options(name, 7, 5), **REFERENCE}
    grad = fastsce.cross_entropy_value_and_grad(x, target, **chosen).grad
    slope = fourth_order(lambda at: fastsce.cross_entropy(at, target, **chosen), x, 1e-3)
    assert_allclose(grad.ravel(), slope, rtol=5e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", CAPLESS)
def test_hessian_is_the_slope_of_the_gradient(name, kind):
    x, target = batch(kind)
    chosen = {**options(name, 7, 5), **REFERENCE}
    hess = fastsce.cross_entropy_grad_and_hess(x, target, **chosen).hess
    slope = fourth_order(lambda at: fastsce.cross_entropy_value_and_grad(at, target, **chosen).grad, x, 1e-3)
    diagonal = slope.reshape(x.size, x.size).diagonal()
    assert_allclose(hess.ravel(), diagonal, rtol=5e-9, atol=1e-11)


@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_binary_slopes(target):
    x = np.array([-20.0, -3.0, -0.1, 0.0, 0.1, 3.0, 20.0])
    given = {"target": np.full(7, target), "weight": np.linspace(0.5, 2, 7), "pos_weight": 3.0, "reduction": "sum"}
    given |= REFERENCE

    def loss(at):
        return fastsce.binary_cross_entropy(at, **given)

    def gradient(at):
        return fastsce.binary_cross_entropy_grad_and_hess(at, **given).grad

    grad, hess = fastsce.binary_cross_entropy_grad_and_hess(x, **given)
    assert_allclose(grad, fourth_order(loss, x, 1e-3), rtol=5e-9, atol=1e-10)
    assert_allclose(hess, fourth_order(gradient, x, 1e-3).diagonal(), rtol=5e-9, atol=1e-10)


# ------------------------------------------------------------------------------------------------- against fifty digits


def exact(row, label, smoothing=0.0, zeta=0.0, cap=None, scale=1.0):
    """loss, gradient and Hessian's diagonal of one row, in 400 digits: enough for log(1 + exp(−700))."""
    with mpmath.workdps(400):
        big = [mpmath.mpf(float(v)) * mpmath.mpf(scale) for v in row]
        live = [v != -mpmath.inf for v in big]
        z = big if cap is None else [cap * mpmath.tanh(v / cap) if ok else v for v, ok in zip(big, live)]
        slope = [mpmath.mpf(scale) * (1 if cap is None else 1 - mpmath.tanh(v / cap) ** 2) for v in big]
        top = max(z)
        e = [mpmath.exp(v - top) for v in z]
        total = mpmath.fsum(e)
        p = [v / total for v in e]
        lse = top + mpmath.log(total)
        eps = mpmath.mpf(smoothing)
        q = [(1 - eps) * (c == label) + eps / len(row) for c in range(len(row))]
        loss = mpmath.fsum(q[c] * (lse - z[c]) for c in range(len(row)) if q[c]) + zeta * lse**2
        grad = [((1 + 2 * zeta * lse) * p[c] - q[c]) * slope[c] if live[c] else mpmath.mpf(0) for c in range(len(row))]
        hess = [p[c] * (1 - p[c]) * mpmath.mpf(scale) ** 2 for c in range(len(row))]
    return loss, np.array(grad, dtype=object), np.array(hess, dtype=object)


@pytest.mark.parametrize("name", [name for name in EXTREMES if EXTREMES[name]()[0].shape[1] < 100])
def test_extremes_to_the_last_places(name):
    x, target = EXTREMES[name]()
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, reduction="none", **REFERENCE)
    hess = fastsce.cross_entropy_grad_and_hess(x, target, reduction="none", **REFERENCE).hess
    for i, label in enumerate(target):
        true_loss, true_grad, true_hess = exact(x[i], label)
        span = min(float(np.ptp(x[i][np.isfinite(x[i])])), 745)  # z − max is rounded once
        assert ulp_error(loss[i], np.array(true_loss, object), "float64") <= 4 + span, i
        assert (ulp_error(grad[i], true_grad, "float64") <= 6 + span).all(), i
        assert (ulp_error(hess[i], true_hess, "float64") <= 6 + 2 * span).all(), i


@pytest.mark.parametrize("label", [0, 1999])
def test_near_uniform_rows_to_the_last_places(label):
    """1 − (1 − p) would lose what p ≈ 1/C is small by; class 1999 is the largest."""
    x = np.sort(logits((1, 2000), "float64", spread=0.01))
    grad, hess = fastsce.cross_entropy_grad_and_hess(x, np.array([label]), **REFERENCE)
    _, true_grad, true_hess = exact(x[0], label)
    assert (ulp_error(grad[0], true_grad, "float64") <= 6).all()
    assert (ulp_error(hess[0], true_hess, "float64") <= 6).all()
    p = true_grad + (np.arange(2000) == label)
    assert (ulp_error(fastsce.softmax(x[0], **REFERENCE), p, "float64") <= 6).all()


@pytest.mark.parametrize("given", [{"smoothing": 0.1}, {"zeta": 0.25}, {"cap": 15.0}, {"scale": 0.5}])
def test_confident_rows_with_options(given):
    x, target = EXTREMES["confident"]()
    names = {"smoothing": "label_smoothing", "zeta": "z_loss", "cap": "softcap", "scale": "logit_scale"}
    chosen = {names[k]: v for k, v in given.items()}
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, reduction="none", **chosen, **REFERENCE)
    for i, label in enumerate(target):
        true_loss, true_grad, _ = exact(x[i], label, **given)
        assert_allclose(loss[i], float(true_loss), rtol=1e-13)
        assert_allclose(grad[i], true_grad.astype(float), rtol=2e-13, atol=1e-320)


@pytest.mark.parametrize("x", [-745.0, -40.0, -1e-10, 0.0, 1e-10, 40.0, 700.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_to_the_last_places(x, target):
    loss, grad, _ = fastsce.binary_cross_entropy_value_and_grad(np.array([x]), np.array([target]), **REFERENCE)
    hess = fastsce.binary_cross_entropy_grad_and_hess(np.array([x]), np.array([target]), **REFERENCE).hess
    with mpmath.workdps(400):
        sign = 1 if target == 0 else -1
        p = 1 / (1 + mpmath.exp(-mpmath.mpf(x)))
        share = p if target == 0 else p - 1
        truth = mpmath.log(1 + mpmath.exp(sign * mpmath.mpf(x))), share, p * (1 - p)
    for got, true in zip((loss, grad[0], hess[0]), truth):
        assert ulp_error(got, np.array(true, object), "float64") <= 4


def test_log_softmax_and_logsumexp():
    x = np.concatenate([logits((7, 5), "float64"), EXTREMES["confident"]()[0]])
    with mpmath.workdps(60):
        lse = [mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(v)) for v in row)) for row in x]
        rows = [[float(mpmath.mpf(v) - s) for v in row] for row, s in zip(x, lse)]
    assert_allclose(fastsce.logsumexp(x, **REFERENCE), np.array(lse, dtype=float), rtol=4e-16)
    assert_allclose(fastsce.log_softmax(x, **REFERENCE), rows, rtol=1e-15, atol=1e-300)
    assert_allclose(fastsce.softmax(x, **REFERENCE), np.exp(rows), rtol=1e-13)


@pytest.mark.parametrize("name", POISON)
def test_logsumexp_of_odd_rows(name, backend):
    """−inf for a row of −inf, +inf for one that holds +inf, else NaN."""
    row = POISON[name]
    expected = np.nan if np.isnan(row).any() else row.max()
    assert_allclose(fastsce.logsumexp(row, backend=backend), expected, rtol=1e-15)


# ------------------------------------------------------------------------------------------------- rounding to 16 bits


def test_negative_weights_turn_the_sign():
    """And lose nothing by it."""
    x, y = logits((7, 300), "float64"), labels(7, 300)
    given = {"reduction": "sum", "backend": "reference"}
    plain = fastsce.cross_entropy_value_and_grad(x, y, weight=np.ones(300), **given)
    found = fastsce.cross_entropy_value_and_grad(x, y, weight=-np.ones(300), **given)
    assert found.loss == -plain.loss and np.array_equal(found.grad, -plain.grad)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_stored_gradients_are_rounded_once(dtype):
    """Half a unit in the last place from the float64 gradient of the stored logits, subnormal results included."""
    x = logits((40, 33), dtype, spread=9)
    target = labels(40, 33)
    grad = fastsce.cross_entropy_value_and_grad(x, target, **REFERENCE).grad
    true = fastsce.cross_entropy_value_and_grad(x.astype(np.float64), target, **REFERENCE).grad
    assert grad.dtype == x.dtype
    assert (np.abs(grad.astype(np.float64) - true) <= 0.5 * spacing(true, dtype)).all()


@pytest.mark.parametrize("dtype", FORMATS)
def test_loss_dtype(dtype):
    """float64 for float64 logits, float32 for all others."""
    loss, grad, lse = fastsce.cross_entropy_value_and_grad(logits((2, 3), dtype), np.array([0, 1]), **REFERENCE)
    assert loss.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert grad.dtype.name == dtype and lse.dtype == np.float64


def test_ulp_error_counts_places():
    one = np.array([1.0])
    assert ulp_error(np.nextafter(one, 2), one, "float64") == 1
    assert ulp_error(one + 2.0**-7, one, "bfloat16") == 1
    assert ulp_error(np.array([np.inf, np.nan, 0.0]), np.array([np.inf, np.nan, np.nan]), "float32").tolist() == [
        0,
        0,
        np.inf,
    ]
