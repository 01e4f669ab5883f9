"""Nothing is read or written before or after an array: pages around it that may not be touched."""

import subprocess
import sys

import pytest

CHILD = """
import ctypes, itertools, mmap, sys
import numpy as np
import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import ways

libc = ctypes.CDLL(None, use_errno=True)
PAGE = mmap.PAGESIZE
kept = []


def fenced(a, at_end):
    '''A copy that ends where a page that may not be touched begins, or begins where one ends.'''
    pages = -(-a.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    for fence in (start, start + (pages + 1) * PAGE):
        assert libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), 0) == 0
    kept.append(memory)
    offset = PAGE + (pages * PAGE - a.nbytes if at_end else 0)
    copy = np.frombuffer(memory, a.dtype, a.size, offset).reshape(a.shape)
    copy[...] = a
    return copy


NAMES = [(cpu, "STREAM_BYTES"), (cpu, "STREAM_ROW_BYTES")]
NAMES += [(ways, name) for name in ("SHARED_BYTES", "BEHIND_BYTES", "BEHIND_BYTES_16")]
HOW = {"behind": (0, 0, 0, 0, 0), "at a desk": (0, 0, 0, sys.maxsize, sys.maxsize)}
BEFORE = [getattr(*name) for name in NAMES]


def stream(how):
    for name, value in zip(NAMES, HOW.get(how, BEFORE)):
        setattr(*name, value)
    cpu.plan_of.cache_clear()


short = [(1, 10), (100, 3), (100, 10), (33, 100), (33, 130)]
shapes = [*short, (32, 512), (37, 700), (48, 1024), (33, 1000), (20, 4096), (9, 5000)]
for dtype, (rows, classes), at_end in itertools.product((np.float32, np.float64, np.float16), shapes, (True, False)):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, classes)).astype(dtype), rng.integers(0, classes, rows)
    y[1::3] = -100
    for axis in (1, 0):
        z = x if axis == 1 else np.ascontiguousarray(x.T)
        given = {"axis": axis, "backend": "cpu"}
        logits, labels, out = (fenced(a, at_end) for a in (z, y, np.zeros_like(z)))
        stream(sys.argv[1])
        found = fastsce.cross_entropy_value_and_grad(logits, labels, out=out, **given)
        stream("not streamed")
        expected = fastsce.cross_entropy_value_and_grad(z, y, **given)
        assert out.tobytes() == expected.grad.tobytes(), (dtype, rows, classes, axis)
        assert fastsce.cross_entropy(logits, labels, **given) == expected.loss
        outs = fenced(np.zeros_like(z), at_end), fenced(np.zeros_like(z), at_end)
        target = fenced(np.abs(z) / 8, at_end)
        calls = [
            lambda x, out: fastsce.cross_entropy_grad_and_hess(x, labels, out=out, **given),
            lambda x, out: fastsce.cross_entropy_value_and_grad(x, labels, softcap=3, out=out[0], **given),
            lambda x, out: fastsce.binary_cross_entropy_grad_and_hess(x, target, out=out, backend="cpu"),
            lambda x, out: fastsce.binary_cross_entropy_value_and_grad(x, target, out=out[0], backend="cpu"),
            lambda x, out: (fastsce.log_softmax(x, **given), fastsce.softmax_vjp(x, target, **given)),
        ]
        for call in calls:
            found = []
            for way, x in (("not streamed", z), (sys.argv[1], logits)):
                stream(way)
                given_back = [a for a in call(x, outs) if isinstance(a, np.ndarray)]
                found.append([a.tobytes() for a in (*given_back, *outs)])
            assert found[0] == found[1], (dtype, rows, classes, axis)
        del found, expected
print("all")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library for memory that may not be touched")
@pytest.mark.parametrize("how", ["behind", "at a desk", "not streamed"])
def test_nothing_beyond_an_array_is_touched(how):
    done = subprocess.run([sys.executable, "-c", CHILD, how], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "all\n"
