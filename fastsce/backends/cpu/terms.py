"""A term of a logit: 2^lift·exp(rate·u − offset), the same for every logit of a row (../../frame.py)."""

from __future__ import annotations

from fastsce import frame, maths
from fastsce.backends.cpu.coefficients import LIFT, OFFSET, RATE
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import load
from fastsce.frame import At


@device
def at_row(f, r):
    return At(load(f, RATE + r, 0), load(f, OFFSET + r, 0), load(f, LIFT + r, 0))


@device
def term_of(v, at, law, softcap):
    return maths.exp(frame.exponent(v, at.rate, at.offset, law, softcap), at.lift)
