"""The contestants: from a batch to its loss and gradient, as NumPy arrays, or None for what one does not offer."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastsce
from bench.accuracy import peers
from bench.accuracy.cases import BY_NAME, Batch

Answer = tuple[np.ndarray | None, np.ndarray]


def ours(batch: Batch) -> Answer:
    return call(batch, batch.logits, batch.target)


def classes_first(batch: Batch) -> Answer:
    """The kernel for classes that do not lie side by side."""
    soft = batch.target if batch.labelled else np.ascontiguousarray(batch.target.T)
    if batch.binary:
        loss, grad = call(batch, np.ascontiguousarray(batch.logits.T), soft)
        return loss.T, grad.T
    loss, grad = call(batch, np.ascontiguousarray(batch.logits.T), soft, axis=0)
    return loss, grad.T


def reference(batch: Batch) -> Answer:
    return call(batch, batch.logits, batch.target, backend="reference")


def call(batch: Batch, logits, target, **more) -> Answer:
    function = fastsce.binary_cross_entropy_value_and_grad if batch.binary else fastsce.cross_entropy_value_and_grad
    result = function(logits, target, **batch.options, **more)
    return np.asarray(result.loss), result.grad


def from_lse(batch: Batch) -> Answer | None:
    """The gradient alone, from a saved lse."""
    if batch.binary:
        return None
    options = {"grad_output": 1.0, **batch.options}
    upstream = options.pop("grad_output")
    *_, lse = fastsce.cross_entropy_value_and_grad(batch.logits, batch.target, **options)
    return None, fastsce.cross_entropy_backward(batch.logits, batch.target, lse, upstream, **options)


class Contestant(NamedTuple):
    answer: Callable[[Batch], Answer | None]
    library: str
    family: str


OURS = {
    "fastsce": Contestant(ours, "numba", "fastsce"),
    "fastsce, classes first": Contestant(classes_first, "numba", "fastsce"),
    "fastsce, from lse": Contestant(from_lse, "numba", "from lse"),
}
CONTESTANTS = {
    **OURS,
    "reference": Contestant(reference, "numpy", "reference"),
    "torch": Contestant(peers.torch_loss, "torch", "torch"),
    "torch, upcast": Contestant(peers.torch_upcast, "torch", "torch"),
    "JAX": Contestant(peers.jax_loss, "jax", "JAX"),
    "JAX, logsumexp": Contestant(peers.jax_logsumexp, "jax", "JAX"),
    "scikit-learn": Contestant(peers.scikit_learn, "sklearn", "scikit-learn"),
}
PEERS = ("torch", "JAX", "scikit-learn")


def installed() -> dict[str, Contestant]:
    return {name: c for name, c in CONTESTANTS.items() if importlib.util.find_spec(c.library)}


def answer(name: str, case: str, quick: bool) -> Answer | None:
    """For a process of its own, to which names are sent."""
    with np.errstate(all="ignore"):
        return CONTESTANTS[name].answer(BY_NAME[case].batch(quick))
