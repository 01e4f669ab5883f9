"""Largest values and sums over the threads that share a row, in an order that depends on nothing but their number.

A team is a part of a warp, or the warps of a block; or, in columns, threads `rows` apart, so that neighbours have other
rows. `partial` is shared memory, with a place for every field, so that no barrier is needed before it is used again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import maths
from fastsce.backends.cuda.threads import barrier, device, lanes_xor

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
    return agree(v, at, field, columns, False, v)


@device
def agree_sum(v, at, field, columns):
    """The sum of all members' float64 v."""
    return agree(v, at, field, columns, True, 0.0)


@device
def agree(v, at, field, columns, adding, none):
    """`none` changes nothing that it is put to."""
    if columns:
        return among_columns(v, at, adding)
    v = among_lanes(v, min(at.team, WARP), adding)
    if at.team > WARP:
        v = among_lanes(exchanged(v, at, field, none), WARP, adding)
    return v


@device
def put_together(one, other, adding):
    return one + other if adding else maths.maximum(one, other)


@device
def among_lanes(v, lanes, adding):
    distance = lanes >> 1
    while distance > 0:
        v = put_together(v, lanes_xor(v, distance), adding)
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
def among_columns(v, at, adding):
    mine = at.member * at.rows + at.row
    at.partial[mine] = v
    half = at.team >> 1
    while half > 0:
        barrier()
        if at.member < half:
            at.partial[mine] = put_together(at.partial[mine], at.partial[mine + half * at.rows], adding)
        half >>= 1
    barrier()
    v = at.partial[at.row]
    barrier()
    return v
