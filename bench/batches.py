"""What the contestants of a case are given."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np

from bench.case import HESSIAN, Case
from bench.shared import Arena, Described, address

BLOCK = 1 << 16  # numbers drawn at a time, so that they stay in the cache
ARRAYS = ("logits", "target", "out", "hess")  # those that processes share


class Batch(NamedTuple):
    case: Case
    logits: np.ndarray
    target: np.ndarray
    out: np.ndarray  # memory for the gradient
    hess: np.ndarray | None  # and for the Hessian's diagonal
    options: dict[str, Any]
    scale: float | None  # of 16-bit gradients, as in mixed precision: a mean's would be too small for float16

    @property
    def normaliser(self) -> float:
        """What the mean divides by; boosting sums."""
        if self.case.computes == HESSIAN:
            return 1
        if self.case.target == "binary":
            return self.logits.size
        if not self.case.weighted:
            return self.case.rows
        counts = self.target >= 0
        return self.options["weight"][self.target[counts]] @ self.options["sample_weight"][counts]

    @property
    def unit(self) -> float:
        """The largest gradient that an unweighted row can have; errors of gradients are given in it."""
        return (self.scale or 1) / self.normaliser

    def by_rows(self, a) -> np.ndarray:
        """An array of the logits' shape, the class axis last."""
        return np.moveaxis(a, self.case.axis, -1)

    def without_options(self) -> Batch:
        """The same logits in a plain call; labels to be ignored count."""
        case = self.case._replace(options=(), weighted=False)
        return self._replace(case=case, options={}, target=np.maximum(self.target, 0))

    def sent(self, arena: Arena) -> Batch:
        """With descriptions of its arrays for another process; small ones, such as a second target, go as they are."""
        held = {name: getattr(self, name) for name in ARRAYS}
        shared = {name: arena.describe(a) for name, a in held.items() if a is not None and not alone(a, arena)}
        return self._replace(**shared)

    def received(self, arena: Arena) -> Batch:
        held = {name: getattr(self, name) for name in ARRAYS}
        return self._replace(**{name: arena.open(a) for name, a in held.items() if isinstance(a, Described)})


def alone(array: np.ndarray, arena: Arena) -> bool:
    return address(array) not in arena.made


def aligned(shape, dtype, order="C") -> np.ndarray:
    """Memory on a cache line, so that no contestant is luckier than another."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    memory.fill(0)  # every page has been touched
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape, order=order)


def batch(case: Case, empty=aligned, out: np.ndarray | None = None, seed: int = 0) -> Batch:
    """Random logits; every eighth row is confident of its label, as a trained model is. `empty` makes the arrays."""
    random = np.random.default_rng(seed)
    logits = empty(case.shape, case.dtype, case.order)
    flat = logits.reshape(-1, order="A")
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        part[:] = 3 * random.standard_normal(part.size, np.float32)
    by_row = np.moveaxis(logits, case.axis, -1)
    labels = random.integers(0, case.classes, by_row.shape[:-1])
    confident = np.unravel_index(np.arange(1, case.rows, 8), labels.shape)  # not a row that is alone
    by_row[(*confident, labels[confident])] = 40
    options = dict(case.options)
    if case.weighted:
        options["weight"] = random.uniform(0.5, 2, case.classes)
        options["sample_weight"] = random.uniform(0.5, 2, labels.shape)
        labels.reshape(-1)[5::64] = -100
    return Batch(
        case,
        logits,
        target_of(case, labels, empty, random),
        empty(case.shape, case.dtype, case.order) if out is None else out,
        empty(case.shape, case.dtype, case.order) if case.computes == HESSIAN else None,
        options,
        float(case.rows) if np.dtype(case.dtype).itemsize == 2 else None,
    )


def target_of(case: Case, labels, empty, random) -> np.ndarray:
    if case.target == "labels":
        target = empty(labels.shape, labels.dtype)
        target[...] = labels
        return target
    target = empty(case.shape, case.dtype)
    random.random(case.shape, np.float32, out=target)
    if case.target == "probabilities":
        target /= target.sum(case.axis, keepdims=True)
    return target
