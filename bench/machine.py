"""The machine, what is installed on it, and the commit, as a result has them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re

from llvmlite import binding

from bench import caches, memory
from bench.gpu.machine import commit  # noqa: F401  in one place with the others
from fastsce.system import cpu_name

PACKAGES = ("numpy", "numba", "torch", "jax", "optax", "scikit-learn")
SAME = ("cpu", "model", "threads")  # what must agree for two runs to be of one machine


def describe(cpus: list[int]) -> dict:
    return {
        "cpu": cpu_name(),
        "model": binding.get_host_cpu_name(),  # tells generations apart where the name does not
        "threads": len(cpus),
        "cpus": cpus,
        "last-level cache": caches.last_level(),
        "memory": memory.total(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,  # of others, before we began
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    from fastsce import __version__

    found = {"fastsce": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def slug(machine: dict) -> str:
    """A machine's name as a part of a file's."""
    words = re.sub(r"\([^)]*\)|processor|cpu|@.*", " ", machine["cpu"].lower())
    return "-".join([*re.findall(r"[a-z0-9]+", words), str(machine["threads"]), "threads"])
