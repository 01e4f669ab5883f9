"""The options of a loss as the formulas in maths.py and frame.py take them."""

from functools import lru_cache
from typing import NamedTuple

from fastsce.frame import NEAR


class Law(NamedTuple):
    """The options of a loss. z = gain·u, where u is x, or with a softcap tanh(inner·x)."""

    keep: float  # 1 − ε
    off: float  # ε/C
    total: float  # Σ w_c
    z_loss: float
    gain: float  # s, or the softcap
    inner: float  # s, or s/softcap
    scale: float  # s
    near: float  # `frame.about`: NEAR, or 0 where z is computed


@lru_cache(maxsize=64)
def law_of(spec, classes, dtype):
    """The law of a `Spec` for classes without weights, where terms are worked out in `dtype`."""
    capped = spec.softcap is not None
    gain = dtype.type(spec.softcap if capped else spec.logit_scale)  # the same for terms and in float64
    return Law(
        keep=1.0 - spec.label_smoothing,
        off=spec.label_smoothing / classes,
        total=float(classes),
        z_loss=spec.z_loss,
        gain=float(gain),
        inner=spec.logit_scale / spec.softcap if capped else spec.logit_scale,
        scale=spec.logit_scale,
        near=0.0 if capped or gain != 1.0 else NEAR,
    )
