"""Empty caches: a buffer that no cache holds is rewritten, by one thread on each CPU."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench import threads
from bench.case import MIB

LEAST, MOST = 64 * MIB, 1024 * MIB
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


def last_level() -> int:
    """Bytes of the largest cache of the first CPU; 0 if the system does not tell."""
    files = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    found = [re.fullmatch(r"(\d+)([KMG]?)", file.read_text().strip()) for file in files]
    return max((int(size[1]) * UNITS[size[2]] for size in found if size), default=0)


def last_levels(cpus: list[int]) -> int:
    """How many caches of the last level these CPUs have between them; 1 if the system does not tell."""
    files = [Path(f"/sys/devices/system/cpu/cpu{cpu}/cache/index3/shared_cpu_list") for cpu in cpus]
    return len({file.read_text() for file in files if file.exists()}) or 1


class Flusher:
    """Its threads stay on a CPU each, so that the caches of all are emptied, not only those of one."""

    def __init__(self, cpus: list[int]):
        self.size = min(max(2 * last_level(), LEAST), MOST) * last_levels(cpus)
        buffer = np.zeros(self.size // 8, np.uint64)
        self.parts = list(zip(cpus, np.array_split(buffer, len(cpus))))
        self.pools = [ThreadPoolExecutor(1, initializer=threads.pin, initargs=([cpu],)) for cpu, _ in self.parts]

    def __call__(self) -> None:
        done = [pool.submit(rewrite, part) for pool, (_, part) in zip(self.pools, self.parts)]
        for each in done:
            each.result()

    def close(self) -> None:
        for pool in self.pools:
            pool.shutdown()


def rewrite(part: np.ndarray) -> None:
    np.add(part, 1, out=part)  # NumPy lets other threads run meanwhile
