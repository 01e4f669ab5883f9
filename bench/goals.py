"""What a case is to reach. A goal is judged by the medians of one run, never by times of another."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import NamedTuple

OURS, FRESH, IN_PLACE = "fastsce, out=", "fastsce, fresh", "fastsce, in place"
AGAIN = "fastsce, out= again"  # the same once more: what differs between the two is noise
LOSS, PLAIN = "fastsce, loss only", "fastsce, no options"
COPY, STREAM, READ, COPY_BOTH = "copy", "stream copy", "read", "copy, reading targets too"
BARE = "bare loop"
EAGER, COMPILED, JAX, OPTAX = "torch eager", "torch.compile", "JAX jit", "optax jit"
SKLEARN, NUMPY = "scikit-learn", "NumPy"
TORCH = (EAGER, COMPILED)
PEERS = (*TORCH, JAX, SKLEARN)  # of the goals


class AtMost(NamedTuple):
    """So many times the time of another contestant."""

    limit: float
    of: str
    who: str = OURS

    def __str__(self) -> str:
        return f"<= {self.limit:g} x {self.of}"

    def measured(self, medians: dict[str, float]) -> float | None:
        return medians[self.who] / medians[self.of] if {self.who, self.of} <= medians.keys() else None

    def met(self, ratio: float) -> bool:
        return ratio <= self.limit

    def figure(self, ratio: float) -> str:
        return f"{ratio:.2f}"


class Faster(NamedTuple):
    """At least so many times as fast as the fastest of some peers."""

    limit: float
    than: tuple[str, ...] = PEERS
    who: str = OURS

    def __str__(self) -> str:
        return f">= {self.limit:g} x as fast as {' and '.join(self.than)}"

    def measured(self, medians: dict[str, float]) -> float | None:
        peers = [medians[name] for name in self.than if name in medians]
        return min(peers) / medians[self.who] if peers and self.who in medians else None

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit

    def figure(self, ratio: float) -> str:
        return f"{ratio:.2f}"


class Within(NamedTuple):
    """At most so many seconds."""

    limit: float
    who: str = OURS

    def __str__(self) -> str:
        return f"<= {seconds(self.limit)}"

    def measured(self, medians: dict[str, float]) -> float | None:
        return medians.get(self.who)

    def met(self, time: float) -> bool:
        return time <= self.limit

    def figure(self, time: float) -> str:
        return seconds(time)


class Steady(NamedTuple):
    """At least so much of the mean throughput of its neighbours, of batches of one size."""

    limit: float
    who: str
    neighbours: tuple[str, ...]

    def __str__(self) -> str:
        return f">= {self.limit:g} x the throughput of its neighbours"

    def measured(self, medians: dict[str, float]) -> float | None:
        if not {self.who, *self.neighbours} <= medians.keys():
            return None
        return 1 / medians[self.who] / statistics.mean(1 / medians[name] for name in self.neighbours)

    def met(self, ratio: float) -> bool:
        return ratio >= self.limit

    def figure(self, ratio: float) -> str:
        return f"{ratio:.2f}"


Goal = AtMost | Faster | Within | Steady


def judge(goals: Iterable[Goal], medians: dict[str, float]) -> list[dict]:
    """The goals that this run could measure, as they go into a result."""
    found = [(goal, goal.measured(medians)) for goal in goals]
    return [
        {"who": g.who, "goal": str(g), "measured": value, "figure": g.figure(value), "met": g.met(value)}
        for g, value in found
        if value is not None
    ]


def seconds(time: float) -> str:
    unit, factor = next(u for u in (("s", 1), ("ms", 1e3), ("µs", 1e6)) if time * u[1] >= 0.1 or u[0] == "µs")
    return f"{time * factor:.3g} {unit}"
