"""exp and its relatives, in vectors: accuracy in ulp. `ci/test -k every_float32` tries all that exp may meet."""

import mpmath
import numpy as np
import pytest

from fastsce import maths

pytest.importorskip("numba")

LANES = 32
FIRST, LAST = (int(np.float32(x).view(np.int32)) for x in (-(2.0**-25), -104.0))  # nearer to 0, e^x is 1


@pytest.fixture(scope="session")
def vectors():
    """A function of maths over all of an array, by name."""
    import numba

    from fastsce.backends.cpu.jit import device
    from fastsce.backends.cpu.memory import load, pointer, store

    def apply_to(function):
        @numba.njit
        def run(x, out):
            p, q = pointer(x), pointer(out)
            for j in range(0, x.size, LANES):
                store(q, j, function(load(p, j, LANES)))

        def call(x):
            padded = np.zeros(-(-x.size // LANES) * LANES, x.dtype)
            padded[: x.size] = x
            out = np.empty_like(padded)
            run(padded, out)
            return out[: x.size]

        return call

    @device
    def exp(x):
        return maths.exp(x, maths.POWER)

    @device
    def tanh(x):
        scale, r = maths.tanh_parts(x)
        return maths.tanh_of(x, scale, r)[0]

    @device
    def tanh_slope(x):
        scale, r = maths.tanh_parts(x)
        return maths.tanh_of(x, scale, r)[1]

    @device
    def log1p(x):
        return maths.log1p(x, 1.0 / (x + 1.0))

    named = {
        "exp": exp,
        "expm1": maths.expm1,
        "log1p": log1p,
        "tanh": tanh,
        "slope": tanh_slope,
    }
    return {name: apply_to(function) for name, function in named.items()}


def ulps(found, truth):
    """The largest error in units of the last place of found's dtype; `truth` in a wider dtype."""
    unit = np.spacing(np.abs(truth.astype(found.dtype))).astype(truth.dtype)
    return float((np.abs(found.astype(truth.dtype) - truth) / unit).max())


def test_exp_samples_of_float32(vectors):
    x = np.arange(FIRST, LAST, 257, dtype=np.int32).view(np.float32)
    assert ulps(vectors["exp"](x), np.exp(x.astype(np.float64)) * 2**32) <= 1


def test_exp_of_every_float32(vectors):
    for start in range(FIRST, LAST + 1, 1 << 22):
        x = np.arange(start, min(start + (1 << 22), LAST + 1), dtype=np.int32).view(np.float32)
        assert ulps(vectors["exp"](x), np.exp(x.astype(np.float64)) * 2**32) <= 1


def test_exp_of_special_numbers(vectors):
    x = np.array([0.0, -0.0, -(2.0**-149), -1e-30, -np.inf, -3e38, -200.0, np.nan], np.float32)
    expected = np.array([1, 1, 1, 1, 0, 0, 0, np.nan], np.float32) * np.float32(2.0**32)
    np.testing.assert_array_equal(vectors["exp"](x), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp_where_it_becomes_0(vectors, dtype):
    smallest = np.finfo(dtype).smallest_normal
    last = np.log(np.longdouble(smallest)) - 32 * np.log(np.longdouble(2))
    x = np.linspace(last - 2, last + 2, 100_003).astype(dtype)
    found, truth = vectors["exp"](x), np.exp(x.astype(np.longdouble)) * 2**32
    kept = found != 0
    assert truth[kept].min() < smallest and truth[~kept].max() < 0.7072 * smallest
    assert (np.diff(kept.astype(int)) >= 0).all()
    assert ulps(found[kept], truth[kept]) <= 1


def test_exp_of_float64_against_mpmath(vectors):
    x = np.concatenate([-np.logspace(-17, np.log10(700), 1500), np.random.default_rng(0).uniform(-40, 0, 500)])
    with mpmath.workdps(40):
        truth = np.array([mpmath.exp(mpmath.mpf(v)) * 2**32 for v in x.tolist()])
        found = vectors["exp"](x)
        errors = [abs(mpmath.mpf(f) - t) / np.spacing(f) for f, t in zip(found.tolist(), truth, strict=True)]
    assert max(errors) <= 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("name", "truth", "low", "high", "limit"),
    [
        ("expm1", np.expm1, -79, 80, 2),
        ("log1p", np.log1p, 0, 1e9, 1.5),
        ("tanh", np.tanh, -40, 40, 3),
        ("slope", lambda x: 4 * np.exp(-2 * np.abs(x)) / (1 + np.exp(-2 * np.abs(x))) ** 2, -40, 40, 4),
    ],
)
def test_relatives_of_exp(vectors, name, truth, low, high, limit, dtype):
    if np.finfo(np.longdouble).nmant <= np.finfo(dtype).nmant:
        pytest.skip("this machine has no wider type to compare with")
    tiny = np.logspace(-12, np.log10(high), 5000)
    plain = np.random.default_rng(0).uniform(low, min(high, 100), 5000)
    x = np.concatenate([plain, tiny[tiny < high], -tiny[-tiny > low]])
    x = x[(x >= low) & (x <= high)].astype(dtype)
    assert ulps(vectors[name](x), truth(x.astype(np.longdouble))) <= limit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_slopes_become_0(vectors, dtype):
    """Where they are the smallest normal numbers, or up to six times as much, and not before."""
    end = (np.log(4) - np.log(float(np.finfo(dtype).tiny))) / 2
    x = np.array([end - 1, end + 0.5, 1e30, np.inf], dtype)
    found = vectors["slope"](np.concatenate([x, -x]))
    true = 4 * np.exp(-2 * (end - 1))
    np.testing.assert_allclose(found[[0, 4]], true, rtol=1e-3 if dtype == np.float32 else 1e-9)
    assert not found[[1, 2, 3, 5, 6, 7]].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_functions_on_one_number(vectors, dtype):
    x = -np.logspace(-6, 1.8, 200).astype(dtype)
    one_by_one = np.array([maths.exp(v, dtype(maths.POWER)) for v in x], dtype)
    np.testing.assert_allclose(one_by_one, vectors["exp"](x), rtol=2 * np.finfo(dtype).eps)
