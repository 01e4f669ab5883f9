"""p·(v − ⟨p, v⟩), the product of a vector with softmax's Jacobian, of rows side by side: lanes run over them.

For short rows, and for rows whose classes do not lie side by side; elementwise.py has the others. As in columns.py a
tile of each is brought into the cache, and what comes of it goes back.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import maths
from fastsce.backends.cpu.coefficients import FACTS_BYTES
from fastsce.backends.cpu.columns import scratch_bytes, tile_lanes
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import fence, load, moved, spare, store, view
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.plan import GRADIENT, Plan
from fastsce.backends.cpu.tiles import bring, send_groups, take, tile_at, tile_width, unshared
from fastsce.backends.cpu.tuning import LANES, LONGEST_COLUMN, SHORT_VJP
from fastsce.backends.cpu.vectors import splat, widen
from fastsce.layout import contiguous


class Job(NamedTuple):
    """Views of shape (A, B, C)."""

    logits: Any  # p; what finds room for a tile knows it by this name
    v: Any
    out: Any
    plan: Plan


def suits(arrays):
    """Whether these, of shape (A, B, C), are worked on here."""
    if all(map(contiguous, arrays)):
        return arrays[0].shape[2] < SHORT_VJP
    either = all(contiguous(a) or a.strides[1] == a.itemsize for a in arrays)
    return either and arrays[0].shape[2] <= LONGEST_COLUMN


def planned(arrays, itemsize, parts, streams):
    """The plan, and the bytes of memory that each thread needs to itself. `itemsize`: of what is computed with."""
    a, b, classes = arrays[0].shape
    lanes = tile_lanes(2 * classes, b, itemsize, contiguous(arrays[0]))  # there are two tiles
    width = tile_width(lanes, 0)
    plan = Plan(min(parts, a * -(-b // lanes)), GRADIENT, False, streams, False, True, 0, lanes=lanes, width=width)
    return plan, scratch_bytes(classes, width, itemsize, 2)


@kernel
def vjp(p, v, out, plan, memory):
    """Each part takes an equal share of the tiles."""
    return hand_out(share, plan.parts, memory, (Job(view(p), view(v), view(out), plan),))


@device
def share(queue, scratch, job):
    samples, plan = job.logits.shape[1], job.plan
    tiles = -(-samples // plan.lanes)
    count, desk = job.logits.shape[0] * tiles, spare(scratch, FACTS_BYTES, job.out.data)
    start, stop = next_share(queue, count, plan.parts)
    while start < stop:
        for i in range(start, stop):
            a, b = i // tiles, i % tiles * plan.lanes
            n = min(plan.lanes, samples - b)
            p, v = unshared(tile_at(scratch, 0, job), a, b, n), unshared(tile_at(scratch, 1, job), a, b, n)
            bring(job.logits, p, plan.width)
            bring(job.v, v, plan.width)
            for lane in range(0, n, LANES):
                multiply(moved(p.x, lane), moved(v.x, lane), plan.width, job.logits.shape[2])
            send_groups(p, job.out, plan)
            take(p, job.out, plan, desk)
        start, stop = next_share(queue, count, plan.parts)
    fence()


@device
def multiply(p, v, width, classes):
    """LANES rows; the product takes p's place."""
    dot = splat(0.0, LANES)
    for c in range(classes):
        dot = maths.fma(widen(load(p, c * width, LANES)), widen(load(v, c * width, LANES)), dot)
    mean, rest = maths.in_two_parts(dot, load(p, 0, 0))
    for c in range(classes):
        product = maths.jacobian_product(load(p, c * width, LANES), load(v, c * width, LANES), mean, rest)
        store(p, c * width, product)
