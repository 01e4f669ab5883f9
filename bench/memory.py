"""Memory of the machine and of a call; Linux only, unknown elsewhere."""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path

LONG_REST = 0.2  # seconds; XLA gives the results of a call back some time after they are dropped


def available() -> int | None:
    """Bytes that can be had now without swapping."""
    return field(Path("/proc/meminfo"), "MemAvailable")


def total() -> int | None:
    return field(Path("/proc/meminfo"), "MemTotal")


def peak(run: Callable[[], object], rest: float = 0) -> int | None:
    """Bytes in use at the worst moment of a call, beyond what was in use before it, after so many seconds of rest."""
    gc.collect()
    time.sleep(rest)
    trim()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forget the highest so far
    except OSError:
        return None
    before = status("VmRSS")
    result = run()
    used = status("VmHWM") - before
    del result
    return max(used, 0)


def trim() -> None:
    """Ask the C library to give back what calls before have left with it: it would hide what this one needs."""
    give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if give_back is not None:
        give_back(0)


def status(key: str) -> int:
    return field(Path("/proc/self/status"), key) or 0


def field(file: Path, key: str) -> int | None:
    lines = file.read_text().splitlines() if file.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)
