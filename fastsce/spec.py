"""The options of one call: what is computed, but none of the arrays it is computed on."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Reduction = Literal["none", "mean", "sum"]

BFLOAT16 = np.dtype("V2")  # NumPy has none: inside this package two bytes without a meaning stand for a bfloat16


class Spec(NamedTuple):
    """Options of one loss, already checked (see `fastsce.check.spec`).

    The law they enter, for one row of C logits x with target y::

        z    = softcap·tanh(s·x/softcap)  or  s·x              s = logit_scale
        lse  = log Σ exp z,   p = exp(z − lse)
        q_c  = (1−ε)·w_y·[c = y] + (ε/C)·w_c                   index target, ε = label_smoothing
        q_c  = w_c·((1−ε)·t_c + ε/C)                           soft target t
        mass = Σ q_c
        loss = mass·lse − ⟨q, z⟩ + ζ·lse²                      ζ = z_loss
        ∂loss/∂x_c = ((mass + 2ζ·lse)·p_c − q_c) · dz_c/dx_c
    """

    ignore_index: int = -100
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float | None = None
    logit_scale: float = 1.0
    reduction: Reduction = "mean"
    denominator: float | None = None
