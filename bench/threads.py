"""The same CPUs and as many threads for every process and every library."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

VARIABLES = (
    "OMP_NUM_THREADS",  # torch, scikit-learn, numba
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NPROC",  # XLA's pool on a CPU
    "PJRT_NPROC",
)
SETTINGS = {
    "JAX_PLATFORMS": "cpu",  # no GPU here
    "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no compiler left running
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",  # huge pages for new memory, as NumPy asks for them, for everyone
    "THP_MEM_ALLOC_ENABLE": "1",  # torch's own switch for them
}


def cpus() -> list[int]:
    """Those that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(numbers: list[int]) -> None:
    """This thread and those it starts run on these CPUs only, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, numbers)


def count() -> int:
    """How many threads everyone has."""
    return len(cpus())


def settings(threads: int) -> dict[str, str]:
    """The environment that makes it so; to be set before a library is imported."""
    return dict.fromkeys(VARIABLES, str(threads)) | SETTINGS


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Processes that are started within inherit these."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def in_use(library: str) -> int:
    """How many threads a library says it uses, asked in its own process after it has worked."""
    if library == "fastsce":
        import numba

        return numba.get_num_threads()
    if library == "torch":
        import torch

        return torch.get_num_threads()
    if library == "scikit-learn":
        from sklearn.utils._openmp_helpers import _openmp_effective_n_threads

        return _openmp_effective_n_threads()
    return count()  # as many as were asked for; neither XLA nor a pool of Python's threads tells
