"""Weights of classes that are 0, infinite or no number: each is of its own rows only."""

import numpy as np
import pytest
from cases import INF, NAN, logits
from numpy.testing import assert_allclose

import fastsce


def both(x, target, **given):
    return fastsce.cross_entropy_value_and_grad(x, target, **given)


@pytest.mark.parametrize("odd", [INF, NAN, 1e39])
@pytest.mark.parametrize("classes", [3, 40, 400, 5000])
def test_the_weight_of_a_class_that_no_row_has(backend, classes, odd):
    """It is ∞ where weights are 1 ÷ how often there is a class; without smoothing it is not asked for."""
    x, target, weight = logits((6, classes)), np.array([0, 2, -100, 2, classes - 1, 0]), np.ones(classes)
    strange = np.full(classes, odd)
    strange[[0, 2, classes - 1]] = 1.0
    for x_, axis in ((x, 1), (np.ascontiguousarray(x.T), 0)):
        for given in ({}, {"reduction": "none"}, {"z_loss": 0.1}, {"softcap": 3.0}, {"logit_scale": 0.5}):
            on = {**given, "axis": axis, "backend": backend}
            found, true = (both(x_, target, weight=w, **on) for w in (strange, weight))
            for a, b in zip(found, true):
                assert_allclose(a, b, rtol=1e-6, atol=1e-9)
            lse, upstream = true.lse, np.ones(6) if "reduction" in given else None
            found = fastsce.cross_entropy_backward(x_, target, lse, upstream, weight=strange, **on)
            assert_allclose(found, true.grad, rtol=1e-4, atol=1e-6)
        on = {"axis": axis, "backend": backend}
        for a, b in zip(*(fastsce.cross_entropy_grad_and_hess(x_, target, weight=w, **on) for w in (strange, weight))):
            assert_allclose(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [4, 300])
def test_a_weight_of_0_leaves_nothing_of_an_infinite_loss(backend, classes, axis):
    x, target, weight = logits((3, classes)), np.array([0, 1, 2]), np.ones(classes)
    x[1, 1], weight[1], weight[3:] = -INF, 0.0, INF
    for reduction in ("none", "mean"):
        given = {"reduction": reduction, "backend": backend, "axis": axis}
        found = both(x if axis else np.ascontiguousarray(x.T), target, weight=weight, **given)
        alone = both(x[::2], target[::2], reduction=reduction, backend=backend)
        assert_allclose(found.loss, alone.loss if reduction == "mean" else [alone.loss[0], 0, alone.loss[1]], rtol=1e-6)
        grad = found.grad if axis else found.grad.T
        assert not grad[1].any()
        assert_allclose(grad[::2], alone.grad, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [4, 40, 400])
@pytest.mark.parametrize("given", [{}, {"z_loss": 0.01}, {"sample_weight": np.array([1, 2, INF, 3])}], ids=str)
def test_an_odd_weight_is_of_its_rows_only(backend, given, classes, axis):
    """Whatever stands beside it, a weight of 0 for one."""
    x, target, alike = logits((4, classes)), np.array([0, 1, 2, 1]), np.ones(classes)
    x_ = x if axis else np.ascontiguousarray(x.T)
    for zero in (0.0, 2.0):
        weight = np.full(classes, NAN)
        weight[:3] = 1, INF, zero
        alike[2] = zero
        on = {"reduction": "none", "axis": axis, "backend": backend, **given}
        found, true = (both(x_, target, weight=w, **on) for w in (weight, alike))
        grad, expected = (answer.grad if axis else answer.grad.T for answer in (found, true))
        assert not np.isfinite(found.loss[[1, 3]]).any() and not np.isfinite(grad[[1, 3]]).all(1).any()
        assert_allclose(found.loss[[0, 2]], true.loss[[0, 2]], rtol=1e-6)
        assert_allclose(grad[[0, 2]], expected[[0, 2]], rtol=1e-5)
