"""What the contestants of a case are given, and the truth in float64 that they are checked against."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import fastsce
from bench.cases import Case

SAMPLED = 16  # rows at either end of a batch, two of eight confident, whose gradients are checked
BLOCK = 1 << 16  # logits in float64 at a time, so that they stay in the cache


class Batch(NamedTuple):
    case: Case
    logits: np.ndarray
    target: np.ndarray
    out: np.ndarray
    options: dict[str, Any]
    scale: float | None  # of 16-bit gradients, as in mixed precision: a mean's would be too small for float16


def aligned(shape, dtype, order="C") -> np.ndarray:
    """Memory on a cache line, so that no contestant is luckier than another."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    memory.fill(0)  # every page has been touched
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape, order=order)


def batch(case: Case, seed: int = 0) -> Batch:
    """Random logits; every eighth row is confident of its label, as a trained model is."""
    random = np.random.default_rng(seed)
    logits, out = (aligned(case.shape, case.dtype, case.order) for _ in range(2))
    flat = logits.reshape(-1, order="A")
    for part in np.array_split(flat, -(-flat.size // BLOCK)):
        part[:] = 3 * random.standard_normal(part.size, np.float32)
    by_row = np.moveaxis(logits, case.axis, -1)
    target = random.integers(0, case.classes, by_row.shape[:-1])
    confident = np.unravel_index(np.arange(0, case.rows, 8), target.shape)
    by_row[(*confident, target[confident])] = 40
    options = dict(case.options)
    if case.weighted:
        options["weight"] = random.uniform(0.5, 2, case.classes)
        options["sample_weight"] = random.uniform(0.5, 2, target.shape)
        target.reshape(-1)[5::64] = -100
    if case.target != "labels":
        target = aligned(case.shape, case.dtype)
        random.random(case.shape, np.float32, out=target)
        if case.target == "probabilities":
            target /= target.sum(case.axis, keepdims=True)
    scale = float(case.rows) if np.dtype(case.dtype).itemsize == 2 else None
    return Batch(case, logits, target, out, options, scale)


# --- the truth --------------------------------------------------------------------------------------------------------


def by_rows(given: Batch, a) -> np.ndarray:
    """An array of the logits' shape, the class axis last."""
    return np.moveaxis(a, given.case.axis, -1)


def some(given: Batch, at) -> dict[str, Any]:
    """Logits, target and options of some rows, for the reference to sum over."""
    options = {**given.options, "reduction": "sum", "backend": "reference"}
    if given.case.weighted:
        options["sample_weight"] = options["sample_weight"][at]
    target = given.target[at] if given.case.target == "labels" else by_rows(given, given.target)[at]
    return {"logits": by_rows(given, given.logits)[at].astype(np.float64), "target": target, **options}


def true_loss(given: Batch) -> float:
    """The mean, which `ignore_index` and the weights of the labels have a part in."""
    function = fastsce.binary_cross_entropy if given.case.target == "binary" else fastsce.cross_entropy
    rows = by_rows(given, given.logits).shape[0]
    each = max(1, BLOCK * rows // given.logits.size)
    blocks = (slice(i, i + each) for i in range(0, rows, each))
    return sum(float(function(**some(given, at))) for at in blocks) / normaliser(given)


def normaliser(given: Batch) -> float:
    if given.case.target == "binary":
        return given.logits.size
    if not given.case.weighted:
        return given.case.rows
    counts = given.target >= 0
    return given.options["weight"][given.target[counts]] @ given.options["sample_weight"][counts]


def sampled(given: Batch) -> tuple[np.ndarray, ...]:
    """Which rows to check the gradients of."""
    first, last = np.arange(SAMPLED), np.arange(SAMPLED) - SAMPLED + given.case.rows
    rows = np.unique(np.clip(np.r_[first, last], 0, given.case.rows - 1))
    return np.unravel_index(rows, by_rows(given, given.logits).shape[:-1])


def true_gradient(given: Batch) -> np.ndarray:
    binary = given.case.target == "binary"
    function = fastsce.binary_cross_entropy_value_and_grad if binary else fastsce.cross_entropy_value_and_grad
    return function(**some(given, sampled(given)), grad_output=(given.scale or 1) / normaliser(given)).grad


class Check:
    """Compares results with float64. The truth is found once for all contestants of a batch."""

    def __init__(self, given: Batch):
        self.given, self.loss, self.gradient = given, true_loss(given), true_gradient(given)

    def __call__(self, name: str, loss, grad) -> None:
        """Ours to a relative error of 1e-5 in the loss and in every element of the gradient. Peers, which lose
        confident rows, to an absolute one of 1e-5 in the loss and of 1e-4 of a row's largest possible gradient. With
        16 bits a few roundings are allowed.
        """
        limits = ml_dtypes.finfo(self.given.case.dtype)
        eps, smallest = float(limits.eps), float(limits.smallest_subnormal)
        unit = (self.given.scale or 1) / normaliser(self.given)
        ours = name.startswith("fastsce")
        error = {"rtol": 1e-5, "atol": 0} if ours else {"rtol": max(1e-5, 4 * eps), "atol": 1e-5}
        np.testing.assert_allclose(float(loss), self.loss, **error, err_msg=name)
        if grad is None:
            return
        found = by_rows(self.given, as_numpy(grad))[sampled(self.given)].astype(np.float64)
        if ours:
            cancels = 1e-7 * unit if self.given.options or self.given.case.target != "labels" else 0
            error = {"rtol": max(1e-5, eps), "atol": cancels + max(smallest, 1e-36)}
        else:
            error = {"rtol": 0, "atol": max(1e-4, 4 * eps) * unit + smallest}
        np.testing.assert_allclose(found, self.gradient, **error, err_msg=name)


def as_numpy(a) -> np.ndarray:
    return a.float().numpy() if hasattr(a, "float") else np.asarray(a)
