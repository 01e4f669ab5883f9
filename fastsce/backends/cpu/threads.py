"""Threads: how many, and whose. numba picks the layer (tbb, omp or workqueue) when the first kernel runs."""

from __future__ import annotations

import numba


def thread_count() -> int:
    """How many threads a kernel uses, as `numba.set_num_threads` set it for this thread."""
    return numba.get_num_threads()


def threading_layer() -> str:
    """numba's layer in use, or the one it is set to where no kernel has run yet."""
    try:
        return numba.threading_layer()
    except ValueError:
        return f"{numba.config.THREADING_LAYER} (not started)"


def cache_directory() -> str | None:
    """Where compiled kernels are kept, or None where no place can be written to."""
    from fastsce.backends.cpu.rows import rows

    rows.enable_cache()
    return getattr(rows.dispatcher._cache, "cache_path", None)
