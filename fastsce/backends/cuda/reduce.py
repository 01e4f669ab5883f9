"""Largest values and sums over the threads that share a row, in an order that depends on nothing but their number.

A team is a part of a warp, or the warps of a block; or, in columns, threads `rows` apart, so that neighbours have other
rows. `partial` is shared memory, with a place for every field, so that no barrier is needed before it is used again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import maths
from fastsce.backends.cuda.threads import (
    barrier,
    device,
    lanes_xor,
)

WARP = 32
TOP, REST, TIES, MASS, DISTANCE, PLACE = range(6)  # fields
PLACES = 6 * WARP  # of `partial`, for teams side by side
COLUMN_PLACES = 512  # for columns: one a thread


class Where(NamedTuple):
    """A thread's place among those that share a row, and its row's among those of the block."""

    partial: Any
    member: int
    team: int
    row: int
    rows: int


@device
def agree_largest(v, at, field, columns):
    """The largest of all members' float64 v."""
    if columns:
        return column_largest(v, at)
    v = lanes_largest(v, min(at.team, WARP))
    if at.team > WARP:
        v = lanes_largest(exchanged(v, at, field, v), WARP)
    return v


@device
def agree_sum(v, at, field, columns):
    """The sum of all members' float64 v."""
    if columns:
        return column_sum(v, at)
    v = lanes_sum(v, min(at.team, WARP))
    if at.team > WARP:
        v = lanes_sum(exchanged(v, at, field, 0.0), WARP)
    return v


@device
def lanes_largest(v, lanes):
    distance = lanes >> 1
    while distance > 0:
        v = maths.maximum(v, lanes_xor(v, distance))
        distance >>= 1
    return v


@device
def lanes_sum(v, lanes):
    distance = lanes >> 1
    while distance > 0:
        v = v + lanes_xor(v, distance)
        distance >>= 1
    return v


@device
def exchanged(v, at, field, none):
    """One warp's value in every lane of every warp; `none` in the lanes beyond the last warp's."""
    lane, warps = at.member & (WARP - 1), at.team >> 5
    start = field * WARP + at.row * warps
    if lane == 0:
        at.partial[start + (at.member >> 5)] = v
    barrier()
    return at.partial[start + lane] if lane < warps else none


@device
def column_largest(v, at):
    at.partial[at.member * at.rows + at.row] = v
    half = at.team >> 1
    while half > 0:
        barrier()
        if at.member < half:
            mine, other = at.member * at.rows + at.row, (at.member + half) * at.rows + at.row
            at.partial[mine] = maths.maximum(at.partial[mine], at.partial[other])
        half >>= 1
    return collected(at)


@device
def column_sum(v, at):
    at.partial[at.member * at.rows + at.row] = v
    half = at.team >> 1
    while half > 0:
        barrier()
        if at.member < half:
            mine, other = at.member * at.rows + at.row, (at.member + half) * at.rows + at.row
            at.partial[mine] = at.partial[mine] + at.partial[other]
        half >>= 1
    return collected(at)


@device
def collected(at):
    barrier()
    v = at.partial[at.row]
    barrier()
    return v
