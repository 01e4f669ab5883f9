"""NumPy and scikit-learn as contestants, as `ours.py` has them."""

from __future__ import annotations

import numpy as np

from bench.case import HESSIAN
from bench.threads import count


def numpy_best(given):
    """In place on one buffer, no temporary of the logits' size."""
    if given.case.target == "binary":
        return numpy_sigmoid(given)
    if given.case.computes == HESSIAN:
        return numpy_hessian(given)
    logits, out, axis = given.logits, given.out, given.case.axis
    labels = np.expand_dims(given.target, axis)
    share = np.float32(1 / labels.size)

    def run():
        np.subtract(logits, logits.max(axis, keepdims=True), out=out)
        shifted = np.take_along_axis(out, labels, axis)
        np.exp(out, out=out)
        sums = out.sum(axis, keepdims=True)
        loss = (np.log(sums) - shifted).mean()
        np.multiply(out, share / sums, out=out)
        np.put_along_axis(out, labels, np.take_along_axis(out, labels, axis) - share, axis)
        return loss, out

    return run


def numpy_hessian(given):
    """p - [c = y] and p (1 - p) into two given buffers."""
    logits, grad, hess = given.logits, given.out, given.hess
    rows, labels = np.arange(len(given.target)), given.target

    def run():
        np.subtract(logits, logits.max(1, keepdims=True), out=grad)
        np.exp(grad, out=grad)
        np.multiply(grad, 1 / grad.sum(1, keepdims=True), out=grad)
        np.subtract(1, grad, out=hess)
        np.multiply(hess, grad, out=hess)
        grad[rows, labels] -= 1
        return grad, hess

    return run


def numpy_sigmoid(given):
    """exp(-|x|) serves loss and gradient; one buffer is given, one kept between calls."""
    logits, target, out = given.logits, given.target, given.out
    terms = np.empty_like(out)
    share = np.float32(1 / out.size)

    def run():
        np.abs(logits, out=terms)
        np.negative(terms, out=terms)
        np.exp(terms, out=terms)
        np.log1p(terms, out=out)
        loss = out.sum(dtype=np.float64)
        np.maximum(logits, 0, out=out)
        loss += out.sum(dtype=np.float64)
        loss -= np.multiply(logits, target, out=out).sum(dtype=np.float64)
        np.divide(np.where(logits >= 0, np.float32(1), terms), np.add(terms, 1, out=out), out=out)
        np.subtract(out, target, out=out)
        np.multiply(out, share, out=out)
        return loss / out.size, out

    return run


def scikit_learn(given):
    """The losses of its boosting and its linear models, which sum; outputs are given, so that it allocates nothing."""
    from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss

    if given.case.target == "binary":
        function, shape = HalfBinomialLoss(), (given.logits.size,)
    else:
        function, shape = HalfMultinomialLoss(n_classes=given.case.classes), given.case.shape
    logits, out = given.logits.reshape(shape), given.out.reshape(shape)
    target = given.target.reshape(-1).astype(np.float32, copy=False)
    threads = count() if target.size >= 256 else 1  # more would only wait for each other
    if given.case.computes == HESSIAN:
        outputs = {"gradient_out": given.out, "hessian_out": given.hess}
        return lambda: function.gradient_hessian(target, logits, **outputs, n_threads=threads)
    weight = np.full(target.size, 1 / target.size, np.float32)
    losses = np.empty(target.size, np.float32)

    def run():
        function.loss_gradient(target, logits, weight, loss_out=losses, gradient_out=out, n_threads=threads)
        return losses.sum(dtype=np.float64), given.out

    return run
