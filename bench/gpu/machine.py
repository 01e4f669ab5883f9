"""The machine and what is installed on it, as a result has them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("numpy", "numba", "numba-cuda", "cuda-core", "torch", "triton", "jax", "liger-kernel")
CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")


def why_not() -> str | None:
    """None if there is a GPU that torch can use."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed, which this benchmark times with and against"
    import torch

    return None if torch.cuda.is_available() else "there is no CUDA GPU here that torch can use"


def describe() -> dict:
    import torch

    found = torch.cuda.get_device_properties(0)
    return {
        "gpu": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory": found.total_memory,
        "L2": getattr(found, "L2_cache_size", None),
        "driver": output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"),
        "cuda": torch.version.cuda,
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in (*PACKAGES, *CUPY):
        try:
            found[name.partition("-cuda1")[0]] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    return output("git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12")


def output(*command: str) -> str | None:
    """The first line that a program prints, None if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0].strip() if done.returncode == 0 and lines else None


def slug(gpu: str) -> str:
    """A GPU's name as a part of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-").removeprefix("nvidia-")
