"""`softmax_vjp` of rows side by side: tiles of short rows, of images, of a class axis that comes first."""

import numpy as np
import pytest
from cases import DTYPES, logits
from expect import same_bits
from law import epsilon, stored
from test_tiles import CANARY, between_canaries, in_rows
from ulp import assert_within

import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import elementwise, threads, vjp
from fastsce.backends.cpu.tuning import LONGEST_COLUMN, SHORT_VJP
from fastsce.spec import BFLOAT16

SIZES = [(2, 2, 63), (2, 3, 64), (3, 5, 129), (2, 21, 700), (1, 300, 330), (2, 1001, 150), (1, 5000, 40)]


@pytest.fixture
def taken(monkeypatch):
    """The kernels that run."""
    found, run = [], threads.run
    monkeypatch.setattr(cpu.threads, "run", lambda kernel, *args: found.append(kernel) or run(kernel, *args))
    return found


def operands(shape, dtype):
    """p and v, where rounding ⟨p, v⟩ would be seen: v is nearly the same for all classes of a row."""
    blocks, _, samples = shape
    p = fastsce.softmax(logits(shape, dtype, 3), axis=1, backend="reference")
    v = logits((blocks, 1, samples), dtype) * np.asarray(100, DTYPES[dtype]) + logits(shape, dtype)
    return p, v.astype(DTYPES[dtype])


def assert_right(found, p, v, dtype):
    """To a few ulp of p·(v − ⟨p, v⟩), though ⟨p, v⟩ is much larger; but float64 has nothing wider to be summed in."""
    p, v = p.astype(np.float64), v.astype(np.float64)
    rest = v - (p * v).sum(1, keepdims=True)
    size = p * (np.abs(rest) + np.abs(v) * (8 if dtype == "float64" else 1e-6))
    assert_within(found, p * rest, stored(4 * epsilon(dtype) * size, p * rest, dtype), "softmax_vjp")


def vjp_of(p, v, out):
    """Of rows whose classes come last, by the backend, which has a bfloat16 of its own."""
    p, v, out = (a.view(BFLOAT16) if a.dtype.name == "bfloat16" else a for a in (p, v, out))
    cpu.softmax_vjp(p, v, out=out)


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SIZES, ids=str)
def test_wherever_classes_begin(shape, dtype, streamed, taken, monkeypatch):
    p, v = operands(shape, dtype)
    expected = np.empty_like(p)
    rows = [a.swapaxes(1, 2) for a in (p, v)]
    vjp_of(*rows, expected.swapaxes(1, 2))
    assert_right(expected, p, v, dtype)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0 if streamed else 1 << 40)
    for alone in (1 << 40, 0):
        monkeypatch.setattr(threads, "ALONE", alone)
        monkeypatch.setattr(threads, "PART", 3000)
        for gap, offset in ((0, 0), (0, 4), (1, 0), (5, 3), (8, 1)):
            out, memory = between_canaries(np.zeros_like(p), gap, offset)
            vjp_of(*rows, out.swapaxes(1, 2))
            assert same_bits(out, expected), (alone, gap, offset)
            out.view(np.uint8)[...] = CANARY
            assert (memory == CANARY).all(), (alone, gap, offset)
    vjp_of(in_rows(p).swapaxes(1, 2), rows[1], expected.swapaxes(1, 2))
    vjp_of(rows[0], rows[1], rows[1])
    assert same_bits(v, expected)
    assert set(taken) == {vjp.vjp}


@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 2), (301, 2), (301, 3), (70, 5), (40, 17), (100, SHORT_VJP - 1)], ids=str)
def test_short_rows(shape, dtype, gap, taken):
    n, c = shape
    p, v = operands((n, c, 1), dtype)
    wide = np.full((n, c + gap), 7, p.dtype)
    vjp_of(p[..., 0], v[..., 0], wide[:, :c])
    assert (wide[:, c:] == 7).all()
    assert_right(wide[:, :c, None], p, v, dtype)
    assert taken == [vjp.vjp]


def test_which_rows(taken):
    every = np.zeros((40, 12), np.float32)[:, ::2]
    long = np.zeros((LONGEST_COLUMN + 1, 2), np.float32).T
    for p in (np.zeros((4, SHORT_VJP), np.float32), every, long):
        cpu.softmax_vjp(p, p, out=np.empty_like(p))
    assert set(taken) == {elementwise.softmax_vjp}


def test_a_row_whose_probabilities_are_one_number(taken):
    p = np.broadcast_to(np.full(3, 1 / 3, np.float32), (3, 3))
    out = np.eye(3, dtype=np.float32)
    cpu.softmax_vjp(p, out, out=out)
    np.testing.assert_allclose(out, np.eye(3) / 3 - 1 / 9, rtol=1e-6)
    assert taken == [vjp.vjp]
