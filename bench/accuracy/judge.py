"""From answers to errors in ulp, whether the goal is met, and whether a peer is better."""

from __future__ import annotations

from bench.accuracy.cases import Batch
from bench.accuracy.contestants import CONTESTANTS, PEERS, Answer
from bench.accuracy.ruler import errors, excess
from bench.accuracy.truth import Truth

GOALS = {"loss": 2, "gradient": 4}  # ulps beyond what rounding z − max once costs
MET, CANCELS, MISSED = "met", "met in ulps of the terms", "missed"


def judge(batch: Batch, truth: Truth, answer: Answer) -> dict:
    """Largest errors, and what they exceed the allowance by.

    `gradient of terms` is that excess in ulps of the terms that a gradient is the difference of; `loss, same ulp`, what
    losses of several dtypes are compared by.
    """
    (loss, grad), dtype = answer, batch.logits.dtype
    error = errors(grad, truth.grad, dtype)
    allowed = truth.grad_allowance if loss is not None else truth.saved_allowance
    found = {
        "gradient": error,
        "gradient excess": excess(error, allowed, truth.grad, dtype),
        "gradient of terms": excess(error, allowed, truth.grad, dtype, truth.terms),
    }
    if loss is not None:
        error = errors(loss, truth.loss, loss.dtype)
        found |= {
            "loss": error,
            "loss excess": excess(error, truth.loss_allowance, truth.loss, loss.dtype),
            "loss, same ulp": errors(loss, truth.loss, batch.working),
        }
    return {what: float(values.max()) for what, values in found.items()}


def verdict(answers: dict[str, dict]) -> str:
    """Of all forms of fastsce."""
    return verdict_of([*family(answers, "fastsce"), *family(answers, "from lse")])


def verdict_of(found: list[dict]) -> str:
    def within(gradient: str) -> bool:
        return all(f.get("loss excess", 0) <= GOALS["loss"] and f[gradient] <= GOALS["gradient"] for f in found)

    return MET if within("gradient excess") else CANCELS if within("gradient of terms") else MISSED


def family(answers: dict[str, dict], name: str) -> list[dict]:
    return [found for contestant, found in answers.items() if CONTESTANTS[contestant].family == name]


def worst_of(answers: dict[str, dict], what: str) -> float | None:
    """fastsce's, of the forms that give loss and gradient."""
    return max((found[what] for found in family(answers, "fastsce")), default=None)


def best_of(answers: dict[str, dict], peer: str, what: str) -> float | None:
    """A peer's, in its best form."""
    return min((found[what] for found in family(answers, peer)), default=None)


def better(answers: dict[str, dict]) -> list[dict]:
    """Where a peer's largest error is smaller than that of fastsce's worst form, in the same ulps."""
    found = []
    for what, ulp in (("loss", "loss, same ulp"), ("gradient", "gradient")):
        ours = worst_of(answers, ulp)
        for peer in PEERS:
            theirs = best_of(answers, peer, ulp)
            if theirs is not None and theirs < ours:
                found.append({"what": what, "peer": peer, "peer ulp": theirs, "fastsce ulp": ours})
    return found
