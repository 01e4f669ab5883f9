"""How a kernel gets to the GPU: compiled once, laid flat, and sent to the caller's stream, which is not waited for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from cuda.bindings import driver
from cuda.core import Device, LaunchConfig, Stream, launch

from fastsce.backends.cuda.geometry import threads_of
from fastsce.backends.cuda.job import Pointer
from fastsce.device import Home

CAPABILITY = (8, 0)  # at least: there are no instructions for bfloat16 before
LOADED: dict[tuple, Any] = {}


def run(
    function: Callable, job: tuple, grid: int, block: tuple[int, int], home: Home, shared: int = 0, threads: int = 512
) -> None:
    """Launch a kernel on `grid` blocks of `block` threads, with so many bytes of shared memory beyond its own.

    `function` is the same object in every call of one variant; `threads` a block has at most in any call of it.
    """
    args: list[Any] = []
    kinds: list[Any] = []
    lay_flat(job, args, kinds)
    handle, waits = home.stream()
    with on(home.index):
        key = (function, home.index, *kinds)
        kernel = LOADED.get(key)
        if kernel is None:
            kernel = LOADED[key] = load(function, job, threads)
        stream = stream_of(handle)
        launch(stream, config(grid, block, shared), kernel, *args)
        if waits:
            stream.sync()


def lay_flat(job: tuple, args: list[Any], kinds: list[Any]) -> None:
    """The numbers and addresses in a tuple of tuples, and the dtypes of what is at the addresses."""
    for value in job:
        if type(value) is Pointer:
            args.append(value.address)
            kinds.append(value.dtype)
        elif isinstance(value, tuple):
            lay_flat(value, args, kinds)
        else:
            args.append(value)


def load(function: Callable, job: tuple, threads: int) -> Any:
    """cuda.core's kernel, allowed to use all the shared memory there is."""
    from fastsce.backends.cuda.compile import compiled

    found = compiled(function, job, threads)._codelibrary.get_cufunc()
    limit = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    room = limits(Device().device_id).shared - found.attrs.shared
    (status,) = driver.cuKernelSetAttribute(limit, room, found.handle, Device().device_id)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver gave no more shared memory to a kernel: {status}")
    return found.kernel


class Limits(NamedTuple):
    """Of a GPU."""

    processors: int
    shared: int  # bytes of shared memory a block may have
    threads: int  # of a block of the softmax kernel


@lru_cache(maxsize=64)
def limits(index: int) -> Limits:
    found = Device(index).properties
    capability = (found.compute_capability_major, found.compute_capability_minor)
    if capability < CAPABILITY:
        raise RuntimeError(f"fastsce needs a GPU of compute capability 8.0 or later; GPU {index} has {capability}")
    return Limits(found.multiprocessor_count, found.max_shared_memory_per_block_optin, threads_of(capability))


def gpus() -> list[str]:
    """What to call each GPU; a RuntimeError says why there is none."""
    from fastsce.backends.cuda.threads import cuda

    if not cuda.is_available():
        reason = " ".join(str(cuda.cuda_error() or "none was found").split())
        raise RuntimeError(f"numba-cuda is installed, but no GPU can be used: {reason}")
    return [f"{gpu.name}, compute capability {'.'.join(map(str, gpu.compute_capability))}" for gpu in cuda.gpus]


def on(index: int) -> Any:
    """With this GPU as the current one. A thread that has none yet, gets it for good, as it would from its library."""
    status, context = driver.cuCtxGetCurrent()
    if status != driver.CUresult.CUDA_SUCCESS or not int(context):
        Device(index).set_current()
        return contextlib.nullcontext()
    if Device().device_id == index:
        return contextlib.nullcontext()
    from fastsce.backends.cuda.threads import cuda

    return cuda.gpus[index]


@lru_cache(maxsize=64)
def stream_of(handle: int) -> Stream:
    return Stream.from_handle(handle)


@lru_cache(maxsize=256)
def config(grid: int, block: tuple[int, int], shared: int) -> LaunchConfig:
    return LaunchConfig(grid=(grid, 1, 1), block=(*block, 1), shmem_size=shared)


def read(pointer: Pointer, home: Home) -> Any:
    """The number there, when the stream has come to it."""
    values = np.empty(1, pointer.dtype)
    with on(home.index):
        stream_of(home.stream()[0]).sync()
        (status,) = driver.cuMemcpyDtoH(values.ctypes.data, pointer.address, values.nbytes)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the GPU's memory could not be read: {status}")
    return values.item()
