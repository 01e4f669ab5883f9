"""Interleaved times and peak memory of contestants."""

from __future__ import annotations

import random
import statistics
import time
from pathlib import Path

from bench import cases, providers
from bench.batches import Check, batch
from bench.goals import COPY, OURS, PLAIN, Steady, judge

PAUSE = 0.01  # seconds: threads of the one before may still be spinning


def each(cases):
    """A group whose cases are measured one after the other."""
    return lambda rounds, with_peers: (measure(case, rounds, with_peers) for case in cases())


def measure(case, rounds: int, with_peers: bool) -> dict:
    """One case, each result checked before it is timed."""
    given = batch(case)
    runners = checked(given, providers.available(case, with_peers))
    times = interleave(runners, rounds, case.repeat)
    memory = {name: peak(run) for name, run in runners.items()}
    return result(case.name, str(case), times, case.goals, memory)


def sweep(rounds: int, with_peers: bool):
    """One number of classes against the next: all batches take turns, writing into one buffer."""
    runners, out = {}, None
    for case in cases.sweep():
        given = batch(case)
        out = given.out.reshape(-1) if out is None else out
        given = given._replace(out=out[: given.out.size].reshape(case.shape))
        runners[case.name] = checked(given, [OURS])[OURS]
    names = list(runners)
    goals = [Steady(0.8, name, (*names[max(i - 1, 0) : i], *names[i + 1 : i + 2])) for i, name in enumerate(names)]
    runners[COPY] = providers.PROVIDERS[COPY][0](given)
    yield result("sweep", "float32, 64 MiB of logits", interleave(runners, rounds), goals)


def result(name: str, batch: str, times: dict[str, list[float]], goals, memory=None) -> dict:
    found = {who: dict(zip(("low", "median", "high"), quartiles(t), strict=True)) for who, t in times.items()}
    judged = judge(goals, {who: f["median"] for who, f in found.items()})
    return {"name": name, "batch": batch, "seconds": found, "goals": judged, "peak": memory or {}}


def quartiles(times: list[float]) -> list[float]:
    return statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3


def checked(given, names) -> dict:
    """The contestants by name, compiled and found right."""
    check, runners = Check(given), {}
    for name in names:
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
