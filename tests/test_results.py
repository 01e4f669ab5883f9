"""Large results take the place of those that nobody holds any more, and of no others."""

import gc
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

import fastsce
from fastsce import host, results

ROWS, CLASSES = 64, 512
SIZE = 4 * ROWS * CLASSES


@pytest.fixture(autouse=True)
def small_results_too(monkeypatch):
    monkeypatch.setattr(results, "LEAST", SIZE)
    gc.collect()  # JAX lets go of an array no sooner: what it held would come in the middle of a later test
    results.waiting.clear()
    yield
    results.waiting.clear()


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((ROWS, CLASSES), dtype=np.float32), rng.integers(0, CLASSES, ROWS)


def gradient(x, y):
    return fastsce.cross_entropy_value_and_grad(x, y, backend="cpu")[1]


def address(a):
    return a.__array_interface__["data"][0]


def test_a_result_takes_the_place_of_one_that_is_gone():
    x, y = batch()
    first = gradient(x, y)
    place = address(first)
    del first
    assert address(gradient(x, y)) == place
    assert fastsce.softmax(x, backend="cpu").sum(-1) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("hold", [lambda g: g, lambda g: g[3:5, 7], lambda g: memoryview(g), np.from_dlpack])
def test_what_is_held_stays_as_it_is(hold):
    x, y = batch()
    held = hold(gradient(x, y))
    before = np.asarray(held).copy()
    for seed in range(3):
        gradient(*batch(seed))
    assert (np.asarray(held) == before).all()


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_other_libraries_hold_it_too(name):
    library = pytest.importorskip(name)
    x, y = batch()
    convert = library.from_numpy if name == "torch" else library.numpy.asarray
    held = gradient(convert(x), y)
    before = np.asarray(held).copy()
    for seed in range(1, 4):
        gradient(convert(batch(seed)[0]), y)
    assert (np.asarray(held) == before).all()


def test_both_gradient_and_hessian_have_memory_of_their_own():
    x, y = batch()
    for _ in range(3):
        grad, hess = fastsce.cross_entropy_grad_and_hess(x, y)[-2:]
        assert not np.shares_memory(grad, hess)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, y: fastsce.cross_entropy_value_and_grad(x, y, ignore_index=3, backend="cpu")[1],
        lambda x, y: fastsce.cross_entropy_value_and_grad(x.T.copy(), y, axis=0)[1],
        lambda x, y: np.stack(fastsce.cross_entropy_grad_and_hess(x, y % 2)),
        lambda x, y: fastsce.binary_cross_entropy_value_and_grad(x, x > 0)[1],
        lambda x, y: fastsce.softmax(x),
        lambda x, y: fastsce.log_softmax(x),
        lambda x, y: fastsce.softmax_vjp(x, x),
    ],
)
def test_nothing_of_what_was_there_is_left(call):
    x, y = batch()
    x[5:9] = -np.inf
    y[9:12] = 3
    first = call(x, y).copy()
    assert results.waiting
    for memory in results.waiting:
        memory[:] = 0xA5
    assert call(x, y).tobytes() == first.tobytes()


@pytest.mark.parametrize(
    "lay",
    [
        lambda a: a,
        lambda a: a.T,
        lambda a: np.asfortranarray(a),
        lambda a: a[::-1],
        lambda a: np.moveaxis(a.reshape(4, 16, 512), 1, 2),
        lambda a: a[:, None, :, None],
        lambda a: a.astype(">f4"),
        lambda a: a.astype(np.float64)[:, ::2],
    ],
)
def test_laid_out_as_numpy_would(lay):
    x = lay(batch()[0])
    made, like = host.empty_like(x), np.empty_like(x)
    assert made.base is not None
    assert (made.shape, made.dtype) == (like.shape, like.dtype)
    steps = [(a, b) for a, b, n in zip(made.strides, like.strides, made.shape, strict=True) if n > 1]
    assert all(a == b for a, b in steps)
    assert made.flags.writeable


@pytest.mark.parametrize("past", [0, 1, 16, 63])
def test_begins_with_a_cache_line(past):
    memory = np.empty(SIZE + 2 * results.LINE + past, np.uint8)
    start = -address(memory) % results.LINE + past
    results.waiting.append(memory[start : start + SIZE + results.LINE])
    made = host.empty_like(np.empty((ROWS, CLASSES), np.float32))
    assert not results.waiting
    assert address(made) % results.LINE == 0
    assert 0 <= address(made) - address(memory) - start < results.LINE


def test_rows_that_are_one_row_get_memory_each():
    x = np.broadcast_to(batch()[0][:1], (ROWS, CLASSES))
    assert host.empty_like(x).flags.c_contiguous


def test_other_sizes_stay_where_they_are():
    large, small = np.empty((ROWS, 2 * CLASSES), np.float32), np.empty((ROWS, CLASSES), np.float32)
    a, b = host.empty_like(large), host.empty_like(small)
    places = address(a), address(b)
    del a, b
    assert (address(host.empty_like(large)), address(host.empty_like(small))) == places


def test_small_results_are_left_to_malloc():
    assert host.empty_like(np.empty((ROWS, CLASSES - 1), np.float32)).base is None


def test_only_so_much_waits(monkeypatch):
    piece = SIZE + results.LINE
    monkeypatch.setattr(results, "ALL", 3 * piece)
    x, _ = batch()
    held = [host.empty_like(x) for _ in range(5)]
    places = [address(a) for a in held]
    while held:
        held.pop(0)
    assert sum(memory.size for memory in results.waiting) == 3 * piece
    assert address(host.empty_like(x)) == places[-1]  # the last to go is the warmest


def test_lse_leaves_the_largest_gradient_its_memory(monkeypatch):
    """Of 8 float32 classes and more; lse goes last, and what waits longest is given up first."""
    small, lse = 2 * SIZE / results.MOST, np.empty(SIZE // 16, np.float64)
    monkeypatch.setattr(results, "ALL", int(results.ALL * small) + 2 * results.LINE)
    monkeypatch.setattr(results, "MOST", 2 * SIZE)
    monkeypatch.setattr(results, "LEAST", lse.nbytes)
    made = host.empty_like(np.empty((2 * ROWS, CLASSES), np.float32)), host.empty(None, lse.shape, lse.dtype)
    grad, lse = made
    del made, grad
    del lse
    assert [memory.size for memory in results.waiting] == [2 * SIZE + results.LINE, SIZE // 2 + results.LINE]


def test_what_is_larger_than_all_that_may_wait_does_not(monkeypatch):
    x, _ = batch()
    host.empty_like(x)
    monkeypatch.setattr(results, "MOST", 2 * SIZE)
    host.empty_like(np.empty((3, *x.shape), np.float32))
    assert [memory.size for memory in results.waiting] == [SIZE + results.LINE]


def test_memory_that_waits_is_given_up_when_there_is_no_other(monkeypatch):
    x, _ = batch()
    host.empty_like(x)
    assert results.waiting
    allocate, refusals = np.empty, []

    def scarce(*args):
        if results.waiting:
            refusals.append(args)
            raise MemoryError
        return allocate(*args)

    monkeypatch.setattr(results.np, "empty", scarce)
    held = host.empty_like(np.zeros((2, *x.shape), np.float32))
    assert held.shape == (2, *x.shape)
    assert refusals
    assert not results.waiting


def test_no_two_threads_share_a_result():
    x, _ = batch()
    wrong = []

    def work(number):
        rng = random.Random(number)
        held = []
        for i in range(200):
            a = host.empty_like(x)
            a[:] = number * 1000 + i
            held.append((a, number * 1000 + i))
            if rng.random() < 0.7:
                a, value = held.pop(rng.randrange(len(held)))
                wrong.extend([value] if (a != value).any() else [])
                del a
            del held[:-5]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_held_until_the_process_ends():
    program = """
import numpy as np, fastsce
from fastsce import results
results.LEAST = 1
held = fastsce.softmax(np.zeros((64, 512), np.float32), backend="cpu")
fastsce.held = [held[1:], held.reshape(-1)]
cycle = [held]
cycle.append(cycle)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
