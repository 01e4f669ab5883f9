"""The workloads, and what a contestant is given of each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    name: str
    rows: int
    classes: int

    @property
    def bytes(self) -> int:
        """The floor: the logits read once and the gradient written once."""
        return 2 * 4 * self.rows * self.classes


CASES = [
    Case("digits", 65536, 10),
    Case("imagenet", 16384, 1024),
    Case("subwords", 4096, 8192),
    Case("vocabulary", 512, 131072),
]


class Batch(NamedTuple):
    logits: np.ndarray
    target: np.ndarray
    out: np.ndarray
    loss: float  # in float64


def aligned(shape) -> np.ndarray:
    """float32 memory on a cache line, so that no contestant is luckier than another."""
    size = 4 * int(np.prod(shape))
    memory = np.zeros(size + 64, np.uint8)  # zeros: every page has been touched
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(np.float32).reshape(shape)


def batch(case: Case, seed: int = 0) -> Batch:
    """Random logits; every eighth row is confident of its label, as a trained model is."""
    random = np.random.default_rng(seed)
    logits, out = aligned((case.rows, case.classes)), aligned((case.rows, case.classes))
    random.standard_normal(logits.shape, np.float32, out=logits)
    logits *= 3
    target = random.integers(0, case.classes, case.rows)
    confident = np.arange(0, case.rows, 8)
    logits[confident, target[confident]] = 40
    return Batch(logits, target, out, true_loss(logits, target))


def true_loss(logits, target) -> float:
    total = 0.0
    for x, y in zip(np.array_split(logits, 64), np.array_split(target, 64), strict=True):
        x = x.astype(np.float64) - x.max(1, keepdims=True)
        total += (np.log(np.exp(x).sum(1)) - x[np.arange(len(y)), y]).sum()
    return float(total / len(target))
