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
from bench import roofs


def ours(batch):
    """The gradient into memory that the caller keeps, as a training loop does."""

    def run():
        result = fastsce.cross_entropy_value_and_grad(batch.logits, batch.target, out=batch.out)
        return result.loss, result.grad

    return run


def ours_fresh(batch):
    """The gradient in new memory."""

    def run():
        result = fastsce.cross_entropy_value_and_grad(batch.logits, batch.target)
        return result.loss, result.grad

    return run


def copy(batch):
    return lambda: roofs.copy(batch.logits, batch.out)


def stream_copy(batch):
    return lambda: roofs.stream_copy(batch.logits, batch.out)


def torch_eager(batch):
    return torch_run(batch, lambda function: function)


def torch_compile(batch):
    import torch

    return torch_run(batch, torch.compile)


def torch_run(batch, make):
    import torch
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(numba.get_num_threads())
    logits = torch.from_numpy(batch.logits).requires_grad_()
    target = torch.from_numpy(batch.target)
    loss_of = make(cross_entropy)

    def run():
        loss = loss_of(logits, target)
        (grad,) = torch.autograd.grad(loss, logits)
        return loss.detach().numpy(), grad.numpy()

    return run


def jax_jit(batch):
    import jax
    import jax.numpy as jnp

    def loss_of(logits, target):
        rows = jnp.arange(logits.shape[0])
        return -jax.nn.log_softmax(logits)[rows, target].mean()

    step = jax.jit(jax.value_and_grad(loss_of))
    logits, target = jnp.asarray(batch.logits), jnp.asarray(batch.target.astype(np.int32))

    def run():
        loss, grad = jax.block_until_ready(step(logits, target))
        return np.asarray(loss), np.asarray(grad)

    return run


def scikit_learn(batch):
    """HalfMultinomialLoss, which sums; its two outputs are given, so that it allocates nothing."""
    from sklearn._loss.loss import HalfMultinomialLoss

    loss_function = HalfMultinomialLoss(n_classes=batch.logits.shape[1])
    target = batch.target.astype(np.float32)
    weight = np.full(len(target), 1 / len(target), np.float32)
    losses = np.empty(len(target), np.float32)

    def run():
        loss_function.loss_gradient(
            y_true=target,
            raw_prediction=batch.logits,
            sample_weight=weight,
            loss_out=losses,
            gradient_out=batch.out,
            n_threads=numba.get_num_threads(),
        )
        return losses.sum(dtype=np.float64), batch.out

    return run


def numpy_best(batch):
    """In place on one buffer, no temporary of the logits' size."""
    rows = np.arange(len(batch.target))

    def run():
        out = batch.out
        np.subtract(batch.logits, batch.logits.max(1, keepdims=True), out=out)
        shifted = out[rows, batch.target]
        np.exp(out, out=out)
        sums = out.sum(1, keepdims=True)
        loss = (np.log(sums[:, 0]) - shifted).mean()
        out *= (1 / len(rows)) / sums
        out[rows, batch.target] -= np.float32(1 / len(rows))
        return loss, out

    return run


PROVIDERS = {
    "fastsce, fresh": (ours_fresh, "numba"),
    "fastsce, out=": (ours, "numba"),
    "copy": (copy, "numba"),
    "stream copy": (stream_copy, "numba"),
    "torch eager": (torch_eager, "torch"),
    "torch.compile": (torch_compile, "torch"),
    "JAX jit": (jax_jit, "jax"),
    "scikit-learn": (scikit_learn, "sklearn"),
    "NumPy": (numpy_best, "numpy"),
}
ROOFS = ("copy", "stream copy")
PEERS = ("torch eager", "torch.compile", "JAX jit", "scikit-learn")


def available() -> list[str]:
    return [name for name, (_, module) in PROVIDERS.items() if importlib.util.find_spec(module)]


def runner(name, batch):
    return PROVIDERS[name][0](batch)


def check(name, result, batch) -> None:
    """Against float64: the loss to 1e-5, and of 32 rows, confident ones among them, the gradient to 1e-4 of its largest
    element, ours to 1e-5 of every element: peers lose the gradient of confident rows.
    """
    loss, grad = result
    some = np.r_[0:16, len(batch.target) - 16 : len(batch.target)]
    x, y, n = batch.logits[some].astype(np.float64), batch.target[some], len(batch.target)
    x -= x[np.arange(len(y)), y][:, None]  # now the label's logit is 0
    others = np.exp(x)
    others[np.arange(len(y)), y] = 0
    rest = others.sum(1, keepdims=True)
    truth = others / (1 + rest) / n
    truth[np.arange(len(y)), y] = -(rest / (1 + rest))[:, 0] / n
    found = np.asarray(grad)[some]
    if name.startswith("fastsce"):
        normal = np.abs(truth) > 1e-36
        np.testing.assert_allclose(found[normal], truth[normal], rtol=1e-5)
    np.testing.assert_allclose(found, truth, atol=1e-4 / n, rtol=0)
    np.testing.assert_allclose(float(loss), batch.loss, rtol=1e-5)


def pin_threads() -> None:
    """As many threads for everyone; to be called before any library starts its own."""
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, str(len(os.sched_getaffinity(0))))
