"""NumPy and scikit-learn as contestants, as `ours.py` has them."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from bench.case import HESSIAN
from bench.threads import count

PIECES = 1 << 18, 1 << 20  # logits of a piece, from, to: smaller ones wait for the interpreter, larger ones for memory


def numpy_best(given):
    """In place, in pieces of a few MB, by as many threads as everyone has: NumPy's loops run side by side."""
    work = sigmoid if given.case.target == "binary" else hessian if given.case.computes == HESSIAN else softmax
    pieces = cut(given)
    if len(pieces) == 1:
        return lambda: result(given, [work(given, ...)])
    pool = ThreadPoolExecutor(count(), initializer=np.seterr, initargs=("ignore",))
    return lambda: result(given, pool.map(partial(work, given), pieces))


def cut(given) -> list[tuple]:
    """Indices of the logits' pieces; one for each thread, if they need not be too small for that."""
    least, most = PIECES
    shape, classes = given.case.shape, given.case.axis % len(given.case.shape)
    wished = max(least, min(given.logits.size // count(), most))
    pieces = cuts(shape, [axis for axis in range(len(shape)) if axis != classes], wished)
    return [tuple(piece.get(axis, slice(None)) for axis in range(len(shape))) for piece in pieces]


def cuts(shape: tuple[int, ...], axes: list[int], wished: int) -> list[dict[int, slice]]:
    """Along the first axis, and where one of its samples is more than is wished along the others, too."""
    first, *others = axes
    sample = math.prod(shape) // shape[first]
    if sample <= wished or not others:
        step = max(1, wished // sample)
        return [{first: slice(i, i + step)} for i in range(0, shape[first], step)]
    inside = cuts((*shape[:first], 1, *shape[first + 1 :]), others, wished)
    return [{first: slice(i, i + 1), **piece} for i in range(shape[first]) for piece in inside]


def result(given, losses):
    if given.case.computes == HESSIAN:
        list(losses)
        return given.out, given.hess
    return sum(losses) / (given.out.size if given.case.target == "binary" else given.target.size), given.out


def labels_of(given, piece):
    """The labels of a piece of the logits, one for all its classes."""
    return np.expand_dims(given.target, given.case.axis)[piece]


def softmax(given, piece):
    logits, out, axis, labels = given.logits[piece], given.out[piece], given.case.axis, labels_of(given, piece)
    share = np.float32(1 / given.target.size)
    np.subtract(logits, logits.max(axis, keepdims=True), out=out)
    shifted = np.take_along_axis(out, labels, axis)
    np.exp(out, out=out)
    sums = out.sum(axis, keepdims=True)
    loss = (np.log(sums) - shifted).sum(dtype=np.float64)
    np.multiply(out, share / sums, out=out)
    np.put_along_axis(out, labels, np.take_along_axis(out, labels, axis) - share, axis)
    return loss


def hessian(given, piece):
    """p - [c = y] and p (1 - p)."""
    logits, grad, hess, labels = given.logits[piece], given.out[piece], given.hess[piece], labels_of(given, piece)
    np.subtract(logits, logits.max(1, keepdims=True), out=grad)
    np.exp(grad, out=grad)
    np.multiply(grad, 1 / grad.sum(1, keepdims=True), out=grad)
    np.subtract(1, grad, out=hess)
    np.multiply(hess, grad, out=hess)
    np.put_along_axis(grad, labels, np.take_along_axis(grad, labels, 1) - 1, 1)


def sigmoid(given, piece):
    """exp(-|x|) serves loss and gradient."""
    logits, target, out = given.logits[piece], given.target[piece], given.out[piece]
    terms = np.abs(logits)
    np.negative(terms, out=terms)
    np.exp(terms, out=terms)
    np.log1p(terms, out=out)
    loss = out.sum(dtype=np.float64)
    np.maximum(logits, 0, out=out)
    loss += out.sum(dtype=np.float64)
    loss -= np.multiply(logits, target, out=out).sum(dtype=np.float64)
    np.divide(np.where(logits >= 0, np.float32(1), terms), np.add(terms, 1, out=out), out=out)
    np.subtract(out, target, out=out)
    np.multiply(out, np.float32(1 / given.out.size), out=out)
    return loss


def scikit_learn(given):
    """The losses of its boosting and its linear models, which sum; outputs are given, so that it allocates nothing."""
    from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss

    if given.case.target == "binary":
        function, shape = HalfBinomialLoss(), (given.logits.size,)
    else:
        function, shape = HalfMultinomialLoss(n_classes=given.case.classes), given.case.shape
    logits, out = given.logits.reshape(shape), given.out.reshape(shape)
    target = given.target.reshape(-1).astype(np.float32, copy=False)
    threads = count() if logits.size >= 1 << 14 else 1  # more would only wait for each other
    if given.case.computes == HESSIAN:
        outputs = {"gradient_out": given.out, "hessian_out": given.hess}
        return lambda: function.gradient_hessian(target, logits, **outputs, n_threads=threads)
    weight = np.full(target.size, 1 / target.size, np.float32)
    losses = np.empty(target.size, np.float32)

    def run():
        function.loss_gradient(target, logits, weight, loss_out=losses, gradient_out=out, n_threads=threads)
        return losses.sum(dtype=np.float64), given.out

    return run
