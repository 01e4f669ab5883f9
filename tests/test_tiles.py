"""Tiles of columns.py: gradients of samples that lie side by side leave in whole lines, while others are worked on."""

import ml_dtypes
import numpy as np
import pytest
from expect import same_bits

import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import columns, threads
from fastsce.backends.cpu.tuning import GROUP, LANES

CANARY = 77
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
SIZES = [(2, 63), (3, 64), (5, 129), (21, 700), (21, 1001), (130, 500), (400, 330), (9000, 40)]  # classes, samples
WAYS = {
    "gradient": lambda x, y, out: fastsce.cross_entropy_value_and_grad(x, y, axis=1, out=out, backend="cpu"),
    "smoothing": lambda x, y, out: fastsce.cross_entropy_value_and_grad(
        x, y, axis=1, label_smoothing=0.1, out=out, backend="cpu"
    ),
    "Hessian": lambda x, y, out: fastsce.cross_entropy_grad_and_hess(
        x, y, axis=1, out=(out, np.zeros_like(x)), backend="cpu"
    ),
    "on the logits": lambda x, y, out: fastsce.cross_entropy_value_and_grad(out, y, axis=1, out=out, backend="cpu"),
}


@pytest.fixture(autouse=True)
def nothing_remembered():
    cpu.plan_of.cache_clear()  # what is changed here is not among what it remembers plans by
    yield
    cpu.plan_of.cache_clear()


def batch(dtype, classes, samples, blocks=2):
    rng = np.random.default_rng(classes)
    x = (3 * rng.standard_normal((blocks, classes, samples))).astype(dtype)
    y = rng.integers(0, classes, (blocks, samples))
    y[:, 1::5] = -100
    return x, y


def between_canaries(x, gap, offset):
    """A copy with a gap of so many numbers after each class, so many numbers past a line, and all memory it is in."""
    blocks, classes, samples = x.shape
    size = blocks * classes * (samples + gap) + gap
    memory = np.full((size + offset) * x.itemsize + 128, CANARY, np.uint8)
    start = -memory.ctypes.data % 64 + offset * x.itemsize
    whole = memory[start : start + size * x.itemsize].view(x.dtype)
    copy = whole[gap:].reshape(blocks, classes, samples + gap)[:, :, :samples]
    copy[...] = x
    return copy, memory


@pytest.mark.parametrize(
    ("streamed", "lanes"),
    [(True, GROUP), (True, 2 * GROUP), (False, 2 * GROUP)],
    ids=["streamed", "wide", "not streamed"],
)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize(("classes", "samples"), SIZES)
def test_wherever_classes_begin(classes, samples, dtype, way, streamed, lanes, monkeypatch):
    """The same bits as of tiles of LANES samples, which are sent at once; and nothing is written beside the result."""
    x, y = batch(dtype, classes, samples)
    expected = x.copy()
    monkeypatch.setattr(threads, "ALONE", 1 << 40)
    monkeypatch.setattr(columns, "TILE_LANES", LANES)
    monkeypatch.setattr(columns, "GROUP_COLUMN_BYTES", 0)
    WAYS[way](x, y, expected)
    monkeypatch.setattr(columns, "TILE_LANES", lanes)
    monkeypatch.setattr(columns, "GROUP_COLUMN_BYTES", 1 << 40)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0 if streamed else 1 << 40)
    for alone, tiles in ((1 << 40, 16), (0, 1), (0, 3)):
        monkeypatch.setattr(threads, "ALONE", alone)
        monkeypatch.setattr(threads, "PART", 1000)
        monkeypatch.setattr(cpu, "TILES", tiles)
        cpu.plan_of.cache_clear()
        for gap, offset in ((0, 0), (0, 4), (1, 0), (5, 3), (8, 1), (-samples % 32, 0), (-samples % 32, 7)):
            out, memory = between_canaries(x, gap, offset)
            WAYS[way](x, y, out)
            assert same_bits(out, expected), (alone, tiles, gap, offset)
            out.view(np.uint8)[...] = CANARY
            assert (memory == CANARY).all(), (alone, tiles, gap, offset)
