"""Arrays of a simulated GPU, of a class that the package takes for CuPy's, and of one that only has an interface."""

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
        self.data = SimpleNamespace(ptr=host.__array_interface__["data"][0])
        self.device = SimpleNamespace(id=index)

    def view(self, host):
        return ndarray(host, self.owner or self, self.device.id)

    def transpose(self, axes):
        return self.view(self.host.transpose(axes))

    def __getitem__(self, index):
        return self.view(self.host[index])


ndarray.__module__ = "cupy"


class Interface:
    """Anybody's array: only `__cuda_array_interface__` tells what it is."""

    def __init__(self, array, version=3, read_only=False, **more):
        self.array = array
        dense = array.host.flags.c_contiguous
        self.__cuda_array_interface__ = {
            "version": version,
            "shape": array.shape,
            "strides": None if dense else array.strides,
            "typestr": array.dtype.str,
            "data": (array.data.ptr, read_only),
            **more,
        }

    __cuda_array_interface__ = None  # a class says that its arrays have one


def empty(shape, dtype=float):
    dtype = np.dtype(dtype)
    return owned(allocate(int(np.prod(shape)) * dtype.itemsize), shape, dtype)


def owned(memory, shape, dtype, start=0, strides=None) -> ndarray:
    """On the current GPU; the memory goes with it."""
    made = ndarray(np.ndarray(shape, dtype, memory, start, strides), index=Device.current)
    weakref.finalize(made, release, memory.__array_interface__["data"][0])
    return made


def empty_like(a) -> ndarray:
    """With the strides of a NumPy array, in an allocation of just its bytes."""
    if a.size == 0:
        return empty(a.shape, a.dtype)
    low, high = np.lib.array_utils.byte_bounds(a)
    return owned(allocate(high - low), a.shape, a.dtype, a.__array_interface__["data"][0] - low, a.strides)


def to_device(a) -> ndarray:
    """A copy of a NumPy array."""
    a = np.asarray(a)
    made = empty_like(a)
    dense = made.host
    if 0 in a.strides:
        dense = np.lib.stride_tricks.as_strided(dense, writeable=True)
    dense[...] = a
    return made


def to_host(a) -> np.ndarray:
    return a.host.copy(order="K")


class Device:
    """Makes a GPU the current one in a with statement."""

    current = 0

    def __init__(self, index):
        self.index = index

    def __enter__(self):
        self.before, Device.current = Device.current, self.index
        return self

    def __exit__(self, *error):
        Device.current = self.before


def get_current_stream(device_id):
    return SimpleNamespace(ptr=7 + device_id)


def install():
    cupy = ModuleType("cupy")
    cupy.empty, cupy.ndarray = empty, ndarray
    cupy.cuda = SimpleNamespace(Device=Device, get_current_stream=get_current_stream)
    sys.modules["cupy"] = cupy


BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
