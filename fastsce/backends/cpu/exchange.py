"""A block of a band's classes comes while another goes: where blocks have their places, and the steps of both."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import maths
from fastsce.backends.cpu.ahead import prefetch
from fastsce.backends.cpu.coefficients import FACTS_BYTES
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.memory import (
    address_of,
    at,
    load,
    load_line,
    moved,
    moved_bytes,
    numbers_in_line,
    put,
    store,
    workspace,
)
from fastsce.backends.cpu.partial import load_part, store_part
from fastsce.backends.cpu.plan import IGNORED, NOTHING
from fastsce.backends.cpu.tiles import past_line
from fastsce.backends.cpu.tuning import CLASSES_AHEAD, GROUP, LANES, LINE, PAGE
from fastsce.backends.cpu.vectors import lane_numbers, splat

FOUR = 4  # classes

# Rows of numbers, one of each sample. Of a band: the largest logit so far, how often it occurs, m, the power of two and
# the frame of terms; the label, its gradient, and what multiplies the weights that smoothing takes off.
TOPS, COUNTS, MS, POWERS, RATES, OFFSETS, LIFTS, PLACES, SPECIALS, PULLS, BAND_ROWS = range(11)
# Of a block, before its classes: m, and then what multiplies its terms.
FACTORS, BLOCK_ROWS = range(2)


class Band(NamedTuple):
    """n samples from b on of block a of an array."""

    a: Any
    b: Any
    n: Any
    follows: bool  # the cache lines that it begins in hold samples of the band before, which are left over
    followed: bool  # those that it ends in are left to the next


class Memory(NamedTuple):
    """What a thread has to itself."""

    sums: Any  # of each sample all terms but the largest's, in float64
    far: Any  # and Σ w·(the largest z so far − z), which smoothing asks for
    own: Any  # rows of the band
    left: Any  # of each class the line that the next band begins in
    ring: Any  # places for the blocks of a band, and one more


class Moving(NamedTuple):
    """A block that comes into a place, and one that goes from there: a group of samples of one class at a time."""

    place: Any
    source: Any
    jump: Any  # bytes from the class behind the last to the first of the next band
    first_in: Any  # class
    count_in: Any
    band_in: Band
    target: Any
    first_out: Any
    count_out: Any
    band_out: Band
    r_out: Any  # the class of the block, and the sample, that go next
    j_out: Any
    r_in: Any  # and that come next: a step behind, for a line may have samples of two groups
    j_in: Any


# --- places ----------------------------------------------------------------------------------------------------------


@device
def places_of(classes, plan):
    return -(-classes // plan.block) + 1 if plan.write != NOTHING else 2


@device
def scratch_bytes(classes, plan, itemsize):
    rows = BAND_ROWS + places_of(classes, plan) * (BLOCK_ROWS + plan.block)
    return FACTS_BYTES + 16 * plan.lanes + itemsize * (LINE * classes + LINE + rows * plan.width) + 3 * 64


@device
def memory_at(scratch, job):
    plan, like, lines = job.plan, job.logits.data, LINE * job.logits.shape[2]
    sums = workspace(scratch, FACTS_BYTES, job.lse)
    left = workspace(scratch, FACTS_BYTES + 16 * plan.lanes + 64, like)
    own = moved(left, lines + LINE)
    return Memory(sums, moved(sums, plan.lanes), own, left, moved(own, BAND_ROWS * plan.width))


@device
def place_at(memory, k, places, plan):
    """Of the k-th block since a thread began."""
    return moved(memory.ring, k % places * (BLOCK_ROWS + plan.block) * plan.width)


@device
def class_in(place, r, plan):
    """Class r of the block in a place."""
    return moved(place, (BLOCK_ROWS + r) * plan.width)


# --- what comes and what goes -----------------------------------------------------------------------------------------


@device
def moving_of(place, band_in, first_in, band_out, first_out, memory, job, smooth):
    """What of the block that goes does not go by groups has gone."""
    v, g, plan = job.logits, job.grad, job.plan
    count_in = min(plan.block, v.shape[2] - first_in) if band_in.n > 0 else 0
    count_out = min(plan.block, g.shape[2] - first_out) if band_out.n > 0 else 0
    source, target = at(v, band_in.a, band_in.b, first_in), at(g, band_out.a, band_out.b, first_out)
    jump = band_in.n * v.item - v.shape[2] * v.strides[2]
    moving = Moving(
        place, source, jump, first_in, count_in, band_in, target, first_out, count_out, band_out, 0, 0, 0, -GROUP
    )
    send_edges(moving, memory, job, smooth)
    return moving


@apart
def bring_block(place, band, memory, job, smooth):
    """The first of all: nothing goes."""
    finish_moving(moving_of(place, band, 0, Band(0, 0, 0, False, False), 0, memory, job, smooth), memory, job, smooth)


@device
def move(moving, memory, job, smooth):
    """A step: a group goes, and the place of the one before is taken."""
    place, source, jump, first_in, count_in, band_in, target, first_out, count_out, band_out, r, j, s, i = moving
    if j == 0 and r % FOUR == 0:
        find_pages(source, target, r + FOUR, job)
    if r < count_out and j + GROUP <= band_out.n:
        send_group(moving, memory, job, smooth)
    if s < count_in and 0 <= i <= band_in.n - GROUP:
        bring_group(moving, job)
    s, i, j = r, j, j + GROUP
    if j >= job.plan.lanes:
        r, j = r + 1, 0
    return Moving(place, source, jump, first_in, count_in, band_in, target, first_out, count_out, band_out, r, j, s, i)


@device
def find_pages(source, target, r, job):
    """Those of four classes at once, for to find one takes long. The last line of a page is the last to be written."""
    for k in range(FOUR):
        prefetch(moved_bytes(source, (r + k) * job.logits.strides[2]), 0, 1)
        p = moved_bytes(target, (r + k) * job.grad.strides[2])
        prefetch(moved_bytes(p, PAGE - 1 - (address_of(p) & (PAGE - 1))), 0, 1)


@apart
def finish_moving(moving, memory, job, smooth):
    """All steps that are left, and what does not come by groups."""
    while moving.r_in < max(moving.count_out, moving.count_in):
        moving = move(moving, memory, job, smooth)
    n = moving.band_in.n
    for r in range(moving.count_in if n % GROUP > 0 else 0):
        p, row = moved_bytes(moving.source, r * job.logits.strides[2]), class_in(moving.place, r, job.plan)
        for j in range(n // GROUP * GROUP, n, LANES):
            store(row, j, load_part(p, j, n - j, 0.0, LANES))


@device
def bring_group(moving, job):
    r, start, step = moving.r_in, moving.j_in, job.logits.strides[2]
    p, row = moved_bytes(moving.source, r * step), class_in(moving.place, r, job.plan)
    jump = moving.jump if moving.first_in + r + CLASSES_AHEAD >= job.logits.shape[2] else 0
    later = moved_bytes(p, CLASSES_AHEAD * step + jump)
    for j in range(start, start + GROUP, LANES):
        store(row, j, load(p, j, LANES))
        prefetch(later, j, LANES)


@device
def send_group(moving, memory, job, smooth):
    """The lines that are whole with these samples: the first begins with some of the group or of the band before."""
    (_, _, n, follows, followed), r, j = moving.band_out, moving.r_out, moving.j_out
    p = moved_bytes(moving.target, r * job.grad.strides[2])
    line, back = numbers_in_line(p), short_of_line(p, job.plan)
    if j > 0 or back == 0:
        put(p, j - back, gradient_at(moving, r, j - back, p, memory, job, smooth), job.plan.stream)
    elif follows:
        put(p, -back, with_left(moving, r, back, p, memory, job, smooth), job.plan.stream)
    for k in range(line, GROUP, line):
        put(p, j + k - back, gradient_at(moving, r, j + k - back, p, memory, job, smooth), job.plan.stream)
    if back > 0 and followed and j + GROUP == n:
        store(left_of(moving, r, memory), 0, gradient_at(moving, r, n - back, p, memory, job, smooth))


@device
def short_of_line(p, plan):
    """How many samples before p its cache line begins with; where lines need not be whole, none."""
    return past_line(p) if plan.stream else 0


@device
def gradient_at(moving, r, j, p, memory, job, smooth):
    """Of a class that goes, of as many samples from j on as a cache line has of p."""
    width, own, c = job.plan.width, memory.own, moving.first_out + r
    e, push = load_line(class_in(moving.place, r, job.plan), j, p), load_line(moving.place, FACTORS * width + j, p)
    place, v = load_line(own, PLACES * width + j, p), e * push
    if smooth is not None:
        w = splat(load(job.weight, c, 0), e)
        v = maths.class_gradient(e, push, w, load_line(own, PULLS * width + j, p))
        v = maths.where(place == IGNORED, 0.0, v)  # a weight may be ∞
    return maths.where(place == c, load_line(own, SPECIALS * width + j, p), v)


@device
def with_left(moving, r, back, p, memory, job, smooth):
    """The line that a band begins in."""
    v = gradient_at(moving, r, -back, p, memory, job, smooth)
    return maths.where(lane_numbers(v) < back, load_line(left_of(moving, r, memory), 0, p), v)


@device
def left_of(moving, r, memory):
    return moved(memory.left, (moving.first_out + r) * LINE)


@device
def send_edges(moving, memory, job, smooth):
    """What of a block does not go by groups."""
    _, _, n, follows, followed = moving.band_out
    if moving.count_out > 0 and (n % GROUP > 0 or (short_of_some(moving.target, job) and not (follows and followed))):
        send_edges_of(moving, memory, job, smooth)


@device
def short_of_some(p, job):
    return job.plan.shared or short_of_line(p, job.plan) > 0


@apart
def send_edges_of(moving, memory, job, smooth):
    _, _, n, follows, followed = moving.band_out
    whole = n // GROUP * GROUP
    for r in range(moving.count_out):
        p = moved_bytes(moving.target, r * job.grad.strides[2])
        line, back = numbers_in_line(p), short_of_line(p, job.plan)
        start = whole - back
        if back > 0 and not follows:
            store_part(p, 0, min(line - back, n), gradient_at(moving, r, 0, p, memory, job, smooth))
            start = max(start, line - back)
        elif back > 0 and whole == 0:
            put_some(p, -back, n + back, with_left(moving, r, back, p, memory, job, smooth), job.plan.stream)
            start = line - back
        for j in range(start, 0 if followed else n, line):
            put_some(p, j, n - j, gradient_at(moving, r, j, p, memory, job, smooth), job.plan.stream)


@device
def put_some(p, j, n, v, streaming):
    if n < numbers_in_line(p):
        store_part(p, j, n, v)
    else:
        put(p, j, v, streaming)
