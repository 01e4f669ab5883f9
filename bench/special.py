"""Two cases that are no contest: one number of classes after the other, and what a new process waits for."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

from bench import goal_cases, noise
from bench.batches import batch
from bench.case import Case
from bench.goals import COPY, OURS, Steady, Within, judge
from bench.measure import WARM, Bench, Effort, Entrant, Progress
from bench.truth import truth_of

STARTS = 5  # at most, each some seconds long
IMPORT, CACHED, UNCACHED = "import, after NumPy", "first call, kernels cached", "first call, nothing cached"
START = """
import time, numpy
logits, target = numpy.zeros((64, 1000), numpy.float32), numpy.zeros(64, int)
began = time.perf_counter()
import fastsce
imported = time.perf_counter()
fastsce.cross_entropy_value_and_grad(logits, target)
print(imported - began, time.perf_counter() - imported)
"""


def sweep(bench: Bench, case: Case, effort: Effort, progress: Progress) -> dict:
    """All batches take turns, writing into one buffer; each is held against its neighbours."""
    empty = bench.empty()
    out = empty((case.rows * case.classes,), case.dtype)  # no batch has more numbers
    entrants = []
    for classes in goal_cases.SWEEP:
        progress(f"C = {classes}: its batch, and the truth", 0, 0)
        its = case._replace(shape=goal_cases.shaped(classes, case.bytes))
        given = batch(its, empty, out[: its.rows * classes].reshape(its.shape))
        entrants.append(Entrant(f"C = {classes}", OURS, given, truth_of(given)))
    names = [e.label for e in entrants]
    neighbours = [(*names[max(i - 1, 0) : i], *names[i + 1 : i + 2]) for i in range(len(names))]
    goals = tuple(Steady(0.8, name, beside) for name, beside in zip(names, neighbours))
    entrants.append(entrants[-1]._replace(label=COPY, provider=COPY))
    return bench.contest(case._replace(goals=goals), entrants, effort, progress)


def start(bench: Bench, case: Case, effort: Effort, progress: Progress) -> dict:
    times: dict[str, list[float]] = {IMPORT: [], CACHED: [], UNCACHED: []}
    rounds = min(effort.most, STARTS)
    run({})  # leaves Python's own compiled files
    for done in range(rounds):
        progress("a new process", done + 1, rounds)
        with tempfile.TemporaryDirectory() as cache:
            for first_call in (UNCACHED, CACHED):
                imported, called = run({"NUMBA_CACHE_DIR": cache})
                times[IMPORT].append(imported)
                times[first_call].append(called)
    found = {label: {"provider": OURS, WARM: noise.spread(seconds)} for label, seconds in times.items()}
    medians = {label: line[WARM]["median"] for label, line in found.items()}
    goals = (Within(0.15, IMPORT), Within(1, CACHED), Within(6, UNCACHED))
    return {
        "name": case.name,
        "group": case.group,
        "batch": str(case),
        "rounds": rounds,
        "contestants": found,
        "goals": judge(goals, medians),
    }


def run(environment: dict[str, str]) -> list[float]:
    command = [sys.executable, "-c", START]
    done = subprocess.run(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True)
    return [float(number) for number in done.stdout.split()]


SPECIAL = {"sweep": sweep, "start": start}
