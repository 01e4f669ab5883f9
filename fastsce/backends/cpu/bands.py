"""Many classes of samples that lie side by side: losses, and gradients for labels or none, without a softcap.

Lanes run over samples, a band of them at a time. A block of its classes is brought into the cache, where terms take the
logits' place and are added up, relative to what is known of the samples so far. Meanwhile the next block comes, and the
one whose place it takes, of the band before, goes: its terms, times what there is once a sample. So neither memory
nor arithmetic waits, the classes of a band need room once, and long pieces of each are read and written.
"""

from __future__ import annotations

import numpy as np

from fastsce import frame, maths
from fastsce.backends.cpu.coefficients import (
    DISTANCE,
    PLACE,
    POWER,
    PULL,
    PUSH,
    REST,
    SPECIAL,
    TIES,
    X_K,
    X_TOP,
    begin,
    facts_at,
    note_frame,
    row_scales,
    settle,
)
from fastsce.backends.cpu.columns import before_boundary
from fastsce.backends.cpu.exchange import (
    COUNTS,
    FACTORS,
    FOUR,
    LIFTS,
    MS,
    OFFSETS,
    PLACES,
    POWERS,
    PULLS,
    RATES,
    SPECIALS,
    TOPS,
    Band,
    bring_block,
    class_in,
    finish_moving,
    memory_at,
    move,
    moving_of,
    place_at,
    places_of,
    scratch_bytes,
)
from fastsce.backends.cpu.jit import apart, device, kernel
from fastsce.backends.cpu.makings import term_of
from fastsce.backends.cpu.memory import at, fence, load, moved, store
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.plan import IGNORED, NOTHING, job_of
from fastsce.backends.cpu.reductions import first
from fastsce.backends.cpu.strips import weighed
from fastsce.backends.cpu.tuning import (
    BAND_BYTES,
    BAND_LANES,
    BANDED_BYTES,
    BANDS,
    BLOCK_CLASSES,
    GROUP,
    LANES,
    LINE,
    LONGEST_BAND_BYTES,
)
from fastsce.backends.cpu.vectors import lane_numbers, narrow, splat, widen
from fastsce.frame import At

RISE = 6.0  # of z: where a logit is further above m, terms are relative to it from then on
RISEN = 9.0  # octaves, off the power of two of terms: they may be 2^RISEN above what it is made for


# --- room -------------------------------------------------------------------------------------------------------------


def suits(classes, itemsize):
    """Whether samples have as many classes. That alone decides, or a part of a batch might have other bits."""
    return BANDED_BYTES < classes * itemsize <= LONGEST_BAND_BYTES


def planned(block, asked, workers):
    """The plan, and the bytes of memory that each thread needs to itself."""
    a, b, classes = block.shape
    shared = asked.stream and block.line > 0  # else lines need not be whole
    lanes = band_lanes(classes, a, b, block.itemsize, workers, shared)
    count = a * -(-b // lanes)
    parts = min(asked.parts, count, max(1, count // (BANDS * workers)) * workers)  # as many for each
    how = {"lanes": lanes, "width": row_width(lanes), "shared": shared, "block": block_classes(classes)}
    plan = asked._replace(parts=parts, **how)
    return plan, scratch_bytes(classes, plan, block.itemsize)


def band_lanes(classes, a, b, itemsize, workers, shared):
    """How many samples a band has: groups, as far as there are any, and several bands for each thread."""
    wished = min(BAND_BYTES // (classes * itemsize), BAND_LANES, a * b // (4 * workers))
    groups = max(wished // GROUP, 2 if shared else 1)
    return min(groups * GROUP, -(-b // LANES) * LANES)


def block_classes(classes):
    """About as many in each block: fours."""
    blocks = -(-classes // BLOCK_CLASSES)
    return -(-classes // (FOUR * blocks)) * FOUR


def row_width(lanes):
    """From a row to the next: room for a line, and an odd number of LANES, lest classes meet in a few cache sets."""
    return (lanes + LINE) | LANES


# --- bands ------------------------------------------------------------------------------------------------------------


@kernel
def bands(logits, target, weight, row_scale, loss, lse, grad, hess, law, smooth, plan, memory):
    """Each part takes an equal share of the bands; arguments as for `rows.rows`, but `smooth`, which may be None."""
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return hand_out(share, plan.parts, memory, (job, smooth))


@device
def share(queue, scratch, job, smooth):
    """The blocks of one band after the other, of whatever part."""
    plan, classes = job.plan, job.logits.shape[2]
    missing = before_boundary(job.grad, plan.lanes)
    bands = -(-(job.logits.shape[1] + missing) // plan.lanes)
    count, blocks, places = job.logits.shape[0] * bands, -(-classes // plan.block), places_of(classes, plan)
    memory, facts, none = memory_at(scratch, job), facts_at(scratch, job), Band(0, 0, 0, False, False)
    start, before = 0, none
    i, stop = next_share(queue, count, plan.parts)
    here = band_of(i, stop, bands, missing, False, job)
    bring_block(place_at(memory, 0, places, plan), here, memory, job, smooth)
    while here.n > 0 or before.n > 0:
        j, end = i + 1, stop
        if j >= stop:
            j, end = next_share(queue, count, plan.parts)
        followed = plan.shared and i + 1 == j < end and j % bands > 0
        here = Band(here.a, here.b, here.n, here.follows, followed)
        after = band_of(j, end, bands, missing, followed, job)
        begin_band(here, memory, job)
        mass = 0.0
        for k in range(blocks):
            c, place = k * plan.block, place_at(memory, start + k, places, plan)
            some, more = min(plan.block, classes - c), 0.0
            coming, come = (here, c + plan.block) if k + 1 < blocks else (after, 0)
            there = place_at(memory, start + k + 1, places, plan)
            moving = moving_of(there, coming, come, before, c, memory, job, smooth)
            if smooth is not None:
                more = sum_of(job.weight, c, c + some)
            add_block(place, here.n, c, some, (mass, more), moving, memory, job, smooth)
            mass += more
        if here.n > 0:
            settle_band(here, start, memory, facts, job)
        start = (start + blocks) % places
        before, here, i, stop = here if plan.write != NOTHING else none, after, j, end
    fence()


@device
def band_of(i, stop, bands, missing, follows, job):
    """Band i, if it is before `stop`; else none."""
    start = i % bands * job.plan.lanes - missing
    b = max(start, 0)
    n = min(start + job.plan.lanes, job.logits.shape[1]) - b if i < stop else 0
    return Band(i // bands, b, n, follows, False)


# --- terms ------------------------------------------------------------------------------------------------------------


@device
def begin_band(band, memory, job):
    (a, b, n, _, _), own, width = band, memory.own, job.plan.width
    none = splat(narrow(-np.inf, load(own, 0, 0)), LANES)
    zero = splat(narrow(0.0, load(own, 0, 0)), LANES)
    for j in range(0, n, LANES):
        i, some = a * job.logits.shape[1] + b + j, min(LANES, n - j)
        power = maths.carried(row_scales(job.row_scale, i, some, lane_numbers(LANES), job.law))
        store(own, POWERS * width + j, narrow(power - RISEN, none))
        store(own, TOPS * width + j, none)
        store(own, COUNTS * width + j, zero)
        store(memory.sums, j, widen(zero))
        store(memory.far, j, widen(zero))
        set_frame(own, j, none, width, job.law)


@device
def set_frame(own, j, m, width, law):
    at = frame.about(maths.where(m == -np.inf, 0.0, m), load(own, POWERS * width + j, LANES), law)
    store(own, MS * width + j, m)
    store(own, RATES * width + j, at.rate)
    store(own, OFFSETS * width + j, at.offset)
    store(own, LIFTS * width + j, at.lift)


@device
def frame_at(own, j, width):
    rate, offset = load(own, RATES * width + j, LANES), load(own, OFFSETS * width + j, LANES)
    return At(rate, offset, load(own, LIFTS * width + j, LANES))


@apart
def add_block(place, n, c, classes, mass, moving, memory, job, smooth):
    """Classes from c on of n samples, while others move; `mass`: the weights of the classes before, and of these.

    Without branches that depend on logits: to foresee wrongly what they do takes as long as several terms.
    """
    own, width, law, w = memory.own, job.plan.width, job.law, moved(job.weight, c)
    for j in range(0, n, LANES):
        x, before = class_in(moved(place, j), 0, job.plan), load(own, TOPS * width + j, LANES)
        edge = largest_of(x, classes, width)
        m, at, ties = load(own, MS * width + j, LANES), frame_at(own, j, width), load(own, COUNTS * width + j, LANES)
        higher = edge > before  # then terms of what was the largest are added to the others
        rest = maths.where(higher, widen(ties * term_of(before, at, law.inner, None)), 0.0)
        rest = load(memory.sums, j, LANES) + rest
        top, ties = maths.where(higher, edge, before), maths.where(higher, 0.0, ties)
        if first((edge - m) * at.rate > RISE) < LANES:
            rest = rest * raise_frames(j, edge, m, own, width, law)
            m, at = load(own, MS * width + j, LANES), frame_at(own, j, width)
        store(own, TOPS * width + j, top)
        store(place, FACTORS * width + j, m)
        z_top = maths.where(top == -np.inf, 0.0, top)
        (part, ties, far), moving = add_strip(x, w, classes, top, z_top, at, ties, moving, memory, job, smooth)
        store(own, COUNTS * width + j, ties)
        store(memory.sums, j, rest + part)
        if smooth is not None:
            rise = maths.share(splat(mass[0], LANES), (widen(top) - widen(before)) * law.gain)
            rise = maths.where(higher, rise, 0.0)
            further = frame.distance_to(z_top, at, widen(far), splat(mass[1], LANES), law)
            store(memory.far, j, load(memory.far, j, LANES) + rise + further)
    finish_moving(moving, memory, job, smooth)


@device
def largest_of(x, classes, width):
    """Of each of LANES samples. A maximum waits for the one before, so two of them take turns."""
    u = splat(narrow(-np.inf, load(x, 0, 0)), LANES)
    v, pairs = u, classes // 2 * 2
    for k in range(0, pairs, 2):
        u, v = maths.maximum(load(x, k * width, LANES), u), maths.maximum(load(x, (k + 1) * width, LANES), v)
    if pairs < classes:
        u = maths.maximum(load(x, pairs * width, LANES), u)
    return maths.maximum(u, v)


@device
def add_strip(x, w, classes, top, z_top, at, ties, moving, memory, job, smooth):
    """Of LANES samples: the sum of terms but the largest's, how often it occurs, and Σ w·(rate·top − rate·u)."""
    law, width, from_top, part, far = job.law, job.plan.width, at.rate * z_top, splat(0.0, LANES), ties * 0.0
    fours = classes // FOUR * FOUR
    for k in range(0, fours, FOUR):
        v0, ties, far = add_term(x, w, k, width, top, at, from_top, ties, far, law, smooth)
        v1, ties, far = add_term(x, w, k + 1, width, top, at, from_top, ties, far, law, smooth)
        v2, ties, far = add_term(x, w, k + 2, width, top, at, from_top, ties, far, law, smooth)
        v3, ties, far = add_term(x, w, k + 3, width, top, at, from_top, ties, far, law, smooth)
        part = part + widen((v0 + v1) + (v2 + v3))
        moving = move(moving, memory, job, smooth)
    for k in range(fours, classes):
        v0, ties, far = add_term(x, w, k, width, top, at, from_top, ties, far, law, smooth)
        part = part + widen(v0)
    return (part, ties, far), moving


@device
def add_term(x, w, k, width, top, at, from_top, ties, far, law, smooth):
    v = load(x, k * width, LANES)
    t = term_of(v, at, law.inner, None)
    store(x, k * width, t)
    if smooth is not None:  # no distance from itself, however much that weighs
        further = far - weighed(w, k, frame.exponent(v, at.rate, from_top, law.inner, None))
        far = maths.where(v == top, far, further)
    return maths.where(v == top, 0.0, t), maths.where(v == top, ties + 1.0, ties), far


@apart
def raise_frames(j, edge, m, own, width, law):
    """Where a logit is far above m, terms are relative to it from now on. Returns what makes those before so."""
    rises = (edge - m) * load(own, RATES * width + j, LANES) > RISE
    set_frame(own, j, maths.where(rises, edge, m), width, law)
    return maths.where(rises, frame.rebased(m, edge, law), 1.0)


@device
def sum_of(w, start, stop):
    total = 0.0
    for c in range(start, stop):
        total += widen(load(w, c, 0))
    return total


# --- what there is once a sample --------------------------------------------------------------------------------------


@apart
def settle_band(band, start, memory, facts, job):
    (a, b, n, _, _), own, width, law = band, memory.own, job.plan.width, job.law
    for lane in range(0, n, GROUP):
        i, some = a * job.logits.shape[1] + b + lane, min(GROUP, n - lane)
        for j in range(0, some, LANES):
            begin(i + j, min(LANES, some - j), j, facts, job)
            power, m = load(own, POWERS * width + lane + j, LANES), load(own, MS * width + lane + j, LANES)
            top = load(own, TOPS * width + lane + j, LANES)
            store(facts.numbers, POWER + j, power)
            store(facts.numbers, X_TOP + j, top)
            note_frame(moved(facts.numbers, j), m, power, law)
            store(facts.sums, REST + j, load(memory.sums, lane + j, LANES))
            store(facts.sums, TIES + j, widen(load(own, COUNTS * width + lane + j, LANES)))
            store(facts.sums, DISTANCE + j, load(memory.far, lane + j, LANES))
        for j in range(some):
            store(facts.numbers, X_K + j, load(at(job.logits, a, b + lane + j, max(facts.places[PLACE + j], 0)), 0, 0))
        settle(i, some, facts, job, None, None)
        for j in range(0, some if job.plan.write != NOTHING else 0, LANES):
            note_gradient(lane + j, j, start, memory, facts, job)


@device
def note_gradient(lane, j, start, memory, facts, job):
    """The labels and their gradients, and what multiplies the terms of each block."""
    plan, classes, own, width = job.plan, job.logits.shape[2], memory.own, job.plan.width
    y, push = load(facts.places, PLACE + j, LANES), load(facts.numbers, PUSH + j, LANES)
    m, top = load(own, MS * width + lane, LANES), load(own, TOPS * width + lane, LANES)
    store(own, PLACES * width + lane, narrow(y, push))
    store(own, SPECIALS * width + lane, load(facts.numbers, SPECIAL + j, LANES))
    store(own, PULLS * width + lane, load(facts.numbers, PULL + j, LANES))
    zero = widen(top) * 0.0 + load(memory.sums, lane, LANES) * 0.0  # or NaN
    unseen = (zero != zero) & (y == IGNORED)
    for k in range(-(-classes // plan.block)):
        place = place_at(memory, start + k, places_of(classes, plan), plan)
        some = min(plan.block, classes - k * plan.block)
        before, factor = load(place, FACTORS * width + lane, LANES), push
        if first(before != m) < LANES:
            factor = rebase(place, before, m, push, lane, some, job)
        if first(unseen) < LANES:
            factor = maths.where(unseen, push, factor)
            scale_terms(place, maths.where(unseen, 0.0, splat(1.0, LANES)), lane, some, plan)
        store(place, FACTORS * width + lane, factor)


@apart
def rebase(place, before, m, push, lane, classes, job):
    """What multiplies a block's terms, from its m to the last. Where that is too small for a normal number, but what
    comes of it might be none, terms are made the sample's at once.
    """
    factor = maths.where(before == m, 1.0, frame.rebased(before, m, job.law))
    gain, smallest = widen(push) * factor, 2.0**-120 if job.logits.item < 8 else 2.0**-1010
    size = maths.maximum(gain, -gain)
    small = (size < smallest) & (size > smallest * 2.0**-70)
    if first(small) < LANES:
        scale_terms(place, maths.where(small, factor, 1.0), lane, classes, job.plan)
    return maths.where(small, push, narrow(gain, push))


@apart
def scale_terms(place, factor, lane, classes, plan):
    """Times a factor, which may be too small for a float32; nothing, whatever they are, where it is none."""
    for r in range(classes):
        row = class_in(place, r, plan)
        t = load(row, lane, LANES)
        store(row, lane, narrow(maths.where(factor > 0.0, widen(t) * factor, 0.0), t))
