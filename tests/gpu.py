"""Calls of the public functions on a GPU, real or simulated, with NumPy arrays before and after."""

import functools

import ml_dtypes
import numpy as np
import pytest

import fastsce

OTHERS = ("backend_for", "show_versions", "warmup")
MOVED = [name for name in fastsce.__all__ if name[0].islower() and name not in OTHERS]
CHECKED = [name for name in MOVED if name.startswith("cross_entropy")]
ORIGINAL = {name: getattr(fastsce, name) for name in MOVED}


class Real:
    """CuPy's arrays; torch's for bfloat16. Their memory is a copy of all between an array's first and last byte."""

    @staticmethod
    def to_device(a):
        import cupy

        a = np.asarray(a)
        if a.size == 0:
            return cupy.empty(a.shape, a.dtype)
        low, high = np.lib.array_utils.byte_bounds(a)
        raw = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_uint8 * (high - low)).from_address(low))
        memory, start = cupy.asarray(raw), a.__array_interface__["data"][0] - low
        if a.dtype == ml_dtypes.bfloat16:
            import torch

            if any(step < 0 for step in a.strides):
                pytest.skip("torch has no negative strides")
            size, flat = a.itemsize, torch.as_tensor(memory, device="cuda").view(torch.bfloat16)
            return flat.as_strided(a.shape, [s // size for s in a.strides], start // size)
        return cupy.ndarray(a.shape, a.dtype, memory.data + start, a.strides)

    @staticmethod
    def to_host(a):
        if not type(a).__module__.startswith("torch"):
            return a.get()
        import torch

        if a.dtype != torch.bfloat16:
            return a.cpu().numpy()
        return a.view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)


class Simulated:
    """Of the stand-ins' arrays. What would take long is skipped."""

    LARGEST = 30_000  # numbers

    @classmethod
    def to_device(cls, a):
        import standins

        if a.size > cls.LARGEST:
            pytest.skip("takes long in the simulator")
        return standins.to_device(a)

    @staticmethod
    def to_host(a):
        import standins

        return standins.to_host(a)


machine = Simulated


def moved(name):
    """The function, which moves its arrays to the GPU and the answer back if it is asked for backend "cuda"."""
    call = ORIGINAL[name]

    @functools.wraps(call)
    def wrapper(*args, backend=None, **given):
        if backend != "cuda":
            return call(*args, backend=backend, **given)
        if name in CHECKED:
            given.setdefault("check_targets", True)  # as on a CPU
        known = {}  # the same array is the same array on the GPU

        def there(a):
            if isinstance(a, tuple):
                return tuple(map(there, a))
            if type(a) is not np.ndarray:
                return a
            if id(a) not in known:
                plain = a if a.flags.aligned and a.dtype.isnative else a.astype(a.dtype.newbyteorder("="))
                known[id(a)] = a, machine.to_device(plain)
            return known[id(a)][1]

        def back(a):
            for host, device in known.values():
                if a is device:
                    host[...] = machine.to_host(device)
                    return host
            if isinstance(a, tuple):
                return type(a)(*map(back, a))
            host = None if a is None else machine.to_host(a)
            return host if host is None or host.ndim else host[()]

        args = [np.asarray(a) if isinstance(a, (list, np.generic)) else a for a in args]
        return back(call(*map(there, args), **{key: there(value) for key, value in given.items()}))

    return wrapper
