"""The weights of classes as kernels read them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fastsce.backends.cpu.tuning import BLOCK


def weighted(law, weight, dtype):
    """The law and the weights of classes, of those that are given in float64."""
    with np.errstate(all="ignore"):
        w = weight.astype(dtype)
        total = float(w.sum(dtype=np.float64)) if law.off else law.total  # that of a class that no row has may be ∞
        return law._replace(total=total), with_masses(w)


@lru_cache(maxsize=8)
def equal_weights(classes, dtype):
    return with_masses(np.ones(classes, dtype))


@lru_cache(maxsize=8)
def ones(size, dtype):
    return np.ones(size, dtype)


def with_masses(w):
    """And then, if rows have several blocks, as rows.py goes through long ones, the sum of each ÷ BLOCK."""
    if w.size <= BLOCK:
        return w
    return np.append(w, (np.add.reduceat(w.astype(np.float64), range(0, w.size, BLOCK)) / BLOCK).astype(w.dtype))
