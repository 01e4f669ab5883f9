"""Every backend against float64 truth over the catalogue: shapes × dtypes × layouts × options × extremes.

Truth is the reference on a float64 copy of the very values that are stored. Each element has its own bound, from what
rounding z − max once and a chain of a few operations cost (`law`); confident rows therefore get no absolute tolerance.
"""

import numpy as np
import pytest
from cases import (
    DTYPES,
    EXTREME_CASES,
    EXTREMES,
    FEW,
    LARGE,
    LAYOUTS,
    MIDDLE,
    OPTIONS,
    SMALL,
    WRITABLE_LAYOUTS,
    labels,
    logits,
    options,
    probabilities,
    repeated_row,
)
from law import Law, epsilon, stored
from ulp import assert_within, spacing

import fastsce

CAPLESS = [name for name in OPTIONS if "softcap" not in OPTIONS[name] and "z_loss" not in OPTIONS[name]]
ANSWERS = {"float64": "float64", "float32": "float32", "float16": "float32", "bfloat16": "float32"}


def soft(shape, dtype):
    return probabilities(shape, "float64" if dtype == "float64" else "float32")


def truth(call, x, target, **given):
    return call(x.astype(np.float64), target, backend="reference", **given)


def agree(backend, x, target, **given):
    """loss, gradient and lse of one batch (N, C) are as close to the truth as they can be."""
    dtype = x.dtype.name
    loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, target, backend=backend, **given)
    true = truth(fastsce.cross_entropy_value_and_grad, x, target, **given)
    law = Law(x.astype(np.float64), target, **given)
    assert grad.dtype == x.dtype and loss.dtype == ANSWERS[dtype] and lse.dtype == np.float64
    assert_within(loss, true.loss, law.loss_bound(dtype), "loss")
    assert_within(grad, true.grad, stored(law.grad_bound(dtype), true.grad, dtype), "grad")
    near = epsilon(dtype) * law.few() * (np.abs(law.m) + np.abs(law.lse) + 1)
    assert_within(lse, true.lse, np.where(law.valid, near, 0), "lse")
    alone = fastsce.cross_entropy(x, target, backend=backend, **given)
    assert_within(alone, true.loss, law.loss_bound(dtype), "loss alone")
    return grad


def agree_hess(backend, x, target, **given):
    dtype = x.dtype.name
    grad, hess = fastsce.cross_entropy_grad_and_hess(x, target, backend=backend, **given)
    true = truth(fastsce.cross_entropy_grad_and_hess, x, target, **given)
    law = Law(x.astype(np.float64), target, **given)
    assert_within(grad, true.grad, stored(law.grad_bound(dtype), true.grad, dtype), "grad")
    assert_within(hess, true.hess, stored(law.hess_bound(dtype), true.hess, dtype), "hess")


# Small shapes go through all dtypes; the memory layout and the option change from shape to shape, so that the product
# of the four is sampled evenly. The grids after it are full in two dimensions each.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SMALL, ids=str)
def test_small_shapes(backend, shape, dtype):
    at = SMALL.index(shape)
    x = list(LAYOUTS.values())[at % len(LAYOUTS)](logits(shape, dtype))
    for name in ("plain", list(OPTIONS)[at % len(OPTIONS)]):
        given = options(name, *shape)
        agree(backend, x, labels(*shape, ignored=True), **given)
        agree(backend, x, soft(shape, dtype), **given)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", FEW + MIDDLE + LARGE, ids=str)
def test_large_shapes(backend, shape, dtype):
    """Rows longer than a vector, a block and a cache, with the plain loss and everything at once."""
    x = logits(shape, dtype)
    agree(backend, x, labels(*shape, ignored=True), **options("plain", *shape))
    agree(backend, x, labels(*shape, ignored=True), **options("everything_uncapped", *shape))
    if shape[0] * shape[1] <= 200_000:
        agree(backend, x, labels(*shape, ignored=True), **options("everything", *shape))
        agree(backend, x, soft(shape, dtype), **options("everything_uncapped", *shape))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", OPTIONS)
def test_options(backend, name, kind, reduction):
    for dtype in ("float32", "float64"):
        for shape in ((17, 10), (17, 300)):
            given = options(name, *shape)
            if "denominator" in given and reduction != "mean":
                continue
            target = labels(*shape, ignored=True) if kind == "index" else soft(shape, dtype)
            agree(backend, logits(shape, dtype), target, reduction=reduction, **given)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts(backend, dtype, layout):
    """Of the logits, of the soft target, and of both."""
    for shape in ((19, 10), (19, 300)):
        x, target = logits(shape, dtype), soft(shape, dtype)
        agree(backend, LAYOUTS[layout](x), labels(*shape, ignored=True))
        agree(backend, LAYOUTS[layout](x), target)
        agree(backend, x, LAYOUTS[layout](target))
        agree(backend, LAYOUTS[layout](x), LAYOUTS[layout](target), **options("everything_uncapped", *shape))


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layouts_of_out(backend, dtype, layout):
    """The gradient lands in the caller's buffer, whatever its strides, and nowhere beside it."""
    for shape in ((19, 10), (19, 300)):
        x, target = logits(shape, dtype), labels(*shape)
        fresh = agree(backend, x, target)
        out = WRITABLE_LAYOUTS[layout](np.full_like(x, 7))
        found = fastsce.cross_entropy_value_and_grad(x, target, out=out, backend=backend).grad
        assert found is out
        law = Law(x.astype(np.float64), target)
        exact = fresh.astype(np.float64)
        assert_within(out, exact, 2 * law.grad_bound(dtype) + spacing(exact, dtype), "out")
        if out.base is not None and out.base.size > out.size and out.base.dtype == x.dtype:
            beside = out.base.size - out.size
            assert (out.base.astype(np.float64) == 77).sum() == beside


@pytest.mark.parametrize("classes", [10, 300])
def test_one_row_repeated_with_stride_0(backend, classes):
    agree(backend, repeated_row(logits((19, classes))), labels(19, classes))
    agree(backend, logits((19, classes)), repeated_row(soft((19, classes), "float32")))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 7, 40), (2, 33, 17), (5, 100, 64), (1, 1003, 9)], ids=str)
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_classes_not_last(backend, shape, dtype, kind):
    """(N, C, d) with axis=1: the same bounds as for the copy with the classes last."""
    x = logits(shape, dtype)
    flat = np.ascontiguousarray(np.moveaxis(x, 1, -1)).reshape(-1, shape[1])
    rows = (shape[0], shape[2])
    target = labels(rows, shape[1], ignored=True) if kind == "index" else soft(shape, dtype)
    level = target.reshape(-1) if kind == "index" else np.moveaxis(target, 1, -1).reshape(-1, shape[1])
    given = {"weight": options("weight", rows, shape[1])["weight"], "label_smoothing": 0.1}
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, axis=1, backend=backend, **given)
    true = truth(fastsce.cross_entropy_value_and_grad, flat, level, **given)
    law = Law(flat.astype(np.float64), level, **given)
    assert_within(loss, true.loss, law.loss_bound(dtype), "loss")
    found = np.moveaxis(grad, 1, -1).reshape(-1, shape[1])
    assert_within(found, true.grad, stored(law.grad_bound(dtype), true.grad, dtype), "grad")


@pytest.mark.parametrize(("name", "dtype"), EXTREME_CASES)
def test_extremes(backend, name, dtype):
    x, target = EXTREMES[name]()
    x = x.astype(DTYPES[dtype])
    agree(backend, x, target, reduction="none")
    agree_hess(backend, x, target, reduction="none")
    with np.errstate(invalid="ignore"):
        loss = fastsce.cross_entropy(x, target, reduction="none", backend=backend)
    assert np.isfinite(loss).all()


@pytest.mark.parametrize(("name", "dtype"), EXTREME_CASES)
def test_extremes_with_soft_targets(backend, name, dtype):
    """The one-hot row says what the label says, to the same accuracy."""
    x, target = EXTREMES[name]()
    x = x.astype(DTYPES[dtype])
    hot = (np.arange(x.shape[1]) == target[:, None]).astype(np.float64 if dtype == "float64" else np.float32)
    agree(backend, x, hot, reduction="none")


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(17, 1), (33, 2), (33, 3), (17, 5), (17, 33), (100, 16), (17, 1003), (1, 50257)], ids=str
)
def test_hessian(backend, shape, dtype, kind):
    target = labels(*shape, ignored=True) if kind == "index" else soft(shape, dtype)
    agree_hess(backend, logits(shape, dtype), target, **options("plain", *shape))
    agree_hess(backend, logits(shape, dtype), target, **options(CAPLESS[sum(shape) % len(CAPLESS)], *shape))


@pytest.mark.parametrize("spread", [0.01, 1, 20])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(17, 1), (17, 10), (17, 16), (3, 1003), (1, 50257)], ids=str)
def test_softmax_family(backend, shape, dtype, spread):
    """From near uniform rows to confident ones; every layout once."""
    layouts = list(LAYOUTS.values())
    x = layouts[(sum(shape) + int(spread)) % len(layouts)](logits(shape, dtype, spread))
    wide = x.astype(np.float64)
    law, eps = Law(wide, np.zeros(shape[0], int)), epsilon(dtype)
    blur = law.few() + law.blur() + (law.p * law.blur()).sum(1)[:, None]
    p = fastsce.softmax(wide, backend="reference")
    assert_within(fastsce.softmax(x, backend=backend), p, stored(eps * blur * p, p, dtype), "softmax")
    log = fastsce.log_softmax(wide, backend="reference")
    rest, wobble = law.rest()
    size = law.gap * 2 + (np.log1p(rest) * wobble)[:, None]
    assert_within(fastsce.log_softmax(x, backend=backend), log, stored(eps * size, log, dtype), "log_softmax")
    lse = fastsce.logsumexp(wide, backend="reference")
    near = eps * law.few() * (np.abs(law.m) + np.log1p(rest) + 1e-30) + spacing(lse, ANSWERS[dtype])
    assert_within(fastsce.logsumexp(x, backend=backend), lse, near, "logsumexp")
    v = soft(shape, dtype).astype(x.dtype)
    vjp = fastsce.softmax_vjp(p.astype(x.dtype), v, backend=backend)
    kept = p.astype(x.dtype).astype(np.float64)
    true = fastsce.softmax_vjp(kept, v.astype(np.float64), backend="reference")
    size = kept * (np.abs(v.astype(np.float64)) + (kept * v.astype(np.float64)).sum(1, keepdims=True))
    assert_within(vjp, true, stored(eps * law.few() * size, true, dtype), "softmax_vjp")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(17, 10), (3, 1003)], ids=str)
def test_backward(backend, shape, dtype):
    """From the reference's lse in float64; what lse's own last place hides is the only extra error."""
    x = logits(shape, dtype)
    for target in (labels(*shape, ignored=True), soft(shape, dtype)):
        true = truth(fastsce.cross_entropy_value_and_grad, x, target)
        grad = fastsce.cross_entropy_backward(x, target, true.lse, backend=backend)
        law = Law(x.astype(np.float64), target)
        hidden = 4 * np.finfo(np.float64).eps * np.abs(law.lse)[:, None]
        scale = (law.row_scale * law.mass)[:, None]
        blur = epsilon(dtype) * scale * law.p * np.abs(law.lse)[:, None]
        bound = stored(law.grad_bound(dtype) + blur + scale * hidden, true.grad, dtype)
        assert_within(grad, true.grad, bound, "grad")
