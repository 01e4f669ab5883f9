"""Arrays of a simulated GPU, of a class that the package takes for CuPy's."""

import sys
import weakref
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
from simulator import allocate, release


class ndarray:
    """What of cupy.ndarray the package looks at."""

    def __init__(self, host, owner=None, index=0):
        self.host, self.owner = host, owner
        self.shape, self.strides, self.dtype, self.ndim = host.shape, host.strides, host.dtype, host.ndim
        self.data = SimpleNamespace(ptr=host.ctypes.data)
        self.device = SimpleNamespace(id=index)

    def transpose(self, axes):
        return ndarray(self.host.transpose(axes), self.owner or self, self.device.id)


ndarray.__module__ = "cupy"


def empty(shape, dtype=float):
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = allocate(size)
    made = ndarray(memory.view(dtype).reshape(shape))
    weakref.finalize(made, release, memory.ctypes.data)
    return made


def to_device(a) -> ndarray:
    """A copy of a NumPy array with the same strides, in an allocation of just its bytes."""
    a = np.asarray(a)
    if a.size == 0:
        return empty(a.shape, a.dtype)
    low, high = np.lib.array_utils.byte_bounds(a)
    memory = allocate(high - low)
    dense = np.ndarray(a.shape, a.dtype, memory, a.__array_interface__["data"][0] - low, a.strides)
    if 0 in a.strides:
        dense = np.lib.stride_tricks.as_strided(dense, writeable=True)
    dense[...] = a
    made = ndarray(dense)
    weakref.finalize(made, release, memory.ctypes.data)
    return made


def to_host(a) -> np.ndarray:
    return a.host.copy()


class Device:
    def __init__(self, index):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def install():
    cupy = ModuleType("cupy")
    cupy.empty, cupy.ndarray = empty, ndarray
    cupy.cuda = SimpleNamespace(Device=Device, get_current_stream=lambda: SimpleNamespace(ptr=7))
    sys.modules["cupy"] = cupy


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
