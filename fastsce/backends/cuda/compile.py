"""From a kernel's Python function to machine code: numba's types of its argument, the options once, a cache on disk."""

from __future__ import annotations

import contextlib
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numba.cuda import types
from numba.cuda.core.caching import IndexDataCacheFile

from fastsce import interrupts
from fastsce.backends.cuda.job import Pointer
from fastsce.backends.cuda.threads import cuda
from fastsce.backends.cuda.words import BFLOAT16, FLOAT16
from fastsce.spec import BFLOAT16 as BFLOAT16_DTYPE

STORED = {np.dtype(np.float16): FLOAT16, BFLOAT16_DTYPE: BFLOAT16, np.dtype(bool): types.uint8}
LAWS = [Path(__file__).parents[2] / name for name in ("frame.py", "law.py", "logistic.py", "maths.py")]
SOURCES = [*LAWS, *sorted(Path(__file__).parent.glob("*.py"))]


def type_of(value: Any) -> types.Type:
    """numba's type of a kernel's argument or a part of it."""
    if isinstance(value, Pointer):
        dtype = value.dtype
        return types.CPointer(STORED[dtype] if dtype in STORED else getattr(types, dtype.name))
    if isinstance(value, tuple):
        return types.NamedTuple([type_of(v) for v in value], type(value))
    return types.float64 if isinstance(value, float) else types.int64


def compiled(function: Any, job: tuple, threads: int) -> Any:
    """The kernel for arguments of such types and at most so many threads a block, for the current GPU."""
    signature = types.void(type_of(job))
    dispatcher = dispatcher_of(function, threads)
    capability = cuda.get_current_device().compute_capability
    with contextlib.suppress(RuntimeError, OSError):  # no place to write to: it lives as long as the process
        dispatcher.enable_caching()
        files = dispatcher._cache._cache_file
        variant = [getattr(cell, "cell_contents", None) for cell in function.__closure__ or ()]
        name = f"{function.__qualname__}-{digest(repr((variant, signature, threads, capability)))[:24]}"
        dispatcher._cache._cache_file = IndexDataCacheFile(files._cache_path, name.replace("<locals>.", ""), stamp())
    with interrupts.held():
        kernel = dispatcher.compile(signature)
        kernel.bind()
    return kernel


def dispatcher_of(function: Any, threads: int) -> Any:
    """The function is an argument here, since the decorator's form loses the option: what runs is what tests read."""
    return cuda.jit(function, lto=False, launch_bounds=(threads, 1))


@cache
def stamp() -> str:
    """numba notices a change in a kernel's own file only; this is of all files that a kernel is made from."""
    return digest("".join(path.read_text(encoding="utf-8") for path in SOURCES))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
