"""Errors in units of the last place, and how large the honest ones may be."""

import mpmath
import numpy as np

FORMATS = {"float64": (53, -1074), "float32": (24, -149), "float16": (11, -24), "bfloat16": (8, -133)}


def spacing(values, dtype) -> np.ndarray:
    """The distance between neighbours of a dtype around each value."""
    bits, smallest = FORMATS[np.dtype(dtype).name]
    _, exponent = np.frexp(np.asarray(values, np.float64))
    return np.ldexp(1.0, np.maximum(exponent - bits, smallest))


def ulp_error(got, exact, dtype) -> np.ndarray:
    """|got − exact| in units of `dtype`'s last place at `exact`: float64, or mpmath numbers in an object array.

    0 where both are the same infinity or both NaN, infinite where only one is.
    """
    got, exact = np.asarray(got, np.float64), np.asarray(exact)
    near = exact.astype(np.float64)
    if exact.dtype == object:
        pairs = zip(got.ravel(), exact.ravel(), strict=True)
        gap = np.array([float(abs(mpmath.mpf(float(g)) - e)) for g, e in pairs]).reshape(got.shape)
    else:
        with np.errstate(invalid="ignore"):
            gap = np.abs(got - exact)
    with np.errstate(invalid="ignore", divide="ignore"):
        finite = gap / spacing(np.where(np.isfinite(near), near, 1), dtype)
    same = (got == near) | (np.isnan(got) & np.isnan(near))
    return np.where(np.isfinite(got) & np.isfinite(near), finite, np.where(same, 0, np.inf))


def assert_within(got, exact, bound, name=""):
    """|got − exact| ≤ bound everywhere, infinities and NaN in the same places."""
    got, exact = np.asarray(got).astype(np.float64), np.asarray(exact).astype(np.float64)
    assert got.shape == exact.shape, f"{name}: shape {got.shape} instead of {exact.shape}"
    with np.errstate(invalid="ignore"):
        error = np.abs(got - exact)
    same = (got == exact) | (np.isnan(got) & np.isnan(exact))
    ratio = np.where(same, 0, np.where(np.isfinite(error), error, np.inf) / np.maximum(bound, 5e-324))
    if not (ratio <= 1).all():  # a NaN bound fails too
        at = np.unravel_index(np.where(np.isnan(ratio), np.inf, ratio).argmax(), ratio.shape)
        raise AssertionError(
            f"{name}: {got[at]!r} at {tuple(map(int, at))} should be {exact[at]!r}: {ratio.max():.3g} times the "
            f"allowed error; {(~(ratio <= 1)).sum()} of {ratio.size} are out of bounds"
        )
