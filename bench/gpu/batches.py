"""Logits on the GPU, and the truth in float64 that results are checked against."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from bench.goals import OURS
from bench.gpu.cases import Case

DEVICE = "cuda"
BLOCK = 1 << 25  # logits in float64 at a time
ENDS, BETWEEN = 16, 64  # rows whose gradients are checked: at either end, two of them confident, and in between


class Wrong(Exception):
    """A result is not what float64 says."""


class Batch(NamedTuple):
    case: Case
    logits: Any
    target: Any
    out: Any

    @property
    def scale(self) -> float:
        """Of 16-bit gradients, as in mixed precision: a mean's would be too small for float16."""
        return float(self.case.rows) if self.logits.itemsize == 2 else 1.0


def batch(case: Case, seed: int = 0) -> Batch:
    """Random logits; every eighth row is confident of its label, as a trained model is."""
    random = torch.Generator(DEVICE).manual_seed(seed)
    logits = torch.empty(case.shape, dtype=getattr(torch, case.dtype), device=DEVICE).normal_(0, 3, generator=random)
    by_row = logits.movedim(case.axis, -1)
    target = torch.randint(case.classes, by_row.shape[:-1], device=DEVICE, generator=random)
    confident = torch.unravel_index(torch.arange(0, case.rows, 8, device=DEVICE), target.shape)
    by_row[(*confident, target[confident])] = 40
    return Batch(case, logits, target, torch.empty_like(logits))


# --- the truth --------------------------------------------------------------------------------------------------------


def law(logits, target) -> tuple[Any, Any, Any]:
    """Loss, gradient and log Σ exp of rows, in float64; the label's logit is kept apart, so that nothing cancels."""
    x, y = logits.to(torch.float64, copy=True), target[:, None]
    label = x.gather(1, y)
    others = x.scatter(1, y, -torch.inf).logsumexp(1, keepdim=True)
    behind = others - label
    loss = torch.nn.functional.softplus(behind, threshold=36)
    lse = label + loss
    grad = x.sub_(lse).exp_().scatter_(1, y, -torch.sigmoid(behind))
    return loss[:, 0], grad, lse[:, 0]


def blocks(given: Batch) -> Iterator[tuple[Any, Any]]:
    """All rows, so many at a time as are to be in float64 at once."""
    rows = given.logits.movedim(given.case.axis, -1).reshape(-1, given.case.classes)
    each = max(1, BLOCK // given.case.classes)
    return zip(rows.split(each), given.target.reshape(-1).split(each))


class Truth:
    """Found once for all contestants of a batch."""

    def __init__(self, given: Batch):
        rows = given.case.rows
        self.given = given
        self.loss = (sum(law(x, y)[0].sum() for x, y in blocks(given)) / rows).item()
        where = torch.cat(
            [
                torch.arange(min(ENDS, rows)),
                torch.linspace(0, rows - 1, BETWEEN).long(),
                torch.arange(max(0, rows - ENDS), rows),
            ]
        )
        self.sample = torch.unravel_index(where.unique().to(DEVICE), given.target.shape)
        self.losses, self.gradient, self.lse = law(self.of(given.logits), given.target[self.sample])
        self.eps, self.tiny = (getattr(torch.finfo(given.logits.dtype), name) for name in ("eps", "tiny"))

    def of(self, a) -> Any:
        """The sampled rows of an array of the logits' shape."""
        return a.movedim(self.given.case.axis, -1)[self.sample]

    def check(self, name: str, loss, grad, scale: float) -> dict[str, float]:
        """The errors of a mean loss and its gradient × scale; raises if they are too large.

        Ours is relative, in every element; a peer's, which loses confident rows, to a row's largest possible gradient.
        """
        unit = scale / self.given.case.rows
        found, truth = self.of(grad).double(), self.gradient * unit
        off = (found - truth).abs()
        if name.startswith("fastsce"):
            errors = {"loss": abs(loss.item() / self.loss - 1), "gradient": worst(off / truth.abs().clamp(self.tiny))}
            limits = {"loss": 1e-5, "gradient": max(1e-5, self.eps)}
        else:
            errors = {"loss": abs(loss.item() / self.loss - 1), "gradient of the largest": worst(off) / unit}
            limits = {"loss": max(1e-5, 4 * self.eps), "gradient of the largest": max(1e-4, 4 * self.eps)}
        return within(name, errors, limits)

    def check_rows(self, losses, lse) -> dict[str, float]:
        """The relative errors of our losses of single rows, and of log Σ exp."""
        errors = {
            "losses of rows": worst((losses[self.sample].double() / self.losses - 1).abs()),
            "lse": worst((lse[self.sample] - self.lse).abs() / self.lse.abs().clamp(1.0)),
        }
        return within(OURS, errors, dict.fromkeys(errors, max(1e-5, self.eps / 64)))


def worst(errors) -> float:
    """The largest; NaN if one of them is."""
    return errors.max().item()


def within(name: str, errors: dict[str, float], limits: dict[str, float]) -> dict[str, float]:
    for what, error in errors.items():
        if not error <= limits[what]:  # NaN is not
            raise Wrong(f"{name}: the error of {what} is {error:.3g}, and {limits[what]:.3g} is allowed")
    return errors
