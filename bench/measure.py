"""Measures cases: the truth, then each contestant prepared and checked, then turns in a new order every round.

A turn empties the caches first, outside the clock; the first call is cold, the one right after it warm. Short calls are
timed many at a time and are warm only.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from bench import noise
from bench.batches import Batch, batch
from bench.caches import Flusher
from bench.case import Case
from bench.crew import Crew
from bench.goals import NUMPY, PLAIN, judge
from bench.providers import PROVIDERS
from bench.rates import rates
from bench.shared import Arena
from bench.truth import Truth, truth_of
from bench.worker import Failed, Prepared

PAUSE = 0.01  # seconds before a turn: threads of the one before may still be spinning
BEHIND = 2  # times the fastest peer's time, after the rounds that all take part in
COLD, WARM = "cold", "warm"


class Effort(NamedTuple):
    """How often is measured: a few rounds with everyone, then so many seconds more, up to so many rounds in all."""

    seconds: float = 20
    least: int = 5
    most: int = 31

    def rounds(self, one: float) -> int:
        """In all, if each of the further ones takes so much."""
        return min(self.most, self.least + int(self.seconds / one))


class Entrant(NamedTuple):
    """Who takes part in a case under which name, and on which batch."""

    label: str
    provider: str
    given: Batch
    truth: Truth


Progress = Callable[[str, int, int], None]  # who has a turn, round, of how many


class Bench:
    """Worker processes and empty caches for all cases of a run."""

    def __init__(self, cpus: list[int]):
        self.crew, self.flush, self.arena = Crew(cpus), Flusher(cpus), Arena()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.crew.__exit__()
        self.flush.close()
        self.arena.close()

    def measure(self, case: Case, effort: Effort, progress: Progress) -> dict:
        """One case as it goes into a result."""
        progress("its batch, and the truth in float64", 0, 0)
        return self.contest(case, entered(case, batch(case, self.empty())), effort, progress)

    def empty(self) -> Callable:
        """Makes arrays that all processes see, after giving back those of the case before."""
        self.arena.close()
        return self.arena.empty

    def contest(self, case: Case, entrants: list[Entrant], effort: Effort, progress: Progress) -> dict:
        found = {e.label: self.prepare(case, e, progress) for e in entrants}
        fit = [e for e in entrants if isinstance(found[e.label], Prepared)]
        times = self.rounds(case, fit, effort, progress, found)
        self.crew.drop()
        return result(case, entrants, found, times)

    def prepare(self, case: Case, entrant: Entrant, progress: Progress) -> Prepared | Failed:
        progress(f"{entrant.label}: prepared and checked", 0, 0)
        worker = self.crew.of(entrant.provider, case.environment)
        return worker.ask("prepare", entrant.label, entrant.provider, entrant.given.sent(self.arena), entrant.truth)

    def rounds(self, case: Case, fit: list[Entrant], effort: Effort, progress: Progress, found: dict) -> dict:
        """Seconds of all turns, by label and by the state of the caches. Who fails is told in `found`, and is out."""
        times: dict[str, dict[str, list[float]]] = {e.label: {COLD: [], WARM: []} for e in fit}
        shuffle, planned, done, lasted = random.Random(0).shuffle, effort.least, 0, {}
        while fit and done < planned:
            shuffle(fit)
            for entrant in list(fit):
                progress(entrant.label, done + 1, planned)
                began = time.perf_counter()
                taken = self.turn(case, entrant)
                lasted[entrant.label] = time.perf_counter() - began
                if isinstance(taken, Failed):
                    found[entrant.label] = taken
                    fit.remove(entrant)
                    continue
                for state, seconds in zip((COLD, WARM), taken):
                    if seconds is not None:
                        times[entrant.label][state].append(seconds)
            done += 1
            if fit and done == effort.least:
                fit = in_contention(fit, times)
                planned = effort.rounds(sum(lasted[e.label] for e in fit))
        return times

    def turn(self, case: Case, entrant: Entrant) -> tuple | Failed:
        worker = self.crew.of(entrant.provider, case.environment)
        ready = worker.ask("ready", entrant.label)
        if isinstance(ready, Failed):
            return ready
        if case.repeat == 1:
            self.flush()
        time.sleep(PAUSE)
        return worker.ask("turn", entrant.label, case.repeat)


def in_contention(fit: list[Entrant], times: dict) -> list[Entrant]:
    """All but the peers that are far behind the fastest one: more of their turns would tell nobody anything."""
    peers = [e for e in fit if PROVIDERS[e.provider].is_peer and e.provider != NUMPY]  # which is a yardstick
    behind = {e.label for e in peers}
    for state in (COLD, WARM):
        medians = {e.label: statistics.median(times[e.label][state]) for e in peers if times[e.label][state]}
        best = min(medians.values(), default=0.0)
        behind -= {label for label, median in medians.items() if median <= BEHIND * best}
    return [e for e in fit if e.label not in behind]


def entered(case: Case, given: Batch) -> list[Entrant]:
    """The case's contestants; the one without options has a batch and a truth of its own."""
    truth = truth_of(given)
    plain = given.without_options() if PLAIN in case.contestants else given
    of_plain = truth_of(plain) if PLAIN in case.contestants else truth
    return [Entrant(n, n, plain, of_plain) if n == PLAIN else Entrant(n, n, given, truth) for n in case.contestants]


def result(case: Case, entrants: list[Entrant], found: dict, times: dict) -> dict:
    contestants = {e.label: row(e, found[e.label], times.get(e.label)) for e in entrants}
    rates(contestants)
    medians = {label: line[WARM]["median"] for label, line in contestants.items() if WARM in line}
    return {
        "name": case.name,
        "group": case.group,
        "about": case.about,
        "batch": str(case),
        "shape": case.shape,
        "classes": case.classes,
        "dtype": case.dtype,
        "logits": case.bytes,
        "computes": case.computes,
        "repeat": case.repeat,
        "cut": f"{case.rows:,} of {case.asked:,} rows, for they fit the memory" if case.asked else "",
        "rounds": max((len(t[WARM]) for t in times.values()), default=0),
        "same code": {state: noise.same_code(contestants, state) for state in (COLD, WARM)},
        "contestants": contestants,
        "goals": judge(case.goals, medians),
    }


def row(entrant: Entrant, prepared: Prepared | Failed, times: dict | None) -> dict:
    """A contestant of a case: bytes, errors, memory and times; or why there is none of them."""
    provider, case = PROVIDERS[entrant.provider], entrant.given.case
    line = {"provider": entrant.provider, "bytes": provider.moved(case), "formula": provider.formula(case)}
    if isinstance(prepared, Failed):
        return line | {"failed": prepared.reason, "wrong": prepared.wrong}
    errors = prepared.errors._asdict() if prepared.errors else {}
    states = {state: noise.spread(seconds) for state, seconds in times.items() if seconds}
    return line | {"errors": errors, "peak": prepared.peak} | states
