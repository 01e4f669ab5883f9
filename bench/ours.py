"""fastsce as a contestant. Each function takes a batch and returns what is timed, which gives (loss, gradient)."""

from __future__ import annotations

import numpy as np

import fastsce
from bench.case import HESSIAN


def into_out(given):
    """The gradient into memory that the caller keeps, as a training loop does."""
    return call(given, {"out": given.out if given.hess is None else (given.out, given.hess)})


def fresh(given):
    """The gradient in new memory."""
    return call(given, {})


def in_place(given):
    """`given.out`, which holds the logits before each turn, becomes the gradient."""
    return call(given._replace(logits=given.out), {"out": given.out})


def loss_only(given):
    logits, target, axis, options = given.logits, given.target, given.case.axis, given.options
    return lambda: (fastsce.cross_entropy(logits, target, axis=axis, **options), None)


def call(given, outputs):
    logits, target, options = given.logits, given.target, {**given.options, **outputs}
    if given.case.target != "binary":
        options["axis"] = given.case.axis
    if given.case.computes == HESSIAN:
        return lambda: fastsce.cross_entropy_grad_and_hess(logits, target, reduction="sum", **options)
    if given.scale is not None:
        options["grad_output"] = given.scale
    binary = given.case.target == "binary"
    function = fastsce.binary_cross_entropy_value_and_grad if binary else fastsce.cross_entropy_value_and_grad

    def run():
        result = function(logits, target, **options)
        return result.loss, result.grad

    return run


def logits_again(given) -> None:
    """What `in_place` needs before each turn, outside the clock."""
    np.copyto(given.out, given.logits)
