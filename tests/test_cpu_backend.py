"""What only a parallel, compiled backend can get wrong: the bits must not depend on threads, chunks or memory."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from cases import DTYPES, labels, logits, probabilities, unaligned
from expect import same_bits
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from law import Law, stored
from ulp import assert_within

import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import labels as of_labels
from fastsce.backends.cpu.tuning import PIECE
from fastsce.spec import Spec

SHAPES = [(1000, 5), (1000, 16), (301, 100), (64, 1003), (9, 20000)]


def batch(shape, dtype, kind):
    wide = "float64" if dtype == "float64" else "float32"
    target = labels(*shape, ignored=True) if kind == "index" else probabilities(shape, wide)
    return logits(shape, dtype), target


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u1", "u2", "u4"])
def test_narrow_labels_become_wide(kind, monkeypatch):
    """Many of them by as many threads as have a piece each, if they lie as a kernel reads them."""
    parts, run, limits = [], of_labels.run, np.iinfo(kind)
    monkeypatch.setattr("fastsce.backends.cpu.threads.ALONE", 0)
    monkeypatch.setattr(of_labels, "run", lambda *args: (parts.append(args[3]), run(*args)))
    many = np.linspace(limits.min, limits.max, 3 * PIECE + 5).astype(kind)
    plain, odd = [many, many[: 3 * PIECE].reshape(3, -1)], [many[:PIECE], many[::2], unaligned(many)]
    for target in (*plain, *odd, many.astype(many.dtype.newbyteorder())):
        wide, before = cpu.int64_labels(target), target.copy()
        assert wide.dtype == np.int64
        assert wide.flags.c_contiguous
        assert np.array_equal(wide, target)
        assert same_bits(target, before)
    one_byte = np.dtype(kind).itemsize == 1  # which is never out of place, nor in another order
    most = fastsce.backends.cpu.thread_count()
    assert parts == [min(4, most), min(3, most), *[min(4, most)] * (2 * one_byte)]


def test_labels_with_any_number_of_threads(monkeypatch):
    import numba

    monkeypatch.setattr("fastsce.backends.cpu.threads.ALONE", 0)
    target = labels(100_000, 10, ignored=True)
    weight, sample_weight = np.linspace(0.1, 2, 10), np.linspace(0, 1, target.size)
    bad = np.where(np.arange(target.size) % 30_000 == 29_999, 10, target)
    valid = target != -100
    true = (weight[target[valid]] * sample_weight[valid]).sum()
    before = numba.get_num_threads()
    found = set()
    try:
        for threads in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
            numba.set_num_threads(threads)
            assert cpu.scan_labels(Spec(), target, 10, None, None) == (-1, valid.sum(), None, None)
            assert cpu.scan_labels(Spec(), bad, 10, weight, sample_weight)[0] == 29_999
            for spec in (Spec(), Spec(label_smoothing=0.1), Spec(z_loss=0.1)):
                row, total, classes, rows = cpu.scan_labels(spec, target, 10, weight, sample_weight)
                both = spec == Spec()
                assert classes is None if both else same_bits(classes, weight)
                own = sample_weight * weight[np.where(valid, target, 0)] if both else sample_weight
                assert same_bits(rows, np.where(valid, own, 0.0))
                found.add((row, total))
    finally:
        numba.set_num_threads(before)
    assert len(found) == 1 and found.pop() == (-1, pytest.approx(true, rel=1e-13))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 17, PIECE, 5 * PIECE + 3])
def test_losses_times_their_weights(monkeypatch, n, dtype):
    """By as many threads as have a piece each, rounded once; what has no weights and keeps its dtype is not copied."""
    parts, run = [], of_labels.run
    monkeypatch.setattr("fastsce.backends.cpu.threads.ALONE", 0)
    monkeypatch.setattr(of_labels, "run", lambda *args: (parts.append(args[3]), run(*args)))
    rng, dtype = np.random.default_rng(n), np.dtype(dtype)
    losses, weights = rng.exponential(3, n), rng.uniform(0, 2, n)
    losses[1::7], weights[2::7], weights[3::7], losses[2::14] = np.inf, 0.0, np.nan, np.inf
    with np.errstate(invalid="ignore"):
        expected = np.multiply(losses, weights).astype(dtype)
    assert same_bits(cpu.finished(losses.copy(), None, None, -100, dtype), losses.astype(dtype))
    assert cpu.finished(losses, None, None, -100, np.dtype(np.float64)) is losses
    found = cpu.finished(losses.copy(), weights, None, -100, dtype)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == dtype
    calls = (n > 0) * (2 if dtype == np.float32 else 1)
    assert parts == calls * [min(cpu.thread_count(), -(-n // PIECE))]


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"weight": [0.0, 1.5, 2.0]}])
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_losses_of_many_rows_with_weights(dtype, kind, options):
    """Those of rows to leave out are 0, whatever their weights; the others' are as in a small call."""
    n = 3 * PIECE + 5
    x, target = batch((n, 3), dtype, kind)
    s = np.random.default_rng(1).uniform(0, 2, n)
    if kind == "index":
        s[target == -100] = np.inf
        s[np.flatnonzero(target == -100)[::2]] = np.nan
    given = {"reduction": "none", "backend": "cpu", **options}
    found = fastsce.cross_entropy(x, target, sample_weight=s, **given)
    some = fastsce.cross_entropy(x[-100:], target[-100:], sample_weight=s[-100:], **given)
    assert same_bits(found[-100:], some)
    true = fastsce.cross_entropy(x, target, sample_weight=s, **(given | {"backend": "reference"}))
    rtol = 1e-13 if dtype == "float64" else 2e-6
    np.testing.assert_allclose(found, true, rtol=rtol, atol=1e-4 * rtol)  # with z-loss it may be near 0
    assert kind == "soft" or not found[target == -100].any()
    total = fastsce.cross_entropy(x, target, sample_weight=s, **(given | {"reduction": "sum"}))
    np.testing.assert_allclose(total, true.sum(dtype=np.float64), rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_are_summed_by_any_number_of_threads(monkeypatch, dtype):
    import numba

    from fastsce.backends.cpu import threads

    losses, out = np.random.default_rng(0).exponential(1, (7, 20_001)), np.empty((), dtype)
    before, found, counts, drive = numba.get_num_threads(), set(), [], threads.drive
    for size in ("PART", "ROUND"):  # several rounds
        monkeypatch.setattr(threads, size, 20_000)
    monkeypatch.setattr(threads, "drive", lambda *args: counts.append(args[-1]) or drive(*args))
    most = numba.config.NUMBA_NUM_THREADS
    try:
        for alone, wished in ((1 << 40, 1), (0, 1), (0, 2), (0, 3)):
            monkeypatch.setattr(threads, "ALONE", alone)
            numba.set_num_threads(min(wished, most))
            cpu.reduce(losses, 3.0, out=out)
            found.add(float(out))
    finally:
        numba.set_num_threads(before)
    assert max(counts) == min(3, most) and len(counts) > 6
    true = pytest.approx(math.fsum(losses.flat) / 3, rel=1e-13 if dtype == "float64" else 1e-7)
    assert len(found) == 1 and found.pop() == true
    cpu.reduce(np.full(500_000, 1e300), 1e-300, out=out)
    assert out == np.inf


@pytest.mark.parametrize("step", [1, 2])
def test_rounds_of_long_rows_are_no_longer(monkeypatch, step):
    """A part is a row at least, and a round ends where Ctrl-C has waited long enough. Copied rows take longer."""
    from fastsce.backends.cpu import threads

    rounds, drive = [], threads.drive
    for name, size in {"ALONE": 0, "PART": 1000, "ROUND": 25_000}.items():
        monkeypatch.setattr(threads, name, size)
    monkeypatch.setattr(threads, "thread_count", lambda: 2)
    monkeypatch.setattr(threads, "drive", lambda *args: rounds.append(args[4] - args[3]) or drive(*args))
    x = logits((64, 3000 * step))[:, ::step]  # 12 KB a row
    fastsce.cross_entropy_value_and_grad(x, labels(64, 3000), backend="cpu")
    assert max(rounds) == 4 // step and sum(rounds) == 64


def test_a_small_batch_wakes_no_thread(monkeypatch):
    from fastsce.backends.cpu import threads

    def drive(*args):
        raise AssertionError("a parallel region was entered")

    monkeypatch.setattr(threads, "drive", drive)
    fastsce.cross_entropy_value_and_grad(logits((256, 10)), labels(256, 10), backend="cpu")
    fastsce.binary_cross_entropy(logits((256, 10)), probabilities((256, 10), "float32"), backend="cpu")


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_row_has_its_bits_in_any_batch(backend, shape, dtype, kind, reduction):
    """A batch cut in pieces, single rows among them, gives the same losses and gradients."""
    x, target = batch(shape, dtype, kind)
    whole = fastsce.cross_entropy_value_and_grad(x, target, reduction=reduction, backend=backend)
    cuts = [0, 1, 4, shape[0] // 2, shape[0]]
    pieces = [
        fastsce.cross_entropy_value_and_grad(x[a:b], target[a:b], reduction=reduction, backend=backend)
        for a, b in pairwise(cuts)
    ]
    assert same_bits(np.concatenate([piece.grad for piece in pieces]), whole.grad)
    assert same_bits(np.concatenate([piece.lse for piece in pieces]), whole.lse)
    if reduction == "none":
        assert same_bits(np.concatenate([piece.loss for piece in pieces]), whole.loss)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 200003)], ids=str)
def test_in_place_and_given_memory_have_the_fresh_bits(backend, shape, dtype, kind):
    """Whether the gradient goes to new memory, to a buffer, to an unaligned one, or over the logits."""
    x, target = batch(shape, dtype, kind)
    fresh = fastsce.cross_entropy_value_and_grad(x, target, backend=backend)
    for out in (np.empty_like(x), unaligned(x)):
        found = fastsce.cross_entropy_value_and_grad(x, target, out=out, backend=backend)
        assert same_bits(found.grad, fresh.grad) and same_bits(found.loss, fresh.loss)
    found = fastsce.cross_entropy_value_and_grad(x, target, out=x, backend=backend)
    assert found.grad is x and same_bits(x, fresh.grad) and same_bits(found.loss, fresh.loss)


@pytest.mark.parametrize("shape", [(64, 33), (64, 1003)], ids=str)
def test_alignment_does_not_change_bits(backend, shape):
    x, target = logits(shape), labels(*shape)
    fresh = fastsce.cross_entropy_value_and_grad(x, target, backend=backend)
    room = np.empty(x.size + 16, np.float32)
    for offset in (1, 3, 8, 15):
        moved = room[offset : offset + x.size].reshape(shape)
        moved[...] = x
        found = fastsce.cross_entropy_value_and_grad(moved, target, backend=backend)
        assert same_bits(found.grad, fresh.grad) and same_bits(found.loss, fresh.loss)


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_loss_alone_is_the_same_loss(backend, kind):
    x, target = batch((64, 1003), "float32", kind)
    both = fastsce.cross_entropy_value_and_grad(x, target, reduction="none", backend=backend)
    assert same_bits(fastsce.cross_entropy(x, target, reduction="none", backend=backend), both.loss)


def test_many_python_threads_at_once(backend, monkeypatch):
    """Calls from several Python threads do not disturb each other, each of them with threads of numba's."""
    monkeypatch.setattr("fastsce.backends.cpu.threads.ALONE", 0)
    x, target = logits((301, 100)), labels(301, 100)
    expected = fastsce.cross_entropy_value_and_grad(x, target, backend=backend)
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(fastsce.cross_entropy_value_and_grad, x, target, backend=backend) for _ in range(40)]
        for task in tasks:
            assert all(same_bits(a, b) for a, b in zip(task.result(), expected))


# ------------------------------------------------------------------------------------------------------- any input


@st.composite
def batches(draw):
    """Logits with masks, ties and far values, labels (some to ignore) or one-hot rows, and options that mix."""
    dtype = draw(st.sampled_from(["float32", "float64"]))
    shape = draw(st.tuples(st.integers(1, 20), st.integers(1, 70)))
    width = 32 if dtype == "float32" else 64
    values = st.floats(-100, 100, width=width) | st.sampled_from([0.0, -0.0, -np.inf, 88.0, -1e30, 16777216.0])
    x = draw(hnp.arrays(dtype, shape, elements=values, fill=st.floats(-4, 4, width=width)))
    x[:, 0] = np.where(np.isneginf(x).all(1), 1.0, x[:, 0])
    y = draw(hnp.arrays(np.int64, shape[0], elements=st.integers(0, shape[1] - 1) | st.just(-100)))
    chosen = {"reduction": draw(st.sampled_from(["none", "sum"]))}
    if draw(st.booleans()):
        chosen["weight"] = draw(hnp.arrays(np.float64, shape[1], elements=st.floats(0.125, 4)))
    if draw(st.booleans()):
        chosen["sample_weight"] = draw(hnp.arrays(np.float64, shape[0], elements=st.floats(0, 4)))
    if draw(st.booleans()) and np.isfinite(x).all():
        chosen["label_smoothing"] = draw(st.floats(0, 1))
    return x, y, chosen


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(drawn=batches())
def test_any_batch(backend, drawn):
    x, y, chosen = drawn
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, y, backend=backend, **chosen)
    wide = x.astype(np.float64)
    true = fastsce.cross_entropy_value_and_grad(wide, y, backend="reference", **chosen)
    law = Law(wide, y, **chosen)
    dtype = x.dtype.name
    bound = law.loss_bound(dtype)
    reachable = np.abs(true.loss) < np.finfo(loss.dtype).max
    assert_within(np.where(reachable, loss, 0), np.where(reachable, true.loss, 0), bound, "loss")
    assert_within(grad, true.grad, stored(law.grad_bound(dtype), true.grad, dtype), "grad")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1100, 100), np.float32),  # tiles of 48 samples
        ((1, 600, 75), np.float64),
        ((2, 5000, 50), np.float16),
        ((1, 300, 1000), np.float32),
        ((5, 21, 7, 7), np.float32),
        ((3, 6, 11, 11), np.float32),
        ((2, 3, 333), np.float32),
        ((2, 40, 5), np.float32),
    ],
    ids=str,
)
def test_tiles_that_come_while_others_are_worked_on(shape, dtype):
    """The same bits as of samples that are all in one tile."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal(shape).astype(dtype).reshape(*shape[:2], -1)
    y = rng.integers(0, shape[1], (shape[0], x.shape[2]))
    options = {"axis": 1, "reduction": "none", "backend": "cpu"}
    found = fastsce.cross_entropy_value_and_grad(x, y, **options)
    for b in range(0, x.shape[2], 16):
        part = np.ascontiguousarray(x[:, :, b : b + 16])
        expected = fastsce.cross_entropy_value_and_grad(part, y[:, b : b + 16], **options)
        for name in ("loss", "lse"):
            assert getattr(found, name)[:, b : b + 16].tobytes() == getattr(expected, name).tobytes()
        assert found.grad[:, :, b : b + 16].tobytes() == expected.grad.tobytes()
