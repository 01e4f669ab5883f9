"""Tiles of columns.py: gradients of samples that lie side by side leave in whole lines, while others are worked on; and
sheets of few.py, which leave in whole lines or not past the caches.
"""

import ml_dtypes
import numpy as np
import pytest
from expect import same_bits

import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import columns, threads
from fastsce.backends.cpu.tuning import FEW_BYTES, GROUP, LANES

CANARY = 77
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
SIZES = [  # blocks, classes, samples
    (2, 2, 63),
    (2, 3, 64),
    (2, 5, 129),
    (2, 21, 700),
    (2, 21, 1001),
    (2, 130, 500),
    (2, 384, 330),
    (2, 9000, 40),
    (1, 9000, 150),
]


def gradient(x, y, grad, **options):
    fastsce.cross_entropy_value_and_grad(x, y, axis=1, out=grad, backend="cpu", **options)


def smoothing(x, y, grad):
    gradient(x, y, grad, label_smoothing=0.1)


def hessian(x, y, grad, hess):
    fastsce.cross_entropy_grad_and_hess(x, y, axis=1, out=(grad, hess), backend="cpu")


def on_the_logits(x, y, grad):
    gradient(grad, y, grad)


def softcap(x, y, grad):
    gradient(x, y, grad, softcap=5.0)


def soft_targets(x, y, grad):
    q = np.random.default_rng(1).random(x.shape, np.float32)
    gradient(x, q / q.sum(1, keepdims=True), grad)


def logits_in_rows(x, y, grad):
    gradient(in_rows(x), y, grad)


def gradient_in_rows(x, y, grad):
    rows = in_rows(x)
    gradient(x, y, rows)
    grad[...] = rows


def in_rows(x):
    return np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)


OF_ANY_DTYPE = [gradient, smoothing, hessian, on_the_logits]
OTHERS = [softcap, soft_targets, logits_in_rows, gradient_in_rows]
WAYS = [(way, dtype) for way in OF_ANY_DTYPE for dtype in DTYPES] + [(way, np.float32) for way in OTHERS]


@pytest.fixture(autouse=True)
def nothing_remembered():
    cpu.plan_of.cache_clear()  # what is changed here is not among what it remembers plans by
    yield
    cpu.plan_of.cache_clear()


def batch(dtype, blocks, classes, samples):
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
@pytest.mark.parametrize(("way", "dtype"), WAYS, ids=[f"{way.__name__}-{np.dtype(d).name}" for way, d in WAYS])
@pytest.mark.parametrize(("blocks", "classes", "samples"), SIZES)
def test_wherever_classes_begin(blocks, classes, samples, way, dtype, streamed, lanes, monkeypatch):
    """The same bits as of tiles of LANES samples, which are sent at once; and nothing is written beside the result."""
    x, y = batch(dtype, blocks, classes, samples)
    expected = [x.copy() for _ in range(2 if way is hessian else 1)]
    monkeypatch.setattr(cpu, "FEW_BYTES", 0)
    monkeypatch.setattr(threads, "ALONE", 1 << 40)
    monkeypatch.setattr(columns, "TILE_LANES", LANES)
    monkeypatch.setattr(columns, "GROUP_COLUMN_BYTES", 0)
    way(x, y, *expected)
    monkeypatch.setattr(columns, "TILE_LANES", lanes)
    monkeypatch.setattr(columns, "GROUP_COLUMN_BYTES", 1 << 40)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0 if streamed else 1 << 40)
    for alone, tiles, few in ((1 << 40, 16, 0), (0, 1, 0), (0, 3, 0), (1 << 40, 16, FEW_BYTES), (0, 1, FEW_BYTES)):
        if few and classes * 4 > few:
            break
        monkeypatch.setattr(cpu, "FEW_BYTES", few)
        monkeypatch.setattr(threads, "ALONE", alone)
        monkeypatch.setattr(threads, "PART", 1000)
        monkeypatch.setattr(columns, "TILES", tiles)
        cpu.plan_of.cache_clear()
        for gap, offset in ((0, 0), (0, 4), (1, 0), (5, 3), (8, 1), (-samples % 32, 0), (-samples % 32, 7)):
            placed = [between_canaries(x, gap, offset + i) for i in range(len(expected))]
            way(x, y, *(out for out, _ in placed))
            for (out, memory), result in zip(placed, expected, strict=True):
                assert same_bits(out, result), (alone, tiles, few, gap, offset)
                out.view(np.uint8)[...] = CANARY
                assert (memory == CANARY).all(), (alone, tiles, few, gap, offset)
