"""The truth in float64, and how far from it a result is. What is wrong is refused before it is timed."""

from __future__ import annotations

from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import fastsce
from bench.batches import Batch
from bench.case import HESSIAN

ENDS, WITHIN = 16, 32  # rows whose gradients are checked: at either end of a batch, and anywhere
ELEMENTS = 1 << 22  # of them at most
BLOCK = 1 << 16  # logits in float64 at a time, so that they stay in the cache


class Wrong(AssertionError):
    """A result that is not the truth; says whose and by how much."""


class Errors(NamedTuple):
    """Largest errors: of the loss, relative; of gradient and Hessian, as shares of the largest gradient that a row can
    have (1 / rows for a mean). None for what is not computed.
    """

    loss: float | None
    gradient: float | None
    hessian: float | None = None


class Truth(NamedTuple):
    """Of a batch, found once for all contestants, with the reference that shares no code with any of them."""

    rows: np.ndarray  # numbers of those that are checked
    loss: float | None
    gradient: np.ndarray  # of these rows, the class axis last
    hessian: np.ndarray | None


def truth_of(given: Batch) -> Truth:
    rows = sampled(given)
    at = places(given, rows)
    if given.case.computes == HESSIAN:
        found = fastsce.cross_entropy_grad_and_hess(**some(given, at))
        return Truth(rows, None, found.grad, found.hess)
    binary = given.case.target == "binary"
    function = fastsce.binary_cross_entropy_value_and_grad if binary else fastsce.cross_entropy_value_and_grad
    return Truth(rows, true_loss(given), function(**some(given, at), grad_output=given.unit).grad, None)


def sampled(given: Batch) -> np.ndarray:
    """Rows at both ends, where remainders are, and others at random; fewer where they are long."""
    count = given.case.rows
    most = max(8, min(ENDS * 2 + WITHIN, ELEMENTS // given.case.classes))
    ends = np.arange(min(ENDS, most // 4))
    within = np.random.default_rng(1).integers(0, count, most - 2 * len(ends))
    return np.unique(np.clip(np.r_[ends, count - 1 - ends, within], 0, count - 1))


def places(given: Batch, rows) -> tuple[np.ndarray, ...]:
    return np.unravel_index(rows, given.by_rows(given.logits).shape[:-1])


def some(given: Batch, at) -> dict[str, Any]:
    """Logits, target and options of some rows, for the reference to sum over."""
    options = {**given.options, "reduction": "sum", "backend": "reference"}
    if given.case.weighted:
        options["sample_weight"] = options["sample_weight"][at]
    target = given.target[at] if given.case.target == "labels" else given.by_rows(given.target)[at]
    return {"logits": given.by_rows(given.logits)[at].astype(np.float64), "target": target, **options}


def true_loss(given: Batch) -> float:
    """The mean, which `ignore_index` and the weights of the labels have a part in."""
    function = fastsce.binary_cross_entropy if given.case.target == "binary" else fastsce.cross_entropy
    rows = given.by_rows(given.logits).shape[0]
    each = max(1, BLOCK * rows // given.logits.size)
    blocks = (slice(i, i + each) for i in range(0, rows, each))
    return sum(float(function(**some(given, at))) for at in blocks) / given.normaliser


def check(name: str, given: Batch, truth: Truth, result: tuple) -> Errors:
    """The errors of (loss, gradient) or (gradient, Hessian).

    Ours may have a relative error of 1e-5 in the loss and in every element of the gradient. Peers, which lose confident
    rows, an absolute one of 1e-5 in the loss and of 1e-4 of a row's largest possible gradient. With 16 bits a few
    roundings are allowed.

    Raises
    ------
    Wrong
        If an error is larger, or a number is not finite.
    """
    ours = name.startswith("fastsce")
    if given.case.computes == HESSIAN:
        found = [compare(name, part, given, truth, *pair, ours) for part, pair in by_part(result, truth)]
        return Errors(None, *found)
    loss, gradient = result
    error = loss_error(name, given, truth, float(loss), ours)
    return Errors(
        error, None if gradient is None else compare(name, "gradient", given, truth, gradient, truth.gradient, ours)
    )


def by_part(result, truth: Truth):
    return ("gradient", (result[0], truth.gradient)), ("Hessian", (result[1], truth.hessian))


def loss_error(name: str, given: Batch, truth: Truth, loss: float, ours: bool) -> float:
    eps = float(ml_dtypes.finfo(given.case.dtype).eps)
    allowed = 1e-5 * abs(truth.loss) if ours else max(1e-5, 4 * eps) * abs(truth.loss) + 1e-5
    if not abs(loss - truth.loss) <= allowed:
        raise Wrong(f"{name}: loss {loss:.9g}, in float64 {truth.loss:.9g}")
    return abs(loss - truth.loss) / abs(truth.loss)


def compare(name: str, part: str, given: Batch, truth: Truth, found, true: np.ndarray, ours: bool) -> float:
    found = as_numpy(found)
    if found.shape != given.case.shape:
        raise Wrong(f"{name}: {part} of shape {found.shape}, the logits have {given.case.shape}")
    found = given.by_rows(found)[places(given, truth.rows)].astype(np.float64)
    limits = ml_dtypes.finfo(given.case.dtype)
    eps, smallest = float(limits.eps), float(limits.smallest_subnormal)
    if ours:
        cancels = 1e-7 * given.unit if given.options or given.case.target != "labels" else 0
        allowed = max(1e-5, eps) * np.abs(true) + cancels + max(smallest, 1e-36)
    else:
        allowed = max(1e-4, 4 * eps) * given.unit + smallest
    error = np.abs(found - true)
    if not np.all(error <= allowed):
        row, column = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error - allowed)), error.shape)
        where = f"row {truth.rows[row]}, class {column}"
        raise Wrong(f"{name}: {part} at {where} is {found[row, column]:.6g}, in float64 {true[row, column]:.6g}")
    return float(error.max() / given.unit)


def as_numpy(a) -> np.ndarray:
    return a.float().numpy() if hasattr(a, "float") else np.asarray(a)
