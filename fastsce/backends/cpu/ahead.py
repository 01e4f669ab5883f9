"""Asking memory for what will be needed, while others are worked on.

All at once, what is asked for has to wait for each other; some of it between the terms of one class and of the next is
there in time. Nothing here branches: in a loop over terms that would cost the constants of exp their registers (it does
in that of strips.py, beside which tiles come and go).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import adjoin, at, moved, place, size_of
from fastsce.backends.cpu.plan import NOTHING, Line
from fastsce.backends.cpu.tuning import GROUP, LANES
from fastsce.backends.cpu.vectors import I8, I32, I64, call

STRIPS = 4 * LANES  # samples of four strips, beside which the next tile comes


def define_prefetch(doc, level):
    @intrinsic(prefer_literal=True)
    def prefetch_as(typing, p, index, lanes):
        def build(context, b, signature, args):
            for i in range(0, lanes.literal_value, max(64 // size_of(p), 1)):
                address = b.bitcast(place(b, args[0], b.add(args[1], I64(i))), I8.as_pointer())
                call(b, "llvm.prefetch.p0", ir.VoidType(), [address, I32(0), I32(4 - level), I32(1)])
            return context.get_dummy_value()

        return types.void(p, types.int64, lanes), build

    prefetch_as.__doc__ = doc
    return prefetch_as


prefetch = define_prefetch("Ask for the cache lines of p[index : index + lanes]; any address will do.", 1)
# A line on its way to L1 holds one of the few buffers that loads and streamed lines need, on its way to L2 it does not.
prefetch_far = define_prefetch("The same, of lines that come from main memory.", 2)


class Lines(NamedTuple):
    """Memory that will be needed soon, and how many numbers to go on by at each step: 0 where it will not be."""

    start: Any
    step: Any


@device
def lines_of(v, a, b, wanted, at_hand):
    """LANES contiguous rows, a step for each class; or what is in the caches anyway, again and again."""
    if wanted and adjoin(v) and b + LANES <= v.shape[1]:
        return Lines(at(v, a, b, 0), LANES)
    return Lines(at_hand, 0)


@device
def lines_about(job, a, b):
    """Of a tile that begins with row b of block a: the rows of the next to be read, those of this to be written."""
    at_hand = at(job.logits, a, b, 0)
    later = lines_of(job.logits, a, b + job.plan.lanes, True, at_hand)
    return later, lines_of(job.grad, a, b, job.plan.write != NOTHING and not job.plan.stream, at_hand)


@device
def further(lines, rows, classes):
    """The same so many rows further on."""
    return Lines(moved(lines.start, rows // LANES * classes * lines.step), lines.step)


@device
def ask(lines, i):
    """Ask for what four classes of LANES rows take up, after i steps."""
    prefetch(lines.start, i * lines.step, STRIPS)


@device
def ask_for_group(job, i):
    """Ask for the labels and the results of LANES rows a group behind row i."""
    ask_numbers(job.labels, i + GROUP)
    ask_numbers(Line(job.lse, 1), i + GROUP)
    ask_numbers(Line(job.loss, 1), i + GROUP)


@device
def ask_numbers(line, i):
    """Ask for what LANES rows have one of each."""
    if line is not None:
        prefetch(line.data, i * line.step, LANES)
