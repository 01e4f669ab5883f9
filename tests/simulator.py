"""A GPU in Python: memory that knows its bounds, and blocks of threads that take turns in any order.

`install` puts simulated words and a simulated launcher in the place of the real ones, before the CUDA backend is
imported; everything else of the backend, its kernels too, is what runs on a GPU. Reads and writes outside of an
allocation raise. Between barriers threads run one after the other in an order drawn anew each time, and fresh memory
is full of NaN, so that a missing barrier or a number that was never written shows.
"""

import random
import sys
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import greenlet
import numpy as np
from simulated import Fault, Memory, allocate, load, release, word, words  # noqa: F401

WARP = 32
RANDOM = random.Random(0)

# --- threads ----------------------------------------------------------------------------------------------------------


class Thread:
    """One thread of a block; it runs until it waits for others."""

    def __init__(self, group, x, y, function, job):
        self.group, self.x, self.y = group, x, y
        self.number = x + group.size[0] * y
        self.arrays = 0  # of shared memory, that it has asked for
        self.waits_for, self.given, self.answer = None, None, None
        self.run = greenlet.greenlet(lambda: quietly(function, job))

    def wait(self, what, given=None):
        self.waits_for, self.given = what, given
        self.group.hub.switch()
        return self.answer


def quietly(function, job):
    with np.errstate(all="ignore"):
        function(job)


class Block:
    def __init__(self, number, grid, size, shared, function, job):
        self.number, self.grid, self.size, self.dynamic = number, grid, size, shared
        self.shared = []
        self.hub = greenlet.getcurrent()
        self.threads = [Thread(self, x, y, function, job) for y in range(size[1]) for x in range(size[0])]

    def run(self):
        ready = alive = list(self.threads)
        while alive:
            RANDOM.shuffle(ready)
            for thread in ready:
                Thread.current = thread
                thread.waits_for = None
                thread.run.switch()
            alive = [t for t in alive if not t.run.dead]
            ready = list(self.released(alive))
            if alive and not ready:
                raise Fault(f"threads wait for each other: {[(t.number, t.waits_for) for t in alive[:8]]}")

    def released(self, alive):
        """Warps all of whose lanes wait for each other; else all, if all wait at a barrier."""
        warps = {}
        for thread in alive:
            if thread.waits_for == "lanes":
                warps.setdefault(thread.number // WARP, []).append(thread)
        for number, lanes in warps.items():
            if len(lanes) == min(WARP, len(self.threads) - WARP * number):
                values = {t.number % WARP: t.given for t in lanes}
                for thread in lanes:
                    thread.answer = values
                    yield thread
                warps = None
        if warps is not None and len(alive) == len(self.threads) and all(t.waits_for == "barrier" for t in alive):
            yield from alive

    def shared_array(self, thread, count, dtype):
        if count == 0:
            count = self.dynamic // np.dtype(dtype).itemsize
        if thread.arrays == len(self.shared):
            self.shared.append(fresh(count, dtype))
        thread.arrays += 1
        return self.shared[thread.arrays - 1]


def fresh(count, dtype):
    array = np.empty(count, dtype)
    array.view(np.uint8)[:] = 0xFF
    return array


words.cuda = SimpleNamespace(
    local=SimpleNamespace(array=fresh),
    shared=SimpleNamespace(
        array=lambda count, dtype, alignment=None: Thread.current.group.shared_array(Thread.current, count, dtype),
    ),
)
words.thread = lambda: Thread.current.x
words.thread_y = lambda: Thread.current.y
words.threads = lambda: Thread.current.group.size[0]
words.threads_y = lambda: Thread.current.group.size[1]
words.block = lambda: Thread.current.group.number
words.blocks = lambda: Thread.current.group.grid
words.barrier = lambda: Thread.current.wait("barrier")
words.warp_barrier = lambda: Thread.current.wait("lanes")


@word
def lanes_xor(x, distance):
    me = Thread.current
    return me.wait("lanes", x)[me.number % WARP ^ distance]


# --- the launcher -----------------------------------------------------------------------------------------------------

launcher = ModuleType("launch")
launcher.launched = []  # (function, grid, block, shared memory) of every launch
launcher.shared = 4096 + 16 * 40  # bytes a block may have: few, so that short rows are long ones too


def pointers(value):
    from fastsce.backends.cuda.job import Pointer

    if type(value) is Pointer:
        return Memory(value.address, value.dtype)
    return type(value)(*map(pointers, value)) if isinstance(value, tuple) else value


signatures = {}  # of every kernel with these dtypes: a number that is an integer once is one always


def kinds_of(job):
    """Of all that is in it: the dtype if it is a pointer, and the type."""
    from fastsce.backends.cuda.job import Pointer

    for value in job:
        if isinstance(value, tuple) and type(value) is not Pointer:
            yield from kinds_of(value)
        else:
            yield value.dtype if type(value) is Pointer else None
            yield type(value)


def run(function, job, grid, block, home, shared=0, threads=512):
    assert block[0] * block[1] <= threads and shared <= launcher.shared
    kinds = tuple(kinds_of(job))
    assert signatures.setdefault((function, *kinds[0::2]), kinds[1::2]) == kinds[1::2], "one kernel, two signatures"
    launcher.launched.append((function, grid, block, shared))
    home.stream()
    job = pointers(job)
    for number in range(grid):
        Block(number, grid, block, shared, function, job).run()


class Limits(NamedTuple):
    processors: int
    shared: int
    threads: int


launcher.run = run
launcher.threads = 512  # of a block at most; fewer make short rows long ones
launcher.limits = lambda index: Limits(2, launcher.shared, launcher.threads)
launcher.gpus = lambda: ["simulated"]
launcher.read = lambda pointer, home: load(Memory(pointer.address, pointer.dtype), 0)


def install():
    """Before anything imports the backend."""
    assert "fastsce.backends.cuda" not in sys.modules
    package = "fastsce.backends.cuda"
    sys.modules |= {f"{package}.{name}": words for name in ("terms", "threads", "words")} | {
        f"{package}.launch": launcher
    }
