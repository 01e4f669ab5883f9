"""Errors in units of the last place (ulp), against numbers that are known to more digits than any float has."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np

FORMATS = {"float64": (53, -1074), "float32": (24, -149), "float16": (11, -24), "bfloat16": (8, -133)}
WRONG = np.inf  # the error of a NaN or an infinity in place of a number, and of a number in place of one of those


class Exact(NamedTuple):
    """Numbers to some 100 bits: the nearest float64, and what is missing, in ulps of that."""

    near: np.ndarray
    rest: np.ndarray


def exact(values) -> Exact:
    """mpmath numbers, or floats, in an array."""
    values = np.asarray(values, object)
    near = values.astype(np.float64)
    missing = np.where(np.isfinite(near), values - np.where(np.isfinite(near), near, 0), 0)
    return Exact(near, np.asarray(missing / spacing(near, "float64"), np.float64))


def spacing(values, dtype) -> np.ndarray:
    """The distance between neighbours of a dtype around each value; 1 where that is no number."""
    bits, smallest = FORMATS[np.dtype(dtype).name]
    values = np.asarray(values, np.float64)
    _, exponent = np.frexp(values)
    exponent = np.where(values == 0, smallest, np.maximum(exponent - bits, smallest))
    return np.where(np.isfinite(values), np.ldexp(1.0, exponent), 1)


def errors(got, truth: Exact, dtype) -> np.ndarray:
    """|got − truth| in ulps of `dtype` at the truth; WRONG where one of them is a number and the other is not."""
    got, near = np.asarray(got).astype(np.float64), truth.near
    if got.shape != near.shape:
        raise ValueError(f"{got.shape} numbers to compare with {near.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        expected = near.astype(dtype).astype(np.float64)  # ±∞ where the dtype ends before the truth
        unit = spacing(near, dtype)
        finite = np.abs((got - near) / unit - truth.rest * (spacing(near, "float64") / unit))
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    return np.where(np.isfinite(got) & np.isfinite(expected), finite, np.where(same, 0, WRONG))


def excess(error, allowance, truth: Exact, dtype, terms=0) -> np.ndarray:
    """What is left of errors in ulp beyond an allowance, which comes as an absolute error; in ulps of `terms` where
    these are larger than the truth.
    """
    own = spacing(truth.near, dtype)
    beyond = np.maximum(error - allowance / own, 0)
    return beyond * (own / np.maximum(spacing(terms, dtype), own))
