"""The hard cases: batches with a fixed seed, each with a word on what is hard about it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np

NUMBERS = 1 << 15  # of logits in a case, but at least one row and at most ROWS
ROWS = 256
SHORT = [2, 3, 10, 100, 159, 160]
LONG = [1000, 32768, 131072, 262144]
CONFIDENT = [1e-3, 1e-7, 1e-12, 1e-20, 1e-30]


class Batch(NamedTuple):
    logits: np.ndarray  # (N, C)
    target: np.ndarray  # labels (N,), or shares (N, C)
    options: dict[str, Any]  # of fastsce.cross_entropy_value_and_grad, `reduction` always among them
    binary: bool = False

    @property
    def labelled(self) -> bool:
        return self.target.ndim == 1

    @property
    def working(self) -> str:
        """The precision to compute in."""
        return "float64" if self.logits.dtype == np.float64 else "float32"


class Case(NamedTuple):
    name: str
    group: str
    why: str
    make: Callable[[np.random.Generator, int, int], dict[str, Any]]  # (random, rows, classes) -> Batch's fields
    classes: int
    dtype: str = "float32"
    rows: int | None = None

    def batch(self, quick: bool = False) -> Batch:
        """Its numbers depend on nothing but its name; a quick one has fewer rows."""
        rows = self.rows or min(max(NUMBERS // self.classes, 1), ROWS)
        fields = self.make(
            np.random.default_rng(zlib.crc32(self.name.encode())), max(rows // 8, 1) if quick else rows, self.classes
        )
        logits, target, binary = fields.pop("logits"), fields.pop("target"), fields.pop("binary", False)
        with np.errstate(over="ignore"):
            logits = logits.astype(self.dtype)
        if np.issubdtype(target.dtype, np.floating):
            target = target.astype(self.dtype)
        return Batch(logits, target, {"reduction": "none", **fields}, binary)


# --- logits and labels ------------------------------------------------------------------------------------------------


def ordinary(random, n, c, spread=3.0, offset=0.0):
    return {"logits": offset + spread * random.standard_normal((n, c)), "target": random.integers(0, c, n)}


def confident(random, n, c, loss):
    """The label's logit is so far above the others that the loss is the given one."""
    x, y = 3 * random.standard_normal((n, c)), random.integers(0, c, n)
    rows = np.arange(n)
    x[rows, y] = -np.inf
    x[rows, y] = np.log(np.exp(x).sum(1)) - np.log(np.expm1(loss))
    return {"logits": x + 10 * random.standard_normal((n, 1)), "target": y}


def wrong(random, n, c):
    x, y = 3 * random.standard_normal((n, c)), random.integers(0, c, n)
    x[np.arange(n), y] -= random.uniform(20, 100, n)
    x[np.arange(n), (y + 1) % c] += 40
    return {"logits": x, "target": y}


def tied(random, n, c):
    """Whole numbers whose largest occurs many times; every other label is at one of them."""
    x = random.integers(-8, 1, (n, c)) + 0.3
    y = random.integers(0, c, n)
    x[::2, 0] = x.max()
    y[::2] = 0
    return {"logits": x, "target": y}


def neighbours(random, n, c, offset):
    """Logits that differ by few ulps of float32."""
    step = 2 * np.spacing(np.float32(offset))
    return {"logits": offset + step * random.integers(-3, 1, (n, c)), "target": random.integers(0, c, n)}


def huge(random, n, c):
    """One logit of 1e38, at the label in every other row."""
    found = ordinary(random, n, c)
    found["logits"][np.arange(n), (found["target"] + np.arange(n) % 2) % c] = 1e38
    return found


def uniform(random, n, c, limit):
    return {"logits": random.uniform(-limit, limit, (n, c)), "target": random.integers(0, c, n)}


def masked(random, n, c, places):
    found = ordinary(random, n, c)
    hidden = places(random, n, c)
    hidden[np.arange(n), found["target"]] = False
    found["logits"][hidden] = -np.inf
    return found


def at_front(random, n, c):
    return np.arange(c) < np.linspace(1, c - 1, n).astype(int)[:, None]


def scattered(random, n, c):
    return random.random((n, c)) < 0.7


def everywhere(random, n, c):
    return np.ones((n, c), bool)


def not_numbers(random, n, c):
    """By turns: the label masked, all masked, a NaN, a +∞."""
    found = ordinary(random, n, c)
    x, y = found["logits"], found["target"]
    x[np.arange(0, n, 4), y[0::4]] = -np.inf
    x[1::4] = -np.inf
    x[2::4, 1], x[3::4, 1] = np.nan, np.inf
    return found


# --- options ----------------------------------------------------------------------------------------------------------


def with_options(random, n, c, make=ordinary, **options):
    """`make`'s logits and labels; an option that is a function is drawn for this batch."""
    found = make(random, n, c)
    return found | {name: o(random, n, c) if callable(o) else o for name, o in options.items()}


def class_weights(random, n, c):
    return random.integers(16, 128, c) / 64  # numbers of every dtype


def row_weights(random, n, c):
    return random.integers(16, 128, n) / 64


def upstream(random, n, c):
    return (random.integers(16, 128, n) / 64) * 2.0 ** random.integers(-40, 40, n)


def shares(random, n, c, sharpness):
    """Shares of a softmax, some rows of which are near a one-hot."""
    t = np.exp(sharpness * random.standard_normal((n, c)))
    return t / t.sum(1, keepdims=True)


def soft(random, n, c, spread=3.0, sharpness=2.0):
    return ordinary(random, n, c, spread) | {"target": shares(random, n, c, sharpness)}


def soft_with_nothing(random, n, c):
    """Half of the shares are 0, at masked logits among others."""
    found = soft(random, n, c)
    hidden = random.random((n, c)) < 0.5
    found["target"][hidden] = 0
    found["logits"][hidden & (random.random((n, c)) < 0.5)] = -np.inf
    return found


def one_hot(random, n, c):
    found = confident(random, n, c, 1e-7)
    return found | {"target": np.eye(c)[found["target"]]}


def unnamed(random, n, c):
    """Every eighth label is to be ignored, and the NaN in its row with it."""
    found = ordinary(random, n, c)
    found["target"][::8] = -100
    found["logits"][::8, 0] = np.nan
    return found


def mixed(random, n, c):
    """Half of the rows are confident."""
    found, sure = ordinary(random, n, c), confident(random, n, c, 1e-6)
    for name in ("logits", "target"):
        found[name][::2] = sure[name][::2]
    return found


def sigmoids(random, n, c, targets, spread=8.0, **options):
    x = spread * random.standard_normal((n, c))
    return {"logits": x, "target": random.choice(targets, (n, c)), "binary": True, **options}


# --- the list ---------------------------------------------------------------------------------------------------------


def named(case: Case, dtype: str) -> Case:
    return case._replace(name=f"{case.name}, {dtype}", dtype=dtype)


SIZES = [
    Case(
        f"C = {c}",
        "ordinary logits",
        "sums of many terms" if c in LONG else "few terms: what is rounded once a row weighs as much as they do",
        ordinary,
        c,
    )
    for c in SHORT + LONG
]
SURE = [
    Case(
        f"loss {loss:.0e}, C = {c}",
        "confident rows",
        "1 − p is lost where p is rounded, and the loss where lse is",
        partial(confident, loss=loss),
        c,
    )
    for c in (10, 1000)
    for loss in CONFIDENT
]
LOGITS = [
    Case(f"{what}, C = {c}", group, why, make, c)
    for what, group, why, make in (
        ("sure and wrong", "wrong rows", "the label's p is far below any rounding of 1 − p", wrong),
        ("ties", "ties", "the largest logit occurs many times, at the label or elsewhere", tied),
        ("offset 1e6", "offsets", "lse has no digits left for log S", partial(ordinary, offset=1e6)),
        ("offset 2^24", "offsets", "one ulp of a logit is 2, and more than log S", partial(ordinary, offset=2.0**24)),
        ("offset 1e30", "offsets", "all logits are one number, and the loss is log C", partial(ordinary, offset=1e30)),
        ("neighbours of 1e30", "offsets", "logits a few ulps apart are 1e23 apart", partial(neighbours, offset=1e30)),
        ("one huge logit", "huge and tiny logits", "z − max is as huge; the loss is 0 or 1e38", huge),
        ("1.5e38", "huge and tiny logits", "z − max is near the end of float32", partial(uniform, limit=1.5e38)),
        ("subnormal", "huge and tiny logits", "flushed or not, it is as good as 0", partial(uniform, limit=1e-39)),
        ("nearly uniform, 1e-3", "nearly uniform", "p − 1/C is below p's rounding", partial(uniform, limit=1e-3)),
        ("nearly uniform, 1e-7", "nearly uniform", "z − max is below the ulp of 1", partial(uniform, limit=1e-7)),
        ("spread of 30", "wrong rows", "z − max is large, and its rounding with it", partial(ordinary, spread=30.0)),
        ("masks in front", "masks", "the first blocks hold −∞ only", partial(masked, places=at_front)),
        ("masks scattered", "masks", "−∞ − max, and exp of that", partial(masked, places=scattered)),
        ("masked but the label", "masks", "the loss is 0", partial(masked, places=everywhere)),
        ("no numbers", "masks", "∞ and NaN are to be where they belong, and nowhere else", not_numbers),
    )
    for c in (10, 1000)
]
LOGITS.append(Case("masks in front, C = 32768", "masks", "many blocks of −∞", partial(masked, places=at_front), 32768))
OPTIONS = [
    Case(f"{what}, C = {c}", group, why, make, c, rows=rows)
    for what, group, why, make, rows in (
        (
            "label smoothing",
            "options",
            "p − ε/C cancels in many classes",
            partial(with_options, label_smoothing=0.1),
            None,
        ),
        ("z-loss", "options", "lse² is added to what is small", partial(with_options, make=mixed, z_loss=1e-4), None),
        (
            "softcap",
            "options",
            "tanh is rounded, then multiplied by 30 in an exponent",
            partial(with_options, make=partial(ordinary, spread=20.0), softcap=30.0),
            None,
        ),
        ("logit_scale", "options", "s·x is rounded before an exponent", partial(with_options, logit_scale=0.7), None),
        ("class weights", "options", "one more factor", partial(with_options, weight=class_weights), None),
        (
            "all options",
            "options",
            "all factors at once",
            partial(
                with_options,
                weight=class_weights,
                sample_weight=row_weights,
                label_smoothing=0.1,
                z_loss=1e-4,
                logit_scale=0.7,
            ),
            None,
        ),
        ("grad_output", "reductions", "factors from 1e-12 to 1e12", partial(with_options, grad_output=upstream), None),
        (
            "mean",
            "reductions",
            "the sum of many losses, half of them tiny",
            partial(with_options, make=mixed, reduction="mean"),
            1000,
        ),
        (
            "mean, labels ignored",
            "reductions",
            "the divisor is a sum of weights, and NaN is ignored with its label",
            partial(with_options, make=unnamed, weight=class_weights, sample_weight=row_weights, reduction="mean"),
            1000,
        ),
        ("probabilities", "soft targets", "p − t cancels where the model is right", soft, None),
        ("probabilities with zeros", "soft targets", "0·∞ where a mask has no share", soft_with_nothing, None),
        ("one-hot, sure", "soft targets", "1 − p of a share of 1", one_hot, None),
        (
            "probabilities, smoothed and weighted",
            "soft targets",
            "Σ q is no longer 1",
            partial(with_options, make=soft, weight=class_weights, label_smoothing=0.1),
            None,
        ),
    )
    for c in ((10, 1000) if rows is None else (10,))
]
BINARY = [
    Case(f"{what}, C = {c}", "binary", why, make, c)
    for what, why, make in (
        ("binary", "both tails", partial(sigmoids, targets=[0.0, 1.0])),
        ("binary, large", "the loss is |x| or e^−|x|", partial(sigmoids, targets=[0.0, 1.0], spread=60.0)),
        ("binary, t = 0.3", "σ(x) − t cancels near x = log(3/7)", partial(sigmoids, targets=[0.3], spread=3.0)),
        ("binary, pos_weight", "one side has a factor", partial(sigmoids, targets=[0.0, 1.0], pos_weight=3.0)),
    )
    for c in (100,)
]
NARROW = {
    "C = 10", "C = 1000", "C = 32768", "C = 262144", "loss 1e-03, C = 1000", "loss 1e-12, C = 10",
    "masks scattered, C = 1000", "sure and wrong, C = 1000", "label smoothing, C = 1000", "probabilities, C = 1000",
    "mean, C = 10", "softcap, C = 1000", "binary, C = 100",
}  # fmt: skip
DOUBLE = {
    "C = 10", "C = 1000", "loss 1e-03, C = 10", "loss 1e-12, C = 1000", "loss 1e-30, C = 10", "offset 2^24, C = 10",
    "masks scattered, C = 1000", "sure and wrong, C = 10", "label smoothing, C = 10", "probabilities, C = 10",
    "mean, C = 10", "softcap, C = 10", "logit_scale, C = 1000", "binary, C = 100",
}  # fmt: skip
SINGLE = SIZES + SURE + LOGITS + OPTIONS + BINARY
CASES = [
    *SINGLE,
    *(named(case, dtype) for dtype in ("bfloat16", "float16") for case in SINGLE if case.name in NARROW),
    *(named(case, "float64") for case in SINGLE if case.name in DOUBLE),
]
BY_NAME = {case.name: case for case in CASES}
