"""The same as test_few.py of few classes whose rows lie side by side, as in images: they are read where they lie."""

import numpy as np
import pytest
import test_few
from cases import DTYPES, labels, logits
from expect import same_bits
from test_few import CANARY, CASES, alike, batch, between_canaries, kernels

import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import few
from fastsce.backends.cpu.tuning import FEW_BYTES, PIECE, SHEET, TALL_SHEET

by_columns, chosen, nothing_remembered = test_few.by_columns, test_few.chosen, test_few.nothing_remembered
LINE = 16


def images(a, blocks):
    """Rows, side by side in so many images."""
    return np.ascontiguousarray(a.reshape(blocks, -1, a.shape[-1]).swapaxes(1, 2))


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("n", [1, SHEET, 2 * TALL_SHEET, 2 * TALL_SHEET + 7])
@pytest.mark.parametrize(("dtype", "c"), CASES)
def test_rows_side_by_side(dtype, c, n, blocks, streamed, by_columns, chosen, monkeypatch):
    """Of rows of every kind; test_tiles.py has them wherever classes begin."""
    if streamed:
        monkeypatch.setattr(cpu, "STREAM_BYTES", 0)
    x, y = batch(blocks * n, c, dtype)
    x, y = images(x, blocks), y.reshape(blocks, n)
    for options in ({}, {"sample_weight": np.linspace(0, 2, y.size).reshape(y.shape)}, {"label_smoothing": 0.1}):
        given = {"axis": 1, "reduction": "none", "backend": "cpu"} | options
        expected = by_columns(fastsce.cross_entropy_value_and_grad, x, y, **given)
        for offset in (0, 4):
            out, memory = between_canaries(np.zeros_like(x), offset)
            assert all(map(alike, fastsce.cross_entropy_value_and_grad(x, y, out=out, **given), expected))
            out.view(np.uint8)[...] = CANARY
            assert (memory == CANARY).all()
            if 2 * c <= FEW_BYTES // max(4, x.itemsize) and (not streamed or n * x.itemsize % 64 == 0):
                kernel, plan = chosen[-1]
                assert kernel is few.few or n == 1  # else that is a row
                assert (plan.side, plan.stream) == (n > 1, streamed and n > 1)
        assert alike(fastsce.cross_entropy(x, y, **given), expected.loss)
    assert alike(fastsce.softmax(x, 1, backend="cpu"), by_columns(fastsce.softmax, x, 1, backend="cpu"))
    curved = by_columns(fastsce.cross_entropy_grad_and_hess, x, y, axis=1, backend="cpu")
    chosen.clear()
    assert all(map(alike, fastsce.cross_entropy_grad_and_hess(x, y, axis=1, backend="cpu"), curved))
    if not streamed and n > 1 and 2 * c <= FEW_BYTES // max(4, DTYPES[dtype].itemsize):
        assert kernels(chosen) == {few.few}


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1, "z_loss": 0.02}])
@pytest.mark.parametrize(("dtype", "c"), [("float32", 2), ("float32", 5), ("float64", 3), ("float16", 3)])
@pytest.mark.parametrize("samples", [64, 67])
def test_a_softcap(samples, dtype, c, options, by_columns, chosen, monkeypatch):
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0)
    x, y = batch(3 * samples, c, dtype)
    x, y = images(x, 3), y.reshape(3, -1)
    given = {"axis": 1, "softcap": 2.0, "backend": "cpu"} | options
    expected = by_columns(fastsce.cross_entropy_value_and_grad, x, y, **given)
    chosen.clear()
    out, memory = between_canaries(np.zeros_like(x), 0)
    assert all(map(alike, fastsce.cross_entropy_value_and_grad(x, y, out=out, **given), expected))
    out.view(np.uint8)[...] = CANARY
    assert (memory == CANARY).all()
    if c == 2 or (samples == 64 and 2 * c <= FEW_BYTES // max(4, x.itemsize)):
        assert kernels(chosen) == {few.few}


@pytest.mark.parametrize("c", [2, 5])
def test_images_that_begin_differently_in_lines(c, by_columns, monkeypatch):
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0)
    x, y = logits((3 * 64, c)), labels(3 * 64, c).reshape(3, 64)
    x, given = images(x, 3), {"axis": 1, "backend": "cpu"}
    whole, _ = between_canaries(np.full((3, 64 * c + 4), 7, np.float32), 0)
    out = whole[:, : 64 * c].reshape(3, c, 64)
    found = fastsce.cross_entropy_value_and_grad(x, y, out=out, **given)
    assert all(map(same_bits, found, by_columns(fastsce.cross_entropy_value_and_grad, x, y, **given)))
    assert (whole[:, 64 * c :] == 7).all()


@pytest.mark.parametrize("samples", [4 * PIECE, 4 * PIECE + TALL_SHEET, 4 * PIECE + 5])
@pytest.mark.parametrize("c", [2, 5])
@pytest.mark.parametrize("offset", [0, 4])
def test_sums_of_losses_of_images(offset, c, samples, by_columns, chosen, monkeypatch):
    x, y = logits((3 * samples, c)), labels(3 * samples, c, ignored=True).reshape(3, samples)
    x = images(x, 3)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0)
    monkeypatch.setattr(cpu, "thread_count", lambda: 2)
    out, _ = between_canaries(x, offset)
    expected = by_columns(fastsce.cross_entropy_value_and_grad, x, y, axis=1, backend="cpu")
    chosen.clear()
    assert all(map(same_bits, fastsce.cross_entropy_value_and_grad(x, y, axis=1, out=out, backend="cpu"), expected))
    assert chosen[-1][0] is (few.few if samples % LINE == 0 or c == 2 else cpu.columns.columns)
    assert chosen[-1][1].summed == (offset == 0 and samples % TALL_SHEET == 0)
