"""The law of the loss once more, written straight from its formulas, and how far rounding may take one from it."""

from dataclasses import dataclass

import numpy as np
from cases import IGNORE
from ulp import spacing

FEW = 8  # units of the last place that a chain of exp, log, product and quotient may lose


@dataclass
class Law:
    """One batch (N, C) in float64; `target` is labels (N,) or probabilities (N, C)."""

    x: np.ndarray
    target: np.ndarray
    weight: np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    ignore_index: int = IGNORE
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    reduction: str = "mean"
    denominator: float | None = None

    def __post_init__(self):
        n, classes = self.x.shape
        w = np.ones(classes) if self.weight is None else self.weight
        factor = np.ones(n) if self.sample_weight is None else self.sample_weight
        eps = self.label_smoothing
        if self.target.ndim == 1:
            valid = self.target != self.ignore_index
            y = np.where(valid, self.target, 0)
            onehot = (np.arange(classes) == y[:, None]).astype(float)
            self.q = (1 - eps) * w[y][:, None] * onehot + eps / classes * w
            total = (w[y] * factor)[valid].sum()
        else:
            valid = np.ones(n, bool)
            self.q = w * ((1 - eps) * self.target.astype(np.float64) + eps / classes)
            total = float(n)
        normaliser = 1.0
        if self.reduction == "mean":
            normaliser = total if self.denominator is None else self.denominator
        self.normaliser = normaliser
        self.row_scale = np.where(valid, factor / normaliser if normaliser else 0, 0)
        self.valid, self.factor = valid, np.where(valid, factor, 0)
        with np.errstate(invalid="ignore"):
            s, cap = self.logit_scale, self.softcap
            if cap is None:
                self.z, self.slope = s * self.x, np.full_like(self.x, s)
            else:
                self.z = np.where(np.isneginf(self.x), -np.inf, cap * np.tanh(s * self.x / cap))
                self.slope = s / np.cosh(s * self.x / cap) ** 2
        self.mass = self.q.sum(1)
        self.k = self.z.argmax(1)
        self.m = self.z.max(1, initial=-np.inf)
        self.gap = self.m[:, None] - self.z
        self.e = np.exp(-self.gap)
        self.lse = self.m + np.log(self.e.sum(1))
        self.p = self.e / self.e.sum(1)[:, None]

    @property
    def losses(self):
        """One a row, from the formula mass·lse − ⟨q, z⟩ + ζ·lse²."""
        q, lse = self.q.astype(np.longdouble), self.lse.astype(np.longdouble)  # mass·lse may be ∞ where the loss is not
        qz = np.where(q == 0, 0, q * np.where(q == 0, 0, self.z)).sum(1)
        with np.errstate(over="ignore"):
            return np.float64(self.factor * (self.mass * lse - qz + self.z_loss * lse**2))

    @property
    def loss(self):
        return self.losses if self.reduction == "none" else self.losses.sum() / self.normaliser

    def pull(self):
        """∂loss/∂z of a row."""
        return (self.mass + 2 * self.z_loss * self.lse)[:, None] * self.p - self.q

    @property
    def grad(self):
        return self.row_scale[:, None] * self.slope * self.pull()

    @property
    def hess(self):
        return self.row_scale[:, None] * self.logit_scale**2 * self.mass[:, None] * self.p * (1 - self.p)

    # ------------------------------------------------------------------ rounding, in units of the arithmetic's epsilon

    def few(self):
        return FEW + np.sqrt(self.x.shape[1]) / 16

    def blur(self):
        """The relative error of each exp(z − max): from rounding z − max once, and z itself where it is computed."""
        factor = 4 if self.softcap is not None else 1 if self.logit_scale != 1 else 0
        with np.errstate(invalid="ignore"):
            return np.where(self.e == 0, 0, self.gap + factor * (np.abs(self.z) + np.abs(self.m)[:, None]))

    def rest(self):
        """Σ exp(z − max) over the other classes than the largest, and its relative error."""
        others = self.e.copy()
        np.put_along_axis(others, self.k[:, None], 0, 1)
        rest = others.sum(1)
        return rest, self.few() + (others * self.blur()).sum(1) / np.where(rest == 0, 1, rest)

    @np.errstate(all="ignore")
    def loss_bounds(self, dtype):
        rest, wobble = self.rest()
        far = np.where(self.q == 0, 0, self.q * np.where(self.q == 0, 0, self.gap * self.few() + self.blur())).sum(1)
        lse = np.abs(self.m) + np.abs(self.lse) + 1
        size = self.mass * np.log1p(rest) * wobble + far + 2 * self.few() * self.z_loss * np.abs(self.lse) * lse
        return epsilon(dtype) * np.where(self.factor == 0, 0, np.abs(self.factor) * size) + (
            0 if dtype == "float64" else 2.0**-126
        )

    @np.errstate(all="ignore")
    def loss_bound(self, dtype):
        """For the loss, after the reduction."""
        rows = self.loss_bounds(dtype)
        bound = rows if self.reduction == "none" else rows.sum() / self.normaliser
        return bound + spacing(self.loss, "float64" if dtype == "float64" else "float32")

    @np.errstate(all="ignore")
    def grad_bound(self, dtype):
        """For every element; the largest class has neither cancellation between p and 1 nor between 1 and 1 − p."""
        rest, wobble = self.rest()
        p_blur = self.few() + self.blur() + (wobble * rest / (1 + rest))[:, None]
        share = np.abs(self.mass + 2 * self.z_loss * self.lse)[:, None]
        lse = 2 * self.z_loss * (np.abs(self.m) + np.abs(self.lse) + 1)[:, None]
        blurred = np.where(self.p == 0, 0, p_blur * self.p)  # of an infinite blur, too
        size = share * blurred + lse * self.few() * self.p + self.q * self.few()
        k = self.k[:, None]
        others = self.mass - np.take_along_axis(self.q, k, 1)[:, 0]
        top = self.mass * rest / (1 + rest)
        pull = np.where(lse == 0, 0, lse * blurred)
        at_k = (others * self.few() + top * wobble)[:, None] + np.take_along_axis(pull, k, 1)
        np.put_along_axis(size, k, np.minimum(np.take_along_axis(size, k, 1), at_k), 1)
        if self.softcap is not None:
            inside = np.abs(self.x * self.logit_scale / self.softcap)
            size = size + 4 * np.abs(self.pull()) * np.minimum(inside, 99)
        return self.row_scale[:, None] * np.abs(self.slope) * size * epsilon(dtype)

    @np.errstate(all="ignore")
    def hess_bound(self, dtype):
        rest, wobble = self.rest()
        blur = self.few() + self.blur() + wobble[:, None]
        return np.abs(self.hess) * blur * epsilon(dtype) + self.at_k(rest / (1 + rest) ** 2 * wobble) * epsilon(dtype)

    def at_k(self, values):
        found = np.zeros_like(self.x)
        values = self.row_scale * self.mass * self.logit_scale**2 * values
        np.put_along_axis(found, self.k[:, None], values[:, None], 1)
        return found


def epsilon(dtype) -> float:
    """Of the arithmetic: float32 for 16-bit logits; doubled for float64, whose oracle rounds as well."""
    return 2.0**-51 if dtype == "float64" else 2.0**-23


def stored(bound, truth, dtype):
    """A bound for values kept in `dtype`, rounded once; below float32's normal numbers nothing relative is promised."""
    return bound + 0.51 * spacing(truth, dtype) + (0 if dtype == "float64" else 2.0**-126)
