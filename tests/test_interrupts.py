"""Ctrl-C in a long call, and calls with too little memory: an exception, and a library that still works."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastsce
from fastsce import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="not a POSIX system")
SOON = 0.2  # seconds


def many(rows, classes):
    """So many times the same row: long work in little memory."""
    return again(np.linspace(-1, 1, classes, dtype=np.float32), rows)


def again(row, rows):
    return np.broadcast_to(row, (rows, *np.shape(row)))


def labels(rows, dtype=np.int64):
    return again(dtype(1), rows)


LONG = {
    "loss": (1 << 22, lambda n: fastsce.cross_entropy(many(n, 1024), labels(n))),
    "short rows": (1 << 26, lambda n: fastsce.cross_entropy(many(n, 10), labels(n))),
    "narrow labels": (1 << 27, lambda n: fastsce.cross_entropy(many(n, 2), labels(n, np.int8))),
    "class axis first": (1 << 22, lambda n: fastsce.cross_entropy(many(n, 1024).T, labels(n), axis=0)),
    "probabilities": (
        1 << 21,
        lambda n: fastsce.cross_entropy(many(n, 1024), again(np.eye(1, 1024, dtype=bool)[0], n)),
    ),
    "gradient": (1 << 19, lambda n: fastsce.cross_entropy_value_and_grad(many(n, 1024), labels(n))),
    "Hessian": (1 << 26, lambda n: fastsce.cross_entropy_grad_and_hess(many(n, 3), labels(n))),
    "softmax": (1 << 19, lambda n: fastsce.softmax(many(n, 1024))),
    "logsumexp": (1 << 22, lambda n: fastsce.logsumexp(many(n, 1024))),
    "vjp": (1 << 19, lambda n: fastsce.softmax_vjp(many(n, 1024), many(n, 1024))),
    "binary": (1 << 21, lambda n: fastsce.binary_cross_entropy(many(n, 1024), many(n, 1024))),
    "NaN": (1 << 22, lambda n: fastsce.logsumexp(again(np.full(1024, np.nan, np.float32), n))),
}


def interrupted(call, ready=lambda: time.sleep(0.1) or True):
    """How long after Ctrl-C, which is typed when all is ready, a call came back; None if it was over before."""
    sent, inside = [], True

    def send():
        while inside and not ready():
            time.sleep(0.001)
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    def handle(*_):
        if inside:
            raise KeyboardInterrupt

    sender = threading.Thread(target=send)
    before = signal.signal(signal.SIGINT, handle)
    try:
        sender.start()
        call()
        return None
    except KeyboardInterrupt:
        return time.perf_counter() - sent[0]
    finally:
        inside = False
        sender.join()
        signal.signal(signal.SIGINT, before)


def assert_usable():
    found = fastsce.cross_entropy_value_and_grad(np.zeros((2, 4), np.float32), np.array([1, 2]))
    assert found.grad.tolist() == [[0.125, -0.375, 0.125, 0.125], [0.125, 0.125, -0.375, 0.125]]


@pytest.mark.parametrize("name", LONG)
def test_ctrl_c_ends_a_long_call(name):
    rows, call = LONG[name]
    call(2000)  # compiles what it needs
    found = interrupted(lambda: call(rows))
    assert found is not None, "the call was over before Ctrl-C"
    assert found < SOON
    assert_usable()


def test_ctrl_c_where_classes_are_far_apart():
    """Each comes from a page of its own, so that a row takes long."""
    x, out, y = np.zeros((20_000, 4096), np.float32), np.ones((20_000, 4096), np.float32), np.zeros(4096, int)
    call = fastsce.cross_entropy_value_and_grad
    call(x[:, :40], y[:40], axis=0, out=out[:, :40])  # compiles what it needs
    out[...] = 1
    x[...] = 1
    found = interrupted(lambda: call(x, y, axis=0, out=out), lambda: out[5, 0] != 1)
    assert found is not None and found < SOON


@pytest.mark.parametrize("forked", [False, True], ids=["numba's threads", "the system's threads"])
def test_nothing_is_written_after_an_interrupted_call(forked, monkeypatch):
    monkeypatch.setattr(forks, "child", forked)
    x, y = many(1 << 18, 1024), labels(1 << 18)
    out = np.zeros(x.shape, np.float32)
    fastsce.cross_entropy_value_and_grad(x[:2000], y[:2000], out=out[:2000])  # compiles what it needs
    out[...] = 0
    found = interrupted(lambda: fastsce.cross_entropy_value_and_grad(x, y, out=out), lambda: out[5000, 0])
    reached = np.flatnonzero(out[:, 0])[-1]
    left = out[reached + 1 : reached + 100_000].copy()
    time.sleep(0.1)
    assert found is not None and found < SOON
    assert len(left) > 0 and (out[reached + 1 : reached + 100_000] == left).all()
    assert_usable()


def child(code, **environment):
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def interrupted_where(call, file, function):
    """Whether Ctrl-C, typed when such a function of numba's is called, came through."""

    def watch(frame, event, _):
        if event == "call" and frame.f_code.co_name == function and frame.f_code.co_filename.endswith(file):
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # where processes in the background ignore it
    sys.setprofile(watch)
    try:
        call()
    except KeyboardInterrupt:
        return True
    return False


def test_ctrl_c_while_numba_is_imported():
    code = """
import test_interrupts as t, fastsce
def call(): return fastsce.softmax([0.0, 0.0], backend="cpu").tolist()
print(t.interrupted_where(call, "numba/core/types/misc.py", "<module>"), call() == [0.5, 0.5])
"""
    assert child(code) == ["True", "True"]


def test_ctrl_c_while_a_kernel_is_compiled(tmp_path):
    """It comes through when the kernel is there."""
    code = """
import test_interrupts as t, fastsce
def call(): return fastsce.softmax_vjp([0.25, 0.75], [1.0, 0.0], backend="cpu").tolist()
print(t.interrupted_where(call, "numba/core/typeinfer.py", "propagate"))
from fastsce.backends.cpu import vjp
print(len(vjp.vjp.entries), call() == [0.1875, -0.1875])
"""
    assert child(code, NUMBA_CACHE_DIR=str(tmp_path)) == ["True", "1", "True"]


def test_ctrl_c_in_a_child_that_is_forked_meanwhile():
    code = """
import os, signal, threading
from fastsce import interrupts
def fork():
    child = os.fork()
    if child == 0:
        try:
            signal.getsignal(signal.SIGINT)(signal.SIGINT, None)
        except KeyboardInterrupt:
            os._exit(0)
        os._exit(1)
    print(os.waitpid(child, 0)[1])
signal.signal(signal.SIGINT, signal.default_int_handler)
with interrupts.held():
    thread = threading.Thread(target=fork)
    thread.start()
    thread.join()
"""
    assert child(code) == ["0"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("forked", [False, True], ids=["numba's threads", "the system's threads"])
def test_too_little_memory_is_a_memory_error(forked):
    """Whatever a process has left: the right answer or MemoryError, and the right answer when there is enough."""
    code = """
import resource, numpy as np, fastsce
from fastsce import forks
forks.child = FORKED
x, y = np.random.default_rng(0).standard_normal((100_000, 100), np.float32), np.zeros(100_000, np.int32)
calls = [
    lambda: fastsce.cross_entropy_value_and_grad(x, y, sample_weight=np.float32(y + 1)).grad,
    lambda: fastsce.cross_entropy(x[:, :3], y, weight=[1, 2, 3], reduction="none"),
    lambda: fastsce.binary_cross_entropy_value_and_grad(x, x > 0)[1],
    lambda: fastsce.softmax_vjp(fastsce.softmax(x), x),
]
true = [call() for call in calls]
fastsce.empty_cache()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
counts = {"right": 0, "MemoryError": 0}
for step in [*range(0, 200, 8), None]:
    limit = resource.RLIM_INFINITY if step is None else used + (step << 20)
    for call, expected in zip(calls, true):
        fastsce.empty_cache()
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        try:
            found = call()
        except MemoryError:
            assert step is not None
            found = None
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert found is None or (found == expected).all()
        counts["MemoryError" if found is None else "right"] += 1
        del found
print(counts["right"] > 10, counts["MemoryError"] > 10)
"""
    assert child(code.replace("FORKED", str(forked))) == ["True", "True"]
