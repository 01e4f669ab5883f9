"""Array libraries: where an array lives, a NumPy view of its memory, and the way back. Nothing here copies an array.

A library is a class of static functions; `library_of` picks it by the module that defines the array's type, so no
library is imported that the caller has not imported. bfloat16 is `spec.BFLOAT16` in every view. On a GPU a view is a
`device.DeviceArray`; there, two more functions make new memory and name the stream that the caller is on.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np

from fastsce import device as gpu
from fastsce.device import name_of
from fastsce.spec import BFLOAT16

DLPACK_DEVICES = {1: "cpu", 2: "cuda", 3: "cuda-pinned", 10: "rocm", 13: "cuda-managed"}
OWN_STREAM = 2  # the driver's name for the stream of this thread, which waits for no other


class NumPy:
    """NumPy arrays, and whatever NumPy makes an array of: lists, numbers, memory maps."""

    mutable = True

    @staticmethod
    def device(x: Any) -> str:
        return "cpu"

    @staticmethod
    def view(x: Any) -> np.ndarray:
        a = np.asarray(x)
        if a is not x and isinstance(x, np.ma.MaskedArray):
            raise TypeError(
                "masked arrays are not supported; pass the plain array, with -inf in the place of masked logits"
            )
        return a.view(BFLOAT16) if a.dtype.kind == "V" and a.dtype.name == "bfloat16" else a

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        if a.dtype == BFLOAT16:
            a = a.view(NumPy.named(a.dtype))
        return a if a.ndim else a[()]

    @staticmethod
    def named(dtype: np.dtype) -> np.dtype:
        """A dtype of a view as other libraries know it."""
        if dtype != BFLOAT16:
            return dtype
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)


class Torch:
    mutable = True

    @staticmethod
    def device(x: Any) -> str:
        return f"cuda:{x.device.index}" if x.device.type == "cuda" else x.device.type

    @staticmethod
    def view(x: Any) -> np.ndarray:
        import torch

        x = x.detach()
        if x.layout is not torch.strided:
            raise TypeError(f"tensors of layout {x.layout} are not supported; call .to_dense()")
        if x.is_neg():
            raise TypeError("tensors whose sign is to be changed later are not supported; call .resolve_neg()")
        if x.device.type == "cuda":
            dtype = dtype_of(x.dtype)
            strides = tuple([s * dtype.itemsize for s in x.stride()])
            return gpu.view(gpu.Home(Torch, x, x.device.index), x.data_ptr(), tuple(x.shape), strides, dtype)
        return x.view(torch.int16).numpy().view(BFLOAT16) if x.dtype == torch.bfloat16 else x.numpy()

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        import torch

        if isinstance(a, gpu.DeviceArray):
            return a.home.owner
        if a.dtype == BFLOAT16:
            return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(a)

    @staticmethod
    def written(x: Any) -> None:
        """Tell autograd, which may have counted on what was there."""
        import torch

        if not x.is_inference():  # such tensors have no version
            torch.autograd.graph.increment_version(x)

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype, home: gpu.Home) -> Any:
        import torch

        return torch.empty(shape, dtype=getattr(torch, name_of(dtype)), device=home.owner.device)

    @staticmethod
    def transposed(x: Any, axes: list[int]) -> Any:
        return x.permute(axes)

    @staticmethod
    def stream(home: gpu.Home) -> tuple[int, bool]:
        import torch

        return torch.cuda.current_stream(home.index).cuda_stream, False


class Jax:
    mutable = False

    @staticmethod
    def device(x: Any) -> str:
        if not hasattr(x, "devices") or type(x).__name__.endswith("Tracer"):
            raise TypeError(
                "this JAX array is being traced; fastsce works on values, so call it outside jit, grad and vmap"
            )
        found = next(iter(x.devices()))
        return f"cuda:{found.local_hardware_id}" if found.platform == "gpu" else found.platform

    @staticmethod
    def view(x: Any) -> np.ndarray:
        place = Jax.device(x)
        if not place.startswith("cuda"):
            return NumPy.view(np.asarray(x))
        if len(x.devices()) > 1:
            raise TypeError("JAX arrays that are spread over several GPUs are not supported; pass each GPU its part")
        x = x.block_until_ready()  # XLA's streams are its own
        home = gpu.Home(Jax, x, int(place.partition(":")[2]))
        return gpu.view(home, x.unsafe_buffer_pointer(), x.shape, None, dtype_of(x.dtype))

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        import jax

        if isinstance(a, gpu.DeviceArray):
            return a.home.owner
        # not jnp.asarray, which compiles a copy for every shape
        return jax.device_put(NumPy.wrap(a, like), next(iter(like.devices())))

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype, home: gpu.Home) -> Any:
        """Memory that nobody else has seen; it is written before the caller sees it.

        Where JAX would narrow the numbers, it is as many bytes.
        """
        import jax.numpy as jnp

        narrow = Jax.narrower(dtype)
        if narrow is not None:
            shape, dtype = (math.prod(shape) * dtype.itemsize // narrow.itemsize,), narrow
        return jnp.empty(shape, name_of(dtype), device=next(iter(home.owner.devices())))

    @staticmethod
    def narrower(dtype: np.dtype) -> np.dtype | None:
        """What JAX holds in the place of 64-bit numbers, unless jax_enable_x64 is set."""
        if dtype.itemsize < 8:
            return None
        import jax

        held = np.dtype(jax.dtypes.canonicalize_dtype(dtype))
        return None if held == dtype else held

    @staticmethod
    def stream(home: gpu.Home) -> tuple[int, bool]:
        return OWN_STREAM, True


class CuPy:
    mutable = True

    @staticmethod
    def device(x: Any) -> str:
        return f"cuda:{x.device.id}"

    @staticmethod
    def view(x: Any) -> np.ndarray:
        home = gpu.Home(CuPy, x, x.device.id)
        return gpu.view(home, x.data.ptr, x.shape, x.strides, dtype_of(x.dtype))

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        return a.home.owner  # type: ignore[attr-defined]

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype, home: gpu.Home) -> Any:
        import cupy

        with cupy.cuda.Device(home.index):
            return cupy.empty(shape, NumPy.named(dtype))

    @staticmethod
    def transposed(x: Any, axes: list[int]) -> Any:
        return x.transpose(axes)

    @staticmethod
    def stream(home: gpu.Home) -> tuple[int, bool]:
        import cupy

        return cupy.cuda.get_current_stream(home.index).ptr, False


class Numba:
    """numba's device arrays, and whatever else speaks `__cuda_array_interface__`, which is answered in them."""

    mutable = True

    @staticmethod
    def device(x: Any) -> str:
        return f"cuda:{Numba.index(x)}"

    @staticmethod
    def index(x: Any) -> int:
        memory = getattr(x, "gpu_data", None)
        if memory is not None:
            return memory.context.device.id
        return gpu.index_of(x.__cuda_array_interface__["data"][0])

    @staticmethod
    def view(x: Any) -> np.ndarray:
        return gpu.by_interface(gpu.Home(Numba, x, Numba.index(x)), x.__cuda_array_interface__)

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        return a.home.owner  # type: ignore[attr-defined]

    @staticmethod
    def empty(shape: tuple[int, ...], dtype: np.dtype, home: gpu.Home) -> Any:
        from numba import cuda

        named, _ = Numba.stream(home)
        with cuda.gpus[home.index]:
            stream = cuda.external_stream(named) if named else 0
            return cuda.device_array(shape, NumPy.named(dtype), stream=stream)

    @staticmethod
    def stream(home: gpu.Home) -> tuple[int, bool]:
        """The array's own stream, else the default one, as for numba's own kernels."""
        return home.owner.__cuda_array_interface__.get("stream") or 0, False


class DLPack:
    """Anything else that speaks DLPack."""

    mutable = True

    @staticmethod
    def device(x: Any) -> str:
        kind, index = map(int, x.__dlpack_device__())
        name = DLPACK_DEVICES.get(kind, f"DLPack device {kind}")
        return f"cuda:{index}" if name == "cuda" else name

    @staticmethod
    def view(x: Any) -> np.ndarray:
        if DLPack.device(x).startswith("cuda"):
            raise TypeError(
                f"this {type(x).__name__} on a GPU has no __cuda_array_interface__; pass it as a CuPy array, "
                "by cupy.from_dlpack"
            )
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"NumPy cannot view this {type(x).__name__} through DLPack: {error}") from error

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        namespace = getattr(like, "__array_namespace__", None)
        return a if namespace is None else namespace().from_dlpack(a)


LIBRARIES: dict[str, Any] = {
    "numpy": NumPy,
    "torch": Torch,
    "jax": Jax,
    "jaxlib": Jax,
    "cupy": CuPy,
    "numba": Numba,
    "numba_cuda": Numba,
    "ml_dtypes": NumPy,
}


def library_of(x: Any) -> Any:
    kind: Any = type(x)
    return library_of_type(kind)


@lru_cache(maxsize=64)
def library_of_type(kind: Any) -> Any:
    for base in kind.__mro__[:-1]:  # it may be a subclass of a known array type
        root = base.__module__.partition(".")[0]
        if root in LIBRARIES:
            return LIBRARIES[root]
    if hasattr(kind, "__cuda_array_interface__"):
        return Numba
    return DLPack if hasattr(kind, "__dlpack_device__") else NumPy


@lru_cache(maxsize=64)
def dtype_of(dtype: Any) -> np.dtype:
    """A library's dtype as a view has it."""
    name = str(dtype).removeprefix("torch.")
    if name == "bfloat16":
        return BFLOAT16
    try:
        found = np.dtype(name)
    except TypeError:
        found = BFLOAT16
    if found.kind == "V":  # NumPy has no such dtype, or has it from ml_dtypes
        raise TypeError(f"arrays of {name} are not supported; convert to float32, float64, float16 or bfloat16")
    return found


def written(out: Any) -> Any:
    """The caller's own array, into whose memory a result was written."""
    if library_of(out) is Torch:
        Torch.written(out)
    return out


def device_of(x: Any) -> str:
    """'cpu', 'cuda:0', or the name of another device."""
    return library_of(x).device(x)


def view_of(x: Any) -> np.ndarray:
    """The array's own memory, as a NumPy array."""
    return library_of(x).view(x)
