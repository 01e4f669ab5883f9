"""Programs that call fastsce in many threads and processes; test_processes.py runs each in a process of its own.

Wherever they call, they tell a digest of the answers' bits; `python tests/programs.py NAME FILE` runs one.
"""

import contextlib
import hashlib
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

import fastsce


def batches():
    """Logits and labels for each kernel, of a size that is shared by threads and of one that is not."""
    random = np.random.default_rng(7)
    for rows, classes in ((1200, 300), (40_000, 10), (8, 300), (8, 10)):
        yield random.standard_normal((rows, classes), np.float32), random.integers(0, classes, rows)


def results(backend=None):
    for x, y in batches():
        yield from fastsce.cross_entropy_value_and_grad(x, y, backend=backend)
        weight, sample_weight = np.linspace(0.5, 2, x.shape[1]), np.linspace(0, 1, len(y))
        yield fastsce.cross_entropy(x, y, weight=weight, sample_weight=sample_weight, backend=backend)
        yield from fastsce.binary_cross_entropy_value_and_grad(x, x > 0, backend=backend)[:2]
        yield fastsce.softmax_vjp(fastsce.softmax(x, backend=backend), x, backend=backend)


def digest(_=None):
    found = hashlib.sha256()
    for a in results():
        found.update(np.ascontiguousarray(a).tobytes())
    return found.hexdigest()


def tell(*digests):
    """Appended to FILE in one write; TBB warns on standard output when it cannot end its threads before a fork."""
    with open(sys.argv[2], "ab", buffering=0) as told:
        told.write("".join(f"{found}\n" for found in digests).encode())


def threads():
    """64 at once, the very first calls of a process."""
    together = threading.Barrier(64)

    def work():
        together.wait()
        tell(digest(), digest())

    run_all([threading.Thread(target=work) for _ in range(64)])


def run_all(workers):
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def child(depth=1):
    """A forked process that calls, and has a child of its own."""
    pid = os.fork()
    if pid == 0:
        tell(digest())
        if depth > 1:
            child(depth - 1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def fork():
    """Children of a process that has called: from its main thread, from another, while others call; and pools."""
    tell(digest())
    child(depth=2)
    run_all([threading.Thread(target=child)])
    others = [threading.Thread(target=lambda: tell(digest(), digest())) for _ in range(4)]
    run_all([*others, threading.Thread(target=lambda: [child() for _ in range(4)])])
    pools("fork")
    tell(digest())


def pools(method):
    context = multiprocessing.get_context(method)
    with context.Pool(2) as pool:
        tell(*pool.map(digest, range(4)))
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        tell(*pool.map(digest, range(4)))


def spawn():
    tell(digest())
    pools("spawn")
    pools("forkserver")


def fork_after_others():
    import numba

    @numba.njit(parallel=True)
    def fill(a):
        for i in numba.prange(a.size):
            a[i] = i

    fill(np.zeros(100))
    child()


def fork_while_threads_start():
    """numba's, which it starts under two locks."""
    from numba.np.ufunc import parallel

    fastsce.log_softmax(np.zeros((2, 3)))  # too small for threads
    starting, launch = threading.Event(), parallel._launch_threads

    def slowly():
        with parallel._backend_init_thread_lock:
            starting.set()
            time.sleep(0.5)
            launch()

    parallel._launch_threads = slowly
    first = threading.Thread(target=lambda: tell(digest()))
    first.start()
    starting.wait()
    child()
    first.join()


@contextlib.contextmanager
def held_by_another(*locks):
    """While another thread has them, for half a second."""

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            time.sleep(0.5)

    held = threading.Event()
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
    yield
    other.join()


def fork_while_compiling():
    """The child must not wait for the compiler's lock, which only a thread that it does not have could release."""
    from numba.core.compiler_lock import global_compiler_lock

    tell(digest())
    with held_by_another(global_compiler_lock):
        pid = os.fork()
        if pid == 0:
            fastsce.log_softmax(np.zeros((2, 3)))  # not called before: it is to be found on disk, under the lock
            tell(digest())
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0


def fork_while_threads_are_counted():
    """numba's locks of that: the child must not wait for them, nor come out with one that it shares with its parent."""
    from numba.np.ufunc import parallel

    tell(digest())
    with held_by_another(parallel._backend_init_process_lock, parallel._backend_init_thread_lock):
        child()
    tell(digest())


def without_threads():
    """In a process whose threads would have stacks of 4 GB each."""
    import resource

    resource.setrlimit(resource.RLIMIT_STACK, (4 << 30, resource.RLIM_INFINITY))
    os.execv(sys.executable, [sys.executable, __file__, "with_memory_for_arrays_only", sys.argv[2]])


def with_memory_for_arrays_only():
    import resource

    tell(digest())
    fastsce.forks.child = True
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), resource.RLIM_INFINITY))
    tell(digest())
    try:
        threading.Thread(target=tell).start()
    except RuntimeError:
        tell("no", "more")


class Digests:
    """A data set whose every item is computed where the loader's worker is; and whether torch agrees."""

    def __len__(self):
        return 4

    def __getitem__(self, i):
        import torch

        x, y = torch.randn((1200, 300), generator=torch.Generator().manual_seed(i)), torch.arange(1200) % 300
        agrees = torch.allclose(fastsce.cross_entropy(x, y), torch.nn.functional.cross_entropy(x, y), rtol=1e-5)
        return digest() if agrees else "torch does not agree"


def dataloader():
    import torch

    tell(digest())
    for method in ("fork", "spawn"):
        tell(*torch.utils.data.DataLoader(Digests(), None, num_workers=2, multiprocessing_context=method))


def in_joblib():
    import joblib

    tell(digest())
    for backend in ("loky", "threading", "multiprocessing"):
        tell(*joblib.Parallel(2, backend=backend)(joblib.delayed(digest)(i) for i in range(4)))


def in_dask():
    import dask
    from distributed import Client

    tell(digest())
    tasks = [dask.delayed(digest)(i) for i in range(4)]
    for scheduler in ("threads", "processes"):
        tell(*dask.compute(*tasks, scheduler=scheduler, num_workers=2))
    for processes in (False, True):
        with Client(n_workers=2, threads_per_worker=2, processes=processes, dashboard_address=None) as client:
            tell(*client.gather(client.map(digest, range(4), pure=False)))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
