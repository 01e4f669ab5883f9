"""Whether the answers of an accepted call are right: against the reference, within bounds that rounding explains.

Rows are (N, C) here, the classes last. The bounds are those of `law`, of the magnitudes of weights, so that they hold
for negative ones too; what multiplies a row multiplies its bound. Both answers are rounded to what is stored, so that
they may differ by half a unit more.
"""

import math

import calls
import ml_dtypes
import numpy as np
from calls import Call, option
from cases import DTYPES
from law import Law, epsilon, stored
from ulp import assert_within, spacing

FEW = 8
LARGEST = {name: float(ml_dtypes.finfo(dtype).max) for name, dtype in DTYPES.items()}
# What is known to be wrong, and is not looked at for that reason; see `Truth.known`.
OVERFLOW = "known: terms that overflow on the way"


def size_of(a):
    """Of what is finite: what is not bounds nothing."""
    return np.abs(np.where(np.isfinite(a), a, 0))


class Truth:
    """What is known of one call before it runs: its values, which it may overwrite, and bounds for its answers."""

    def __init__(self, call: Call):
        self.call = call
        self.values = {name: np.array(a) for name, a in call.values.items()}
        self.dtype = self.values["logits"].dtype.name
        self.answer = "float64" if self.dtype == "float64" else "float32"
        self.eps = epsilon(self.dtype)
        self.largest = LARGEST[self.answer]
        self.vague = False  # nobody divides by 0: what that gives is infinite or no number
        self.known: dict[str, str] = {}  # answers that are not looked at, and why

    def compare(self, got: dict, true: dict) -> None:
        """Raise an AssertionError for the first answer that is wrong."""
        with np.errstate(all="ignore"):
            for name, bound in self.bounds(true).items():
                if name not in self.known:
                    self.within(got[name], true[name], bound, name)

    def within(self, got, true, bound, name):
        """As `assert_within`; where the bound is no number, only what is none either, or infinite, is right."""
        bound = np.where(np.isnan(bound), 0, bound)
        if self.vague:
            got, true = (np.where(np.isfinite(a), a, np.nan) for a in (got, true))
        if name in ("grad", "hess", "result"):  # where the bound reaches beyond the largest number, one may be infinite
            finite = np.where(np.isinf(got), true, got)
            near = (np.isinf(got) != np.isinf(true)) & (np.abs(finite) + bound >= LARGEST[self.dtype])
            got = np.where(near, true, got)
        assert_within(got, true, np.broadcast_to(bound, true.shape), name)

    def bounds(self, true) -> dict:
        function = self.call.function
        if not self.values["logits"].size:
            return dict.fromkeys(true, 0.0)
        if function in calls.BINARY:
            return self.binary(true)
        if function in calls.OTHERS:
            return {"result": self.probabilities(**true)}
        return self.loss(true)

    def wide(self, name, default=1.0):
        """An argument's values in float64."""
        return self.values[name].astype(np.float64) if name in self.values else np.asarray(default)

    def rows_of(self, a):
        """An array of the logits' shape as rows."""
        return np.moveaxis(a, self.call.axis, -1).reshape(math.prod(self.call.rows), self.call.classes)

    def shaped(self, rows):
        """Rows in the logits' shape."""
        return np.moveaxis(rows.reshape((*self.call.rows, self.call.classes)), -1, self.call.axis)

    def kept(self, bound, true):
        """Nothing is promised below the normal numbers."""
        true = np.where(np.isfinite(true), true, 0)
        return stored(bound, true, self.dtype) + spacing(true, self.dtype) / 2 + 2.0**-1022

    # ----------------------------------------------------------------------------------------------- the loss's family

    def law(self, target, **more) -> Law:
        return Law(self.rows_of(self.wide("logits")), target, reduction="none", **more)

    def loss(self, true):
        law, normaliser, slack = self.ingredients()
        self.note_known(law)
        found = {}
        if "loss" in true:
            losses = np.where(law.factor == 0, 0, np.abs(law.losses))
            each = (law.loss_bounds(self.dtype) + self.sum_error(law) * losses).reshape(self.call.rows)
            if self.reduced:
                each = (each.sum() + len(losses) * 2.0**-52 * losses.sum()) / normaliser + slack * np.abs(true["loss"])
            found["loss"] = each + spacing(true["loss"], self.answer)
        if "lse" in true:
            near = self.eps * (law.few() + 4) * (np.abs(law.m) + np.abs(law.lse) + 1)
            found["lse"] = np.where(law.valid, near, 0).reshape(self.call.rows)
        if "grad" in true:
            bound = self.saved_bound(law) if "lse" in self.values else self.fused_bound(law)
            found["grad"] = self.kept(self.shaped(bound) + slack * size_of(true["grad"]), true["grad"])
        if "hess" in true:
            curve = law.row_scale * law.logit_scale**2 * law.mass  # of a p below the normal numbers little is left
            bound = law.hess_bound(self.dtype) + self.rounded_z(law) + 2.0**-126 * curve[:, None]
            slack += self.sum_error(law)
            found["hess"] = self.kept(self.shaped(bound) + slack * size_of(true["hess"]), true["hess"])
        return found

    @property
    def reduced(self):
        return self.call.given.get("reduction") != "none"

    def ingredients(self):
        """The law of the magnitudes, what the mean divides by, and how far that may be off."""
        call, target = self.call, self.values["target"]
        if calls.is_labelled(call):
            y = target.reshape(-1).astype(object)  # in which no label of any dtype changes
            valid = y != calls.ignored(call)
            target = np.where(valid, y, 0).astype(np.int64)
        else:
            target = np.abs(self.rows_of(target.astype(np.float64)))
            valid = np.ones(len(target), bool)
        w, s = self.wide("weight", np.ones(call.classes)), self.wide("sample_weight").reshape(-1)
        s = np.broadcast_to(s, valid.shape)
        cap = option(call, "softcap")
        law = self.law(
            target if target.ndim > 1 else np.where(valid, target, calls.IGNORE),
            weight=np.abs(w),
            sample_weight=np.abs(s),
            softcap=None if cap is None else float(cap),
            **{name: float(option(call, name)) for name in ("label_smoothing", "z_loss", "logit_scale")},
        )
        shares = np.where(valid, w[target] * s, 0) if target.ndim == 1 else np.ones(len(valid))
        normaliser, slack = self.divisor(shares.sum()), 0.0
        if self.averaged and "denominator" not in call.given:
            slack = len(shares) * 2.0**-52 * np.abs(shares).sum() / normaliser
        self.vague = normaliser == 0
        up = np.abs(self.wide("grad_output")).reshape(-1)
        law.row_scale = np.where(valid, law.factor * up / normaliser, 0)
        return law, normaliser, slack

    @property
    def averaged(self):
        return self.call.given.get("reduction", "mean") == "mean"

    def divisor(self, total) -> float:
        return abs(float(self.call.given.get("denominator") or total)) if self.averaged else 1.0

    def note_known(self, law):
        lse = np.abs(np.where(np.isfinite(law.lse), law.lse, 0))
        pull, square = law.row_scale * lse * max(1, 2 * law.z_loss), law.z_loss * lse**2
        if law.z_loss and (pull.max(initial=0) >= self.largest or np.isinf(square).any()):
            self.known |= dict.fromkeys(("grad", "hess"), OVERFLOW)
        if "weight" in self.values or law.label_smoothing or law.target.ndim > 1:
            gap = np.where(np.isfinite(law.gap), law.gap, 0) * max(law.q.max(initial=1), law.weight.max(initial=1))
            if gap.sum(1).max(initial=0) >= self.largest:
                self.known["loss"] = OVERFLOW

    def fused_bound(self, law):
        share = np.abs(law.mass + 2 * law.z_loss * law.lse)[:, None]
        bound = law.grad_bound(self.dtype) + self.flat(law, share * law.p + law.q)
        each = self.rounded_z(law) + 2.0**-126 * law.row_scale[:, None] * share  # a p below that may be 0
        if law.target.ndim > 1:  # Σ q over the other classes than the largest is a difference
            each = each + (law.row_scale * law.mass)[:, None] * self.sum_error(law)
        else:  # where the largest class is not the label, p − q may cancel, if smoothing gave it most of the mass
            k = np.arange(self.call.classes) == law.k[:, None]
            each = (
                each
                + np.where(k & (law.k != law.target)[:, None], law.row_scale[:, None] * law.q, 0) * law.few() * self.eps
            )
        return bound + each * np.abs(law.slope)

    def saved_bound(self, law):
        """Of the gradient from a given lse: p = exp(z − lse), where neither is rounded before the difference is."""
        lse = self.wide("lse").reshape(-1)[:, None]
        p = np.exp(law.z - lse)
        blur = law.few() + np.abs(law.z - lse) + law.blur() + np.abs(lse)
        share = np.abs(law.mass + 2 * law.z_loss * lse[:, 0])[:, None] + 2 * law.z_loss * np.abs(lse)
        pull = np.where(p == 0, 0, share * p)
        size = np.where(p == 0, 0, pull * blur) + law.q * law.few()
        if law.softcap is not None:
            size = size + 4 * (pull + law.q) * np.minimum(np.abs(law.x * law.logit_scale / law.softcap), 99)
        size = size * self.eps + 2.0**-126 * share + law.mass[:, None] * self.sum_error(law)
        return law.row_scale[:, None] * np.abs(law.slope) * size + self.flat(law, pull + law.q)

    def sum_error(self, law):
        """Of Σ q in float64, term after term, relative; of labels it is known without adding."""
        return np.sqrt(self.call.classes) * 2.0**-50 if law.target.ndim > 1 else 0.0

    def rounded_z(self, law):
        """Of float64, z has no more digits than its terms: where it is computed, each p is off by |z| ulp of 1."""
        if self.dtype != "float64" or (law.softcap is None and law.logit_scale == 1):
            return 0.0
        z = np.where(law.p == 0, 0, np.abs(law.z) + np.abs(law.m)[:, None])
        pull = law.mass + 2 * law.z_loss * np.abs(law.lse)
        return (law.row_scale * pull)[:, None] * law.p * z * self.eps

    def flat(self, law, pull):
        """Where a softcap has flattened the logits: its slope is 0 from about the smallest normal number on."""
        lowest = np.exp(-708.0 if self.dtype == "float64" else -86.9)
        return 0.0 if law.softcap is None else 5 * lowest * law.logit_scale * law.row_scale[:, None] * pull

    # -------------------------------------------------------------------------------------------------- probabilities

    def probabilities(self, result):
        if self.call.function == "softmax_jacobian":
            p = self.wide("logits")
            return self.kept(FEW * self.eps * (np.outer(p, p) + np.diag(np.abs(p))), result)
        if self.call.function == "softmax_vjp":
            p, v = self.rows_of(np.abs(self.wide("logits"))), self.rows_of(np.abs(self.wide("v")))
            few = FEW + np.sqrt(self.call.classes) / 16
            size = p * (v + (p * v).sum(1, keepdims=True))
            return self.kept(self.shaped(self.eps * few * size), result)
        law = self.law(np.zeros(math.prod(self.call.rows), int))
        rest, wobble = law.rest()
        if self.call.function == "softmax":
            blur = law.few() + law.blur() + np.where(law.p > 0, law.p * law.blur(), 0).sum(1)[:, None]
            return self.kept(self.shaped(self.eps * blur * law.p), result)
        if self.call.function == "log_softmax":
            size = law.gap * 2 + (np.log1p(rest) * wobble)[:, None]
            return self.kept(self.shaped(self.eps * size), result)
        near = self.eps * law.few() * (np.abs(law.m) + np.log1p(rest) + 1e-30)
        return near.reshape(self.call.rows) + spacing(result, self.answer)

    # --------------------------------------------------------------------------------------------------------- binary

    def binary(self, true):
        x, t = self.wide("logits"), self.wide("target")
        s = self.wide("sample_weight")
        share = np.abs(self.wide("weight") * s.reshape(s.shape + (1,) * (x.ndim - s.ndim) if s.ndim else ()))
        eps = 2.0**-50 if self.dtype == "float64" else 2.0**-20
        u = np.exp(-np.abs(x))
        p, not_p = np.where(x < 0, u, 1) / (1 + u), np.where(x < 0, 1, u) / (1 + u)
        right, wrong = np.abs(t * self.wide("pos_weight")), np.abs(1 - t)
        if self.dtype != "float64":  # t is rounded before it is taken from 1
            wrong = wrong + np.abs(t) * 2.0**-24 / eps
        soft = np.log1p(u)
        each = np.where(right == 0, 0, right * (soft + np.maximum(-x, 0)))
        each = each + np.where(wrong == 0, 0, wrong * (soft + np.maximum(x, 0)))
        if (np.maximum(share, 1) * np.where(np.isfinite(each), each, 0)).sum() >= self.largest:
            self.known["loss"] = OVERFLOW
        each = np.where(share == 0, 0, share * each)
        normaliser, smallest = self.divisor(x.size), 2.0 ** (-1074 if self.dtype == "float64" else -149)
        scale = share * np.abs(self.wide("grad_output")) / normaliser
        lost = FEW * smallest * scale * (right + wrong)
        found = {
            "grad": self.kept(eps * scale * (wrong * p + right * not_p) + lost, true.get("grad", 0)),
            "hess": self.kept(eps * scale * (right + wrong) * p * not_p + lost, true.get("hess", 0)),
        }
        bound = eps * each + FEW * smallest * (1 + share)
        if self.reduced:
            bound = (bound.sum() + x.size * 2.0**-52 * each.sum()) / normaliser
        found["loss"] = bound + spacing(true.get("loss", 0), self.answer)
        return {name: bound for name, bound in found.items() if name in true}
