"""A term, 2^lift·exp(rate·u − offset) of a logit, at once; or what it is made with first, then the term.

With a softcap it is a chain of sixty instructions, of which a CPU has but two or three under way at once; in three
loops, one after the other, it has many. Without one it is worked out at once where there are registers for that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import frame, maths
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import load, store
from fastsce.backends.cpu.tuning import LANES


@device
def term_of(v, at, inner, softcap):
    return maths.exp(frame.exponent(v, at.rate, at.offset, inner, softcap), at.lift)


class Makings(NamedTuple):
    """Of an exponential that is worked out later: `maths.exp_parts`."""

    scale: Any
    r: Any


@device
def begin_capped(v, j, makings, inner):
    make(makings, j, maths.tanh_parts(v * inner))


@device
def capped_made(v, j, makings, inner):
    return maths.capped_of(v, inner, load(makings.scale, j, LANES), load(makings.r, j, LANES))


@device
def begin_term(u, j, at, makings):
    make(makings, j, maths.exp_parts(frame.exponent(u, at.rate, at.offset, 0.0, None), at.lift))


@device
def term_made(makings, j):
    r = load(makings.r, j, LANES)
    return maths.exp_of(load(makings.scale, j, LANES), r, r)


@device
def make(makings, j, parts):
    scale, r = parts
    store(makings.scale, j, scale)
    store(makings.r, j, r)
