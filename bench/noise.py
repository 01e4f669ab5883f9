"""What is noise and what is a difference.

Each time that is shown is the median of the rounds. How far off such a median may be is found from the rounds
themselves: medians of as many times drawn again from them (a bootstrap, with a fixed seed) scatter with a standard
error, relative to the median; three of these, more by Student's law where rounds are few, are how far "off" it may be:
99.7 % are not further. A ratio of two medians is called a difference only if it is further from 1 than each of

- what both medians may be off by, together;
- what the same code differed from itself by in this case: fastsce is entered twice, under two names (A/A), which sees
  what rounds cannot, such as who follows whom;
- `LEAST`, for neither of these sees less than a handful of rounds can show.

Everything else is marked "≈". Contestants take turns within each round, in a new order each, so a slow minute of the
machine widens the error of all that take part in it. Peers far behind sit out after a few rounds; the fewer these are,
the wider is their error.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

from bench.goals import AGAIN, OURS

LEAST = 0.02
MOST = 10.0  # of one round nothing is known
RESAMPLED = 400


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles in seconds, and how far off the median may be, as a share of it."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": middle, "low": low, "high": high, "off": off(times), "rounds": len(times)}


def off(times: list[float]) -> float:
    if len(times) < 2:
        return MOST
    drawn = np.random.default_rng(0).choice(np.log(times), (RESAMPLED, len(times)))
    return min(MOST, three_sigma(len(times) - 1) * float(np.median(drawn, axis=1).std()))


def three_sigma(freedom: int) -> float:
    """Student's quantile that three standard deviations of a normal law are, by its Cornish-Fisher series."""
    return 3 + 7.5 / freedom + 17.25 / freedom**2 + 30 / freedom**3


def same_code(contestants: dict[str, dict], state: str) -> float:
    """How much fastsce differs from itself in this case; 0 if it was not entered twice."""
    pair = [contestants.get(name, {}).get(state) for name in (OURS, AGAIN)]
    return abs(math.log(pair[0]["median"] / pair[1]["median"])) if all(pair) else 0.0


def of_ratio(one: dict, other: dict, between_same: float) -> float:
    """The logarithm that a ratio of two medians must exceed to be a difference."""
    return max(math.hypot(one["off"], other["off"]), between_same, LEAST)


def is_difference(ratio: float, noise: float) -> bool:
    return abs(math.log(ratio)) > noise


def said(ratio: float, noise: float) -> str:
    """A ratio for people: "3.42", or "≈ 3.42" where it is no difference."""
    words = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.3g}"
    return words if is_difference(ratio, noise) else f"≈ {words}"
