"""Interleaved times and peak memory of contestants."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from bench import providers
from bench.batches import Check, batch
from bench.goals import PLAIN, judge

PAUSE = 0.01  # seconds: threads of the one before may still be spinning


def measure(case, rounds: int, with_peers: bool) -> dict:
    """One case, each result checked before it is timed."""
    given = batch(case)
    runners = checked(given, with_peers)
    times = interleave(runners, rounds, case.repeat)
    memory = {name: peak(run) for name, run in runners.items()}
    return result(str(case), times, case.goals, memory)


def result(title: str, times: dict[str, list[float]], goals, memory=None) -> dict:
    found = {name: dict(zip(("low", "median", "high"), quartiles(t), strict=True)) for name, t in times.items()}
    judged = judge(goals, {name: f["median"] for name, f in found.items()})
    return {"title": title, "seconds": found, "goals": judged, "peak": memory or {}}


def quartiles(times: list[float]) -> list[float]:
    return statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3


def checked(given, with_peers: bool) -> dict:
    """The contestants by name, compiled and found right."""
    check, runners = Check(given), {}
    for name in providers.available(given.case, with_peers):
        its = providers.given_to(name, given)
        runners[name] = run = providers.PROVIDERS[name][0](its)
        if name not in providers.ROOFS:
            (Check(its) if name == PLAIN else check)(name, *run())
        run()
    return runners


def interleave(runners: dict, rounds: int, repeat: int = 1) -> dict[str, list[float]]:
    """Seconds a call. All take turns, so that a slow minute hits all; in a new order each round, for each finds the
    caches as the one before left them.
    """
    order, shuffle = list(runners), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            run = runners[name]
            time.sleep(PAUSE)
            began = time.perf_counter()
            for _ in range(repeat):
                run()
            times[name].append((time.perf_counter() - began) / repeat)
    return times


def peak(run) -> int | None:
    """Bytes of memory in use during a call beyond what was in use before it; Linux only."""
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")
    except OSError:
        return None
    before = status("VmRSS")
    result = run()
    used = status("VmHWM") - before
    del result
    return max(used, 0)


def status(key: str) -> int:
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(key))
    return int(line.split()[1]) * 1024
