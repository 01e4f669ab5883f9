"""The truth in float64, and how far from it a result is. What is wrong is refused before it is timed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

import fastsce
from bench.batches import Batch
from bench.case import HESSIAN

ENDS, WITHIN = 16, 32  # rows whose gradients are checked number by number: at either end of a batch, and anywhere
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


class Part(NamedTuple):
    """The true gradient, or Hessian's diagonal: a few rows in full, of every row its product with `direction`."""

    some: np.ndarray  # the class axis last
    products: np.ndarray
    sizes: np.ndarray  # of every row the sum of what its product adds up, each without its sign


class Truth(NamedTuple):
    """Of a batch, found once for all contestants, with the reference that shares no code with any of them."""

    rows: np.ndarray  # numbers of those that are checked in full
    loss: float | None
    gradient: Part
    hessian: Part | None


def truth_of(given: Batch) -> Truth:
    rows = sampled(given)
    some = reference(given, places(given, rows))
    towards, losses, projected = direction(given.case.classes), 0.0, []
    for block in blocks(given.by_rows(given.logits)):
        loss, *parts = reference(given, block)
        losses += loss
        projected.append([(project(a, towards), project(np.abs(a), np.abs(towards))) for a in parts])
    gradient, *hessian = (
        Part(a, *map(np.concatenate, zip(*(block[i] for block in projected)))) for i, a in enumerate(some[1:])
    )
    return Truth(rows, None if hessian else losses / given.normaliser, gradient, hessian[0] if hessian else None)


def reference(given: Batch, at) -> tuple:
    """The loss, summed, and the gradient in the batch's own unit; or nought, gradient and Hessian."""
    if given.case.computes == HESSIAN:
        return (0.0, *fastsce.cross_entropy_grad_and_hess(**some(given, at)))
    binary = given.case.target == "binary"
    function = fastsce.binary_cross_entropy_value_and_grad if binary else fastsce.cross_entropy_value_and_grad
    found = function(**some(given, at), grad_output=given.unit)
    return float(found.loss), found.grad


def blocks(by_row: np.ndarray) -> Iterator[slice]:
    """All rows, a few at a time."""
    rows = by_row.shape[0]
    each = max(1, BLOCK * rows // by_row.size)
    return (slice(i, i + each) for i in range(0, rows, each))


def project(rows: np.ndarray, towards: np.ndarray) -> np.ndarray:
    return np.einsum("...c,c->...", rows.astype(np.float64, copy=False), towards).reshape(-1)


@cache
def direction(classes: int) -> np.ndarray:
    """At random, none of its numbers small: the product of a row with it shows if any of the row's is wrong."""
    random = np.random.default_rng(2)
    return random.uniform(0.5, 1, classes) * random.choice((-1, 1), classes)


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


def check(name: str, given: Batch, truth: Truth, result: tuple) -> Errors:
    """The errors of (loss, gradient) or (gradient, Hessian): of the loss, of every row's product with a direction, of
    every number of some rows.

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


def by_part(result, truth: Truth) -> tuple:
    return ("gradient", (result[0], truth.gradient)), ("Hessian", (result[1], truth.hessian))


def loss_error(name: str, given: Batch, truth: Truth, loss: float, ours: bool) -> float:
    eps = float(ml_dtypes.finfo(given.case.dtype).eps)
    allowed = 1e-5 * abs(truth.loss) if ours else max(1e-5, 4 * eps) * abs(truth.loss) + 1e-5
    if not abs(loss - truth.loss) <= allowed:
        raise Wrong(f"{name}: loss {loss:.9g}, in float64 {truth.loss:.9g}")
    return abs(loss - truth.loss) / abs(truth.loss)


def compare(name: str, part: str, given: Batch, truth: Truth, found, true: Part, ours: bool) -> float:
    found = as_numpy(found)
    if found.shape != given.case.shape:
        raise Wrong(f"{name}: {part} of shape {found.shape}, the logits have {given.case.shape}")
    by_row = given.by_rows(found)
    relative, absolute, smallest = allowances(given, ours)
    products = np.concatenate([project(by_row[block], direction(given.case.classes)) for block in blocks(by_row)])
    error = np.abs(products - true.products)
    if (row := worst(error, relative * true.sizes + absolute + given.case.classes * smallest)) is not None:
        pair = f"{products[row]:.9g}, in float64 {true.products[row]:.9g}"
        raise Wrong(f"{name}: {part} at row {row}, multiplied by a known direction, is {pair}")
    some = by_row[places(given, truth.rows)].astype(np.float64)
    error = np.abs(some - true.some)
    if (at := worst(error, relative * np.abs(true.some) + absolute + smallest)) is not None:
        row, column = np.unravel_index(at, error.shape)
        where = f"row {truth.rows[row]}, class {column}"
        raise Wrong(f"{name}: {part} at {where} is {some[row, column]:.6g}, in float64 {true.some[row, column]:.6g}")
    return float(error.max() / given.unit)


def allowances(given: Batch, ours: bool) -> tuple[float, float, float]:
    """How far off a number may be: relative to itself, in any case, and because of what its dtype can hold."""
    limits = ml_dtypes.finfo(given.case.dtype)
    eps, smallest = float(limits.eps), float(limits.smallest_subnormal)
    if not ours:
        return 4 * eps, max(1e-4, 4 * eps) * given.unit, smallest
    cancels = 1e-7 * given.unit if given.options or given.case.target != "labels" else 0.0
    return max(1e-5, eps), cancels, max(smallest, 1e-36)


def worst(error: np.ndarray, allowed: np.ndarray) -> int | None:
    """Where an error is furthest beyond what is allowed."""
    if np.all(error <= allowed):
        return None
    return int(np.argmax(np.where(np.isnan(error), np.inf, error - allowed)))


def as_numpy(a) -> np.ndarray:
    return a.float().numpy() if hasattr(a, "float") else np.asarray(a)
