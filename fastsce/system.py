"""What is installed here and what it can do; and compiling ahead of the first call."""

from __future__ import annotations

import operator
import platform
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastsce import dispatch
from fastsce.api import (
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_grad_and_hess,
    cross_entropy_value_and_grad,
)
from fastsce.binary import binary_cross_entropy_grad_and_hess, binary_cross_entropy_value_and_grad
from fastsce.probabilities import log_softmax, softmax, softmax_vjp

PACKAGES = ("fastsce", "numpy", "numba", "llvmlite", "numba-cuda", "torch", "jax", "cupy", "ml_dtypes")
FEATURES = ("avx2", "fma", "f16c", "avx512f", "neon")  # the vector instructions that decide how fast a kernel can be
NO_CACHE = "none: no writable place was found, so every process compiles anew; set NUMBA_CACHE_DIR to one"
DTYPES = ("float32", "float64", "float16", "bfloat16")


def show_versions() -> None:
    """Print what a bug report should say: versions, CPU, threads, cache and backends.

    Examples
    --------
    >>> import fastsce
    >>> fastsce.show_versions()  # doctest: +ELLIPSIS
    fastsce ...
    """
    for name in PACKAGES:
        print(f"{name:10} {installed(name)}")
    print(f"{'Python':10} {platform.python_version()} ({platform.python_implementation()})")
    print(f"{'system':10} {platform.platform()}")
    missing = {name: dispatch.why_missing(name) for name in dispatch.BACKENDS}
    if missing["cpu"] is None:
        describe_cpu()
    if missing["cuda"] is None:
        missing["cuda"] = describe_gpus()
    for name, reason in missing.items():
        print(f"backend    {name}: {reason or 'ready, for arrays on the ' + dispatch.BACKENDS[name].device}")


def installed(package: str) -> str:
    """The version, without importing the package."""
    from importlib import metadata  # here, for it would be a quarter of the time that `import fastsce` takes

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        if package == "fastsce":  # run from a checkout that was never installed
            from fastsce import __version__

            return __version__
        return "not installed"


def describe_cpu() -> None:
    """Print the CPU, its vector instructions, and the threads and cache of the cpu backend."""
    from llvmlite import binding

    cpu = dispatch.load("cpu")
    found = binding.get_host_cpu_features()
    has = [name for name in FEATURES if found.get(name)]
    lacks = [name for name in FEATURES if not found.get(name)]
    print(f"{'CPU':10} {cpu_name()} ({binding.get_host_cpu_name()})")
    print(f"{'vectors':10} {' '.join(has) or 'none known'} (not: {' '.join(lacks) or 'none'})")
    print(f"{'threads':10} {cpu.thread_count()}, threading layer {cpu.threading_layer()}")
    print(f"{'cache':10} {cpu.cache_directory() or NO_CACHE}")


def cpu_name() -> str:
    """The name its maker gave it, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def describe_gpus() -> str | None:
    """Print the GPUs; why there is none, if so."""
    try:
        gpus = dispatch.load("cuda").gpus()
    except RuntimeError as error:
        return str(error)
    for number, gpu in enumerate(gpus):
        print(f"{'GPU ' + str(number):10} {gpu}")
    return None


def warmup(
    dtypes: Iterable[str] = ("float32",),
    *,
    classes: Iterable[int] = (),
    backend: str | None = None,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Compile the kernels into the cache, by small calls of the public functions, so that no later call waits for them.

    Of few classes (up to 16, 8 of float64, and half as many without AVX-512) calls with labels, softmax and logsumexp
    have kernels for each number of them, on whatever axis they are: of loss, gradient and Hessian without options, and
    of the gradient with a softcap, with any other options, and with both, each of which takes a second or two. Of these
    only those named are compiled, and those with a softcap and other options when they are called.

    Parameters
    ----------
    dtypes : iterable of str
        Of the logits to come: "float32", "float64", "float16", "bfloat16" (this one needs ml_dtypes).
    classes : iterable of int
        Numbers of classes to come, if they are few; others need not be named.
    backend : {None, "cpu", "reference"}
        None is the CPU's own.
    progress : callable, optional
        Is told in a line what is compiled next.

    Raises
    ------
    ValueError
        For a dtype that fastsce does not know, or a number of classes below 1.
    TypeError
        For a number of classes that is no integer.
    ImportError
        For "bfloat16" without ml_dtypes.
    RuntimeError
        If the backend is not available.

    Examples
    --------
    >>> import fastsce
    >>> fastsce.warmup(("float32", "float64"), classes=[10], backend="reference")
    """
    given, counts = (dtypes,) if isinstance(dtypes, str) else tuple(dtypes), tuple(map(operator.index, classes))
    for name in given:
        if name not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(map(repr, DTYPES))}, got {name!r}")
    for count in counts:
        if count < 1:
            raise ValueError(f"classes must be at least 1, got {count}")
    for name in given:
        for what, call in calls(numpy_dtype(name), counts, backend):
            if progress is not None:
                progress(f"{name}: {what}")
            call()


def numpy_dtype(name: str) -> np.dtype:
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def calls(dtype: np.dtype, classes: Iterable[int], backend: str | None) -> Iterable[tuple[str, Callable[[], object]]]:
    """What to call, and what to say about it: every variant of the inner loop, in every layout."""
    layouts = {"many classes": ((16, 4096), -1), "short rows": ((32768, 17), -1), "class axis first": ((64, 1024), 0)}
    for layout, (shape, axis) in layouts.items():
        x = np.zeros(shape, dtype)
        labels = np.zeros(x.size // shape[axis], np.int64)
        on: dict[str, Any] = {"axis": axis, "backend": backend}
        targets = {"labels": labels, "probabilities": x}
        if dtype.itemsize == 2:
            targets["float32 probabilities"] = x.astype(np.float32)
        for kind, target in targets.items():
            for softcap in (None, 30.0):
                form = f"{layout}, {kind}{', softcap' if softcap else ''}"
                yield form, partial(loss_and_gradient, x, target, softcap=softcap, **on)
            yield f"{layout}, {kind}, Hessian", partial(cross_entropy_grad_and_hess, x, target, **on)
        yield f"{layout}, softmax", partial(softmax, x, **on)
        yield f"{layout}, log_softmax", partial(log_softmax, x, **on)
        yield f"{layout}, softmax_vjp", partial(softmax_vjp, x, x, **on)
    for name, smoothing in (("", 0.0), (", smoothing", 0.1)):
        first = partial(loss_and_gradient, np.zeros((512, 64), dtype), labels[:64], label_smoothing=smoothing)
        yield f"many classes first, labels{name}", partial(first, **on)
    weight, shares = {"weight": np.ones(shape[axis])}, np.ones(labels.size)
    yield "weight", partial(loss_and_gradient, x, labels, **weight, **on)
    for precision in ("float64", "float32"):
        given = {"sample_weight": shares.astype(precision)}
        yield f"{precision} sample_weight", partial(loss_and_gradient, x, labels, **given, **on)
        yield f"{precision} sample_weight, weight", partial(loss_and_gradient, x, labels, **given, **weight, **on)
    yield "losses", partial(cross_entropy, x, labels, reduction="none", sample_weight=shares, **on)
    many = np.zeros((32768, 17), dtype)
    for integer in ("int32", "uint8"):
        yield f"{integer} labels", partial(cross_entropy, many, np.zeros(len(many), integer), backend=backend)
    for count in classes:
        few = np.zeros((64, count), dtype), labels[:64]
        yield f"classes: {count}", partial(loss_and_gradient, *few, backend=backend)
        yield f"classes: {count}, options", partial(loss_and_gradient, *few, label_smoothing=0.1, backend=backend)
        yield f"classes: {count}, softcap", partial(loss_and_gradient, *few, softcap=30.0, backend=backend)
        yield f"classes: {count}, Hessian", partial(cross_entropy_grad_and_hess, *few, backend=backend)
    short = partial(
        loss_and_gradient, np.zeros((4, 17), dtype), labels[:4], backend=None if backend == "cpu" else backend
    )
    several: tuple[dict[str, Any], ...] = {}, {"weight": np.ones(17)}, {"softcap": 30.0}
    for options in (*several, several[1] | several[2]):
        yield ", ".join(["few rows", *options]), partial(short, **options)  # which go the short way if none is named
    flat = np.zeros(4096, dtype)
    yield "binary", partial(binary_cross_entropy_value_and_grad, flat, flat, backend=backend)
    yield "binary, Hessian", partial(binary_cross_entropy_grad_and_hess, flat, flat, backend=backend)


def loss_and_gradient(x: np.ndarray, target: np.ndarray, **options: Any) -> None:
    """The loss alone, loss and gradient, and the gradient alone."""
    cross_entropy(x, target, **options)
    _, grad, lse = cross_entropy_value_and_grad(x, target, **options)
    cross_entropy_backward(x, target, lse, out=grad, **options)
