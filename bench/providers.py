"""The contestants: mean loss and its gradient, each in its best form, on the same threads.

A provider takes a batch and returns a function of no arguments that gives (loss, gradient); one whose library cannot be
imported is left out. What is converted, compiled or allocated beforehand is not timed.
"""

from __future__ import annotations

import importlib.util
import os

import numba
import numpy as np

import fastsce
from bench import peers, roofs
from bench.goals import (
    COMPILED,
    COPY,
    COPY_BOTH,
    EAGER,
    FRESH,
    JAX,
    LOSS,
    NUMPY,
    OURS,
    PLAIN,
    READ,
    SKLEARN,
    STREAM,
)


def ours(given):
    """The gradient into memory that the caller keeps, as a training loop does."""
    return value_and_grad(given, {**given.options, "out": given.out})


def ours_fresh(given):
    """The gradient in new memory."""
    return value_and_grad(given, given.options)


def value_and_grad(given, options):
    binary = given.case.target == "binary"
    function = fastsce.binary_cross_entropy_value_and_grad if binary else fastsce.cross_entropy_value_and_grad
    if not binary:
        options = {**options, "axis": given.case.axis}
    if given.scale is not None:
        options = {**options, "grad_output": given.scale}
    logits, target = given.logits, given.target

    def run():
        result = function(logits, target, **options)
        return result.loss, result.grad

    return run


def ours_loss(given):
    logits, target, axis, options = given.logits, given.target, given.case.axis, given.options
    return lambda: (fastsce.cross_entropy(logits, target, axis=axis, **options), None)


def scikit_learn(given):
    """HalfMultinomialLoss, which sums; its two outputs are given, so that it allocates nothing."""
    from sklearn._loss.loss import HalfMultinomialLoss

    loss_function = HalfMultinomialLoss(n_classes=given.case.classes)
    target = given.target.astype(np.float32)
    weight = np.full(len(target), 1 / len(target), np.float32)
    losses = np.empty(len(target), np.float32)
    threads = numba.get_num_threads() if len(target) >= 256 else 1  # more would only wait for each other

    def run():
        loss_function.loss_gradient(
            y_true=target,
            raw_prediction=given.logits,
            sample_weight=weight,
            loss_out=losses,
            gradient_out=given.out,
            n_threads=threads,
        )
        return losses.sum(dtype=np.float64), given.out

    return run


def numpy_best(given):
    """In place on one buffer, no temporary of the logits' size."""
    logits, target, out = given.logits, given.target, given.out
    rows = np.arange(len(target))

    def run():
        np.subtract(logits, logits.max(1, keepdims=True), out=out)
        shifted = out[rows, target]
        np.exp(out, out=out)
        sums = out.sum(1, keepdims=True)
        loss = (np.log(sums[:, 0]) - shifted).mean()
        np.multiply(out, (1 / len(rows)) / sums, out=out)
        out[rows, target] -= np.float32(1 / len(rows))
        return loss, out

    return run


PROVIDERS = {
    OURS: (ours, "numba"),
    FRESH: (ours_fresh, "numba"),
    LOSS: (ours_loss, "numba"),
    PLAIN: (ours, "numba"),
    COPY: (lambda given: lambda: roofs.copy(given.logits, given.out), "numba"),
    STREAM: (lambda given: lambda: roofs.stream_copy(given.logits, given.out), "numba"),
    COPY_BOTH: (lambda given: lambda: roofs.copy_reading_both(given.logits, given.target, given.out), "numba"),
    READ: (lambda given: lambda: roofs.read(given.logits), "numba"),
    EAGER: (peers.torch_eager, "torch"),
    COMPILED: (peers.torch_compile, "torch"),
    JAX: (peers.jax_jit, "jax"),
    SKLEARN: (scikit_learn, "sklearn"),
    NUMPY: (numpy_best, "numpy"),
}
ROOFS = (COPY, STREAM, COPY_BOTH, READ)


def given_to(name, given):
    """The same batch without options where that is what the contestant is for; labels to be ignored count then."""
    if name != PLAIN:
        return given
    case = given.case._replace(options=(), weighted=False)
    return given._replace(case=case, options={}, target=np.maximum(given.target, 0))


def available(case, with_peers=True) -> list[str]:
    """The case's contestants whose library is installed."""
    names = [name for name in case.contestants if importlib.util.find_spec(PROVIDERS[name][1])]
    return [name for name in names if with_peers or name.startswith("fastsce") or name in ROOFS]


def pin_threads() -> None:
    """As many threads for everyone; to be called before any library starts its own."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, str(len(os.sched_getaffinity(0))))
