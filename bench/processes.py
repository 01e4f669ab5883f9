"""What takes a new process: starting, and machine code for other instruction sets."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from typing import NamedTuple

from bench import providers
from bench.goals import EAGER, Faster, Goal, Within, judge
from bench.measure import each, result

STARTS = 5  # at most, each some seconds long
IMPORT, WARM, COLD = "import, after NumPy", "first call, kernels cached", "first call, nothing cached"
START = """
import time, numpy
logits, target = numpy.zeros((64, 1000), numpy.float32), numpy.zeros(64, int)
began = time.perf_counter()
import fastsce
imported = time.perf_counter()
fastsce.cross_entropy_value_and_grad(logits, target)
print(imported - began, time.perf_counter() - imported)
"""


def start(rounds: int, with_peers: bool):
    times: dict[str, list[float]] = {IMPORT: [], WARM: [], COLD: []}
    run(START)  # leaves Python's own compiled files
    for _ in range(min(rounds, STARTS)):
        with tempfile.TemporaryDirectory() as cache:
            for first_call in (COLD, WARM):
                imported, called = map(float, run(START, NUMBA_CACHE_DIR=cache).split())
                times[IMPORT].append(imported)
                times[first_call].append(called)
    goals = (Within(0.15, IMPORT), Within(1, WARM), Within(6, COLD))
    yield result("start", "64 x 1000 float32", times, goals)


class Target(NamedTuple):
    name: str
    environment: dict[str, str]
    goals: tuple[Goal, ...] = ()


AVX2 = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}  # a name alone leaves the features of this CPU
TARGETS = [
    Target("AVX2", AVX2, (Faster(3, (EAGER,)),)),
    Target("AVX2, torch too", {**AVX2, "ATEN_CPU_CAPABILITY": "avx2"}, (Faster(3, (EAGER,)),)),
    Target("baseline x86-64", {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}),
]


def targets(rounds: int, with_peers: bool):
    """Wide rows for lesser CPUs of this kind; numba's cache keeps their kernels apart by itself."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return
    call = f"from bench.processes import here; here({rounds}, {with_peers})"
    for target in TARGETS:
        for found in json.loads(run(call, **target.environment).splitlines()[-1]):
            medians = {name: f["median"] for name, f in found["seconds"].items()}
            yield {**found, "name": f"{target.name}, {found['name']}", "goals": judge(target.goals, medians)}


def here(rounds: int, with_peers: bool) -> None:
    providers.pin_threads()
    from bench import cases

    print(json.dumps(list(each(cases.targets)(rounds, with_peers))))


def run(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
