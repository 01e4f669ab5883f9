"""Array libraries: where an array lives, a NumPy view of its memory, and the way back. Nothing here copies an array.

A library is a class of four static functions; `library_of` picks it by the module that defines the array's type,
so no library is imported that the caller has not imported. bfloat16 is `spec.BFLOAT16` in every view.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastsce.spec import BFLOAT16

DLPACK_DEVICES = {1: "cpu", 2: "cuda", 3: "cuda-pinned", 10: "rocm", 13: "cuda-managed"}


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
            raise TypeError("masked arrays are not supported; put -inf into masked logits and pass the plain array")
        return a.view(BFLOAT16) if a.dtype.kind == "V" and a.dtype.name == "bfloat16" else a

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        if a.dtype == BFLOAT16:
            import ml_dtypes

            a = a.view(ml_dtypes.bfloat16)
        return a if a.ndim else a[()]


class Torch:
    mutable = True

    @staticmethod
    def device(x: Any) -> str:
        return x.device.type

    @staticmethod
    def view(x: Any) -> np.ndarray:
        import torch

        x = x.detach()
        if x.layout is not torch.strided:
            raise TypeError(f"tensors of layout {x.layout} are not supported; call .to_dense()")
        return x.view(torch.int16).numpy().view(BFLOAT16) if x.dtype == torch.bfloat16 else x.numpy()

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        import torch

        if a.dtype == BFLOAT16:
            return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16)
        return torch.from_numpy(a)


class Jax:
    mutable = False

    @staticmethod
    def device(x: Any) -> str:
        if not hasattr(x, "devices") or type(x).__name__.endswith("Tracer"):
            raise TypeError(
                "this JAX array is being traced; fastsce works on values, so call it outside jit, grad and vmap"
            )
        platform = next(iter(x.devices())).platform
        return "cuda" if platform == "gpu" else platform

    @staticmethod
    def view(x: Any) -> np.ndarray:
        return NumPy.view(np.asarray(x))

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(NumPy.wrap(a, like))


class DLPack:
    """Anything else that speaks DLPack."""

    mutable = True

    @staticmethod
    def device(x: Any) -> str:
        kind = int(x.__dlpack_device__()[0])
        return DLPACK_DEVICES.get(kind, f"DLPack device {kind}")

    @staticmethod
    def view(x: Any) -> np.ndarray:
        try:
            return np.from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:
            raise TypeError(f"NumPy cannot view this {type(x).__name__} through DLPack: {error}") from error

    @staticmethod
    def wrap(a: np.ndarray, like: Any) -> Any:
        namespace = getattr(like, "__array_namespace__", None)
        return a if namespace is None else namespace().from_dlpack(a)


LIBRARIES: dict[str, Any] = {"numpy": NumPy, "torch": Torch, "jax": Jax, "jaxlib": Jax, "ml_dtypes": NumPy}


def library_of(x: Any) -> Any:
    kind: Any = type(x)
    return library_of_type(kind)


@lru_cache(maxsize=64)
def library_of_type(kind: Any) -> Any:
    for base in kind.__mro__[:-1]:  # it may be a subclass of a known array type
        root = base.__module__.partition(".")[0]
        if root in LIBRARIES:
            return LIBRARIES[root]
    return DLPack if hasattr(kind, "__dlpack_device__") else NumPy


def device_of(x: Any) -> str:
    """'cpu', 'cuda', or the name of another device."""
    return library_of(x).device(x)


def view_of(x: Any) -> np.ndarray:
    """The array's own memory, as a NumPy array."""
    return library_of(x).view(x)


def float64(a: np.ndarray) -> np.ndarray:
    """A float64 copy of a view's values; a bfloat16 is the upper half of a float32."""
    if a.dtype == BFLOAT16:
        a = (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return a.astype(np.float64)


def identity(n: int, dtype: Any) -> np.ndarray:
    """The n × n identity matrix, in any dtype a view can have."""
    if dtype != BFLOAT16:
        return np.eye(n, dtype=dtype)
    return (np.eye(n, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)
