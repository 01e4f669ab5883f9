"""Which backend serves which device. A backend is imported when first asked for, and never replaced by another."""

from __future__ import annotations

import importlib
import importlib.util
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

from fastsce import arrays, interrupts
from fastsce import forks as forks  # from the beginning, to see all of them


class Backend(NamedTuple):
    device: str
    module: str
    needs: str  # the importable module it is built on
    install: str


BACKENDS = {
    "cpu": Backend("cpu", "fastsce.backends.cpu", "numba", "pip install numba"),
    "reference": Backend("cpu", "fastsce.backends.reference", "numpy", "pip install numpy"),
    "cuda": Backend("cuda", "fastsce.backends.cuda", "numba_cuda", "pip install 'fastsce[cuda13]' (or cuda12)"),
}
DEFAULT = {"cpu": "cpu", "cuda": "cuda"}


def backend_for(array: Any) -> str:
    """Name the backend that serves an array's device.

    Parameters
    ----------
    array : array
        An array of any supported library, on any device.

    Returns
    -------
    str
        "cpu" or "cuda".

    Raises
    ------
    RuntimeError
        If no backend serves the device, or the one that does is not available here; the message says why.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> fastsce.backend_for(np.zeros((2, 3)))
    'cpu'
    """
    name = choose(arrays.device_of(array), None)
    reason = why_missing(name)
    if reason:
        raise RuntimeError(reason)
    return name


def choose(device: str, name: str | None) -> str:
    """The backend's name: the one asked for, if it serves the device, else the device's own."""
    kind = device.partition(":")[0]  # without the number of a GPU
    if name is None:
        if kind not in DEFAULT:
            raise RuntimeError(f"no backend serves arrays on {device!r}; move them to one of: {', '.join(DEFAULT)}")
        return DEFAULT[kind]
    if name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {', '.join(map(repr, BACKENDS))}, got {name!r}")
    if BACKENDS[name].device != kind:
        raise TypeError(f"backend {name!r} works on {BACKENDS[name].device} arrays, but the logits are on {device}")
    return name


def why_missing(name: str) -> str | None:
    """None if the backend can be used, else why not and what to do."""
    backend = BACKENDS[name]
    if importlib.util.find_spec(backend.needs) is None:
        return f"backend {name!r} needs {backend.needs}, which is not installed: {backend.install}"
    return None


def load(name: str) -> ModuleType:
    """The backend's module."""
    try:
        return imported(BACKENDS[name].module)
    except ImportError as error:  # an error of its own, so that nobody takes it for a missing fastsce
        raise RuntimeError(why_missing(name) or f"backend {name!r} cannot be imported: {error}") from error


@cache
def imported(module: str) -> ModuleType:
    with interrupts.held():
        return importlib.import_module(module)
