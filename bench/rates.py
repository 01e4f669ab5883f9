"""From seconds to what can be compared: GB/s, shares of the roof, ratios.

The roof of a contestant is the faster of both copies of the same batch in the same rounds, or the read for one that
only reads.
"""

from __future__ import annotations

from bench import noise
from bench.goals import COPY, LOSS, NUMPY, READ, STREAM
from bench.providers import PROVIDERS

STATES = ("cold", "warm")
ABOVE = (
    "More than 100 % can be right: writing in place has one buffer to keep in the caches where the copy has two, and "
    "an ordinary store first reads what it overwrites, which stores past the caches do not."
)


def rates(contestants: dict[str, dict]) -> None:
    """Adds "GB/s" and "roof", the share of it, to every time."""
    for state in STATES:
        timed = [line for line in contestants.values() if state in line]
        for line in timed:
            line[state]["GB/s"] = line["bytes"] / line[state]["median"] / 1e9
        for line in timed:
            roof = roof_of(contestants, line["provider"], state)
            line[state]["roof"] = line[state]["GB/s"] / roof if roof else None


def roof_of(contestants: dict[str, dict], provider: str, state: str) -> float | None:
    """GB/s of the roof that a contestant is held against."""
    names = (READ,) if provider in (READ, LOSS) else (COPY, STREAM)
    found = [contestants[name][state]["GB/s"] for name in names if state in contestants.get(name, {})]
    return max(found, default=None)


def drift(content: dict) -> float:
    """How many times as long the machine's copy took at one end of a run as at the other; 1 if that is not known."""
    ends = [roof["contestants"].get(COPY, {}) for roof in content["roofs"].values()]
    if len(ends) < 2 or not all("warm" in line for line in ends):
        return 1.0
    times = [line["warm"]["median"] for line in ends]
    return max(times) / min(times)


def peers(contestants: dict[str, dict], state: str) -> dict[str, dict]:
    """The times of those that are neither ours nor roofs."""
    timed = {name: line[state] for name, line in contestants.items() if state in line}
    return {name: t for name, t in timed.items() if PROVIDERS[contestants[name]["provider"]].is_peer}


def fastest_peer(contestants: dict[str, dict], state: str) -> str | None:
    found = peers(contestants, state)
    return min(found, key=lambda name: found[name]["median"], default=None)


def yardstick(contestants: dict[str, dict]) -> str | None:
    """What times are divided by so that those of two runs can be compared: the copy, or NumPy for calls too short."""
    return next((name for name in (COPY, NUMPY) if "warm" in contestants.get(name, {})), None)


def ratio(case: dict, slow: str, fast: str, state: str) -> tuple[float, float]:
    """How many times the one takes as long as the other, and how far from 1 its logarithm must be to mean something."""
    one, other = (case["contestants"][name][state] for name in (slow, fast))
    return one["median"] / other["median"], noise.of_ratio(one, other, case["same code"][state])


def times_copy(case: dict, name: str, state: str) -> str:
    """In words; nothing where there is no copy."""
    return said(case, name, COPY, state) if name != COPY else ""


def times_fastest_peer(case: dict, name: str, state: str) -> str:
    """How many times as fast, in words; nothing for peers, roofs, and the loss alone, which no peer is asked for."""
    best, provider = fastest_peer(case["contestants"], state), case["contestants"][name]["provider"]
    comparable = PROVIDERS[provider].is_ours and provider != LOSS
    return said(case, best, name, state) if best and comparable else ""


def said(case: dict, slow: str, fast: str, state: str) -> str:
    both = all(state in case["contestants"].get(name, {}) for name in (slow, fast))
    return noise.said(*ratio(case, slow, fast, state)) if both else ""
