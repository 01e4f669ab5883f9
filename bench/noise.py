"""What is noise and what is a difference.

Each time that is shown is the median of the rounds. How far such a median can be off is found from the rounds
themselves: medians of as many times drawn again from them (a bootstrap, with a fixed seed) scatter with a standard error,
kept relative to the median. A ratio of two medians is called a difference only if it is further from 1 than each of

- three standard errors of it, those of both medians together: chance alone does that once in some 400 ratios;
- what the same code differed from itself by in this case: fastsce is entered twice, under two names (A/A), which sees
  what rounds cannot, such as who follows whom;
- `LEAST`, for neither of these sees less than a handful of rounds can show.

Everything else is written as "≈". Contestants take turns within each round, in a new order each, so a slow minute of
the machine widens the errors of all and favours none.
"""

from __future__ import annotations

import math
import statistics

import numpy as np

from bench.goals import AGAIN, OURS

ERRORS = 3
LEAST = 0.02
RESAMPLED = 400


def spread(times: list[float]) -> dict[str, float]:
    """Median and quartiles in seconds, and the median's relative standard error."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"median": middle, "low": low, "high": high, "error": standard_error(times)}


def standard_error(times: list[float]) -> float:
    """Relative, of the median; half of the largest ratio where there are too few to draw from."""
    if len(times) < 3:
        return math.log(max(times) / min(times)) / 2
    drawn = np.random.default_rng(0).choice(np.log(times), (RESAMPLED, len(times)))
    return float(np.median(drawn, axis=1).std())


def same_code(contestants: dict[str, dict], state: str) -> float:
    """How much fastsce differs from itself in this case; 0 if it was not entered twice."""
    pair = [contestants.get(name, {}).get(state) for name in (OURS, AGAIN)]
    return abs(math.log(pair[0]["median"] / pair[1]["median"])) if all(pair) else 0.0


def of_ratio(one: dict, other: dict, between_same: float) -> float:
    """The logarithm that a ratio of two medians must exceed to be a difference."""
    return max(ERRORS * math.hypot(one["error"], other["error"]), between_same, LEAST)


def is_difference(ratio: float, noise: float) -> bool:
    return abs(math.log(ratio)) > noise


def said(ratio: float, noise: float) -> str:
    """A ratio for people: "3.42", or "≈ 1" where it is no difference."""
    if not is_difference(ratio, noise):
        return "≈ 1"
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.3g}"
