"""Arrays in a GPU's memory, described by NumPy, which never looks at their numbers.

Shape, strides, overlap, moved axes and merged ones are arithmetic with addresses, for which it does not matter whose
memory it is. So all that the checks and the layout do with an array on a CPU they do with one on a GPU.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce.layout import order
from fastsce.spec import BFLOAT16


class Home(NamedTuple):
    """Where an array is from."""

    library: Any  # see `fastsce.arrays`
    owner: Any  # the library's own array, which keeps the memory
    index: int  # type: ignore[assignment]  # of the GPU

    def stream(self) -> tuple[int, bool]:
        """The caller's current stream, and whether a call has to wait for it before it returns."""
        return self.library.stream(self)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> DeviceArray:
        """New memory beside this, from the same library."""
        made = self.library.view(self.library.empty(shape, dtype, self))
        return made if made.dtype == dtype else made.view(dtype).reshape(shape)

    def empty_like(self, x: DeviceArray) -> DeviceArray:
        """The same, with x's order of axes in memory if the library has arrays of any order."""
        axes = order(x)
        transposed = getattr(self.library, "transposed", None)
        if transposed is None or axes == list(range(x.ndim)):
            return self.empty(x.shape, x.dtype)
        made = self.library.empty(tuple(x.shape[axis] for axis in axes), x.dtype, self)
        return self.library.view(transposed(made, np.argsort(axes).tolist()))


class DeviceArray(np.ndarray):
    """A view of a GPU's memory. What would read or write it is refused, but for one number by its index."""

    home: Home
    __array_ufunc__ = None  # type: ignore[assignment]  # arithmetic

    def __array_finalize__(self, other: Any) -> None:
        self.home = getattr(other, "home", None)  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{name_of(self.dtype)} array of shape {self.shape} on GPU {self.home.index}>"

    __str__ = __repr__

    def __format__(self, form: str) -> str:
        return repr(self)

    def __array_function__(self, function: Any, types: Any, args: Any, given: Any) -> Any:
        return super().__array_function__(function, types, args, given) if function in VIEWING else self.unreadable()

    def unreadable(self, *args: Any, **given: Any) -> Any:
        raise TypeError("the memory of a GPU cannot be read from Python; copy the array to the host first")


VIEWING = {np.broadcast_to, np.may_share_memory, np.moveaxis, np.shares_memory}
READING = """
    argmax argmin argpartition argsort astype byteswap choose compress copy dot dump dumps fill flatten item nonzero
    partition put repeat searchsorted sort take tobytes tofile tolist
    __bool__ __complex__ __copy__ __deepcopy__ __float__ __index__ __int__ __iter__ __reduce__ __reduce_ex__ __setitem__
"""
for method in READING.split():
    setattr(DeviceArray, method, DeviceArray.unreadable)


class Interface:
    """What NumPy asks an array's owner for."""

    __slots__ = ("__array_interface__",)

    def __init__(self, interface: dict[str, Any]):
        self.__array_interface__ = interface


def name_of(dtype: np.dtype) -> str:
    return "bfloat16" if dtype == BFLOAT16 else dtype.name


def view(home: Home, address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype) -> Any:
    """Strides in bytes, None for C order."""
    if not dtype.isnative:
        raise TypeError(f"arrays of dtype {dtype}, of the other byte order, are not supported; convert to {dtype.name}")
    if address % dtype.itemsize or any(s % dtype.itemsize for s in strides or ()):
        raise ValueError(
            f"an array of {name_of(dtype)} at address {address:#x} is not aligned to its numbers; pass a copy of it"
        )
    kind = "|V2" if dtype == BFLOAT16 else dtype.str
    interface = {"version": 3, "data": (address, False), "shape": shape, "strides": strides, "typestr": kind}
    array = np.asarray(Interface(interface)).view(DeviceArray)
    array.home = home
    return array


def by_interface(home: Home, interface: dict[str, Any]) -> Any:
    """A view of what speaks `__cuda_array_interface__`."""
    if interface.get("mask") is not None:
        raise TypeError("masked arrays are not supported; put -inf into masked logits and pass the plain array")
    dtype = np.dtype(interface["typestr"])
    array = view(home, interface["data"][0], tuple(interface["shape"]), interface.get("strides"), dtype)
    array.flags.writeable = not interface["data"][1]
    return array


def index_of(address: int) -> int:
    """The number of the GPU whose memory this is; of the current one for memory that the driver does not know."""
    from cuda.bindings import driver
    from cuda.core import Device

    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    status, index = driver.cuPointerGetAttribute(attribute, address)
    return int(index) if status == driver.CUresult.CUDA_SUCCESS else Device().device_id
