"""Rows side by side: lanes run over samples, one class after the other.

For short rows and for rows whose classes do not lie side by side in memory, but what few.py and bands.py take. A tile
of samples is brought into the cache as (classes, samples) numbers of the working precision, is worked on there in
strips of LANES samples (by plain.py where there are labels and no options), and what comes out of it goes back the same
way.
"""

from __future__ import annotations

from fastsce import maths
from fastsce.backends.cpu.ahead import STRIPS, ask_for_group, further, lines_about
from fastsce.backends.cpu.coefficients import (
    FACTS_BYTES,
    PLACE,
    POWER,
    Q_K,
    REST,
    TIES,
    TOP_PLACE,
    X_K,
    X_TOP,
    begin,
    facts_at,
    is_plain,
    note_frame,
    settle_rows,
    takes,
)
from fastsce.backends.cpu.jit import apart, device, kernel
from fastsce.backends.cpu.makings import Makings
from fastsce.backends.cpu.memory import fence, gather, load, moved, past_boundary, spare, store, workspace
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.plain import plain_tile
from fastsce.backends.cpu.plan import (
    HESSIAN,
    LOG_SOFTMAX,
    NOTHING,
    job_of,
    softness,
)
from fastsce.backends.cpu.strips import (
    clear_ignored,
    first_largest,
    largest_logit,
    terms,
    weigh,
    write_gradient,
    write_hessian,
    write_log_softmax,
)
from fastsce.backends.cpu.tiles import (
    Moving,
    Part,
    bring,
    bring_rest,
    coming_of,
    desk_bytes,
    gone,
    leave_over,
    next_to_go,
    send_groups,
    send_rest,
    take,
    tile_at,
    tile_bytes,
    tile_width,
    unshared,
)
from fastsce.backends.cpu.tuning import (
    COLUMN_BYTES,
    GROUP,
    GROUP_COLUMN_BYTES,
    LANES,
    LINE,
    ROW_BYTES,
    STEP,
    TILE_LANES,
    TILES,
)
from fastsce.backends.cpu.vectors import lane_numbers


def tile_lanes(classes, samples, itemsize, contiguous):
    """How many samples a tile holds; of columns whole groups, if there are so many, or LANES."""
    column = classes * itemsize
    if contiguous:
        wished = max(LANES, min(ROW_BYTES // column, TILE_LANES))
    else:
        wished = min(max(GROUP, COLUMN_BYTES // column // GROUP * GROUP), TILE_LANES)
        wished = wished if wished * column <= GROUP_COLUMN_BYTES else LANES
    return min(wished, samples + LANES - 1) // LANES * LANES


def planned(block, asked, workers):
    """The plan, and the bytes of memory that each thread needs to itself."""
    a, b, classes = block.shape
    lanes = tile_lanes(classes, b, block.itemsize, block.contiguous)
    tiles, shared, parts = a * -(-b // lanes), block.line > 0 and b > lanes >= GROUP, asked.parts
    if shared:
        parts = min(parts, -(-tiles // (TILES * workers)) * workers)  # as many for each
    how = {"lanes": lanes, "width": tile_width(lanes, block.line), "shared": shared}
    plan = asked._replace(parts=min(parts, tiles), **how)
    own = 4 if block.apart or asked.write in (HESSIAN, LOG_SOFTMAX) else 2
    return plan, scratch_bytes(classes, plan.width, block.itemsize, own)


def scratch_bytes(classes, width, itemsize, own):
    """With so many tiles."""
    return FACTS_BYTES + desk_bytes(classes) + own * tile_bytes(classes, width, itemsize)


@kernel
def columns(logits, target, weight, row_scale, loss, lse, grad, hess, law, softcap, plan, memory):
    """Each part takes an equal share of the tiles; arguments as for `rows.rows`."""
    job = job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan)
    return hand_out(share, plan.parts, memory, (job, softness(target), softcap))


@device
def share(queue, scratch, job, soft, softcap):
    """Where samples lie side by side, a tile comes while the one that this thread had before it, of whatever part, is
    worked on.
    """
    lanes, shared = job.plan.lanes, job.plan.shared
    missing = before_boundary(job.grad, lanes)
    tiles = -(-(job.logits.shape[1] + missing) // lanes)
    count = job.logits.shape[0] * tiles
    side_by_side = job.logits.strides[1] == job.logits.item
    x, other = tile_at(scratch, 0, job), tile_at(scratch, 1, job)
    nothing = unshared(x, 0, 0, 0)
    going = gone(nothing, job.grad)
    brought = follows = False
    i, stop = next_share(queue, count, job.plan.parts)
    while i < stop:
        j, end = i + 1, stop
        if j == stop:
            j, end = next_share(queue, count, job.plan.parts)
        followed = shared and i + 1 == j < end and j % tiles > 0
        here = samples_of(i, tiles, lanes, missing, x, job.logits, follows, followed)
        after = samples_of(j, tiles, lanes, missing, other, job.logits, False, False)
        if not brought:
            bring(job.logits, here, job.plan.width)
        brought = side_by_side and j < end
        if not brought:
            after = nothing
        going = tile(here, after, going, job, soft, softcap, scratch)
        if followed:
            leave_over(here, other, job.grad, job.plan.width)
        x, other, i, stop, follows = other, x, j, end, followed
    send_rest(job.grad, going, job.plan)
    fence()


@device
def samples_of(i, tiles, lanes, missing, x, v, follows, followed):
    """Tile i."""
    start = i % tiles * lanes - missing
    b = max(start, 0)
    return Part(x, i // tiles, b, min(start + lanes, v.shape[1]) - b, follows, followed)


@device
def before_boundary(v, lanes):
    """How many samples a first tile is short of, so that all classes of others begin with a cache line, or half."""
    if v.shape[1] <= lanes or v.strides[1] != v.item or v.strides[2] % 64 > 0:
        return 0
    return -past_boundary(v.data, 0) % min(lanes, LINE)


@device
def tile(here, after, going, job, soft, softcap, scratch):
    """Work on a tile. Where samples lie side by side, the tile after it is brought meanwhile, and the group before is
    sent: after four terms four steps of the one and a class of the other, so that memory need not wait for arithmetic.
    What is still to come and to go is handed from function to function.
    """
    plan, width = job.plan, job.plan.width
    e = here.x  # terms take the logits' place, unless both are asked for
    if softcap is not None or plan.write == HESSIAN or plan.write == LOG_SOFTMAX:
        e = tile_at(scratch, 2, job)
    q = tile_at(scratch, 3, job)
    if soft is not None:
        bring(job.soft, unshared(q, here.a, here.b, here.n), width)
    desk = spare(scratch, FACTS_BYTES, job.logits.data)
    coming = coming_of(after, job.logits)
    if after.n < STRIPS:  # several classes come at a time, into the tile from which one goes
        send_rest(job.grad, going, plan)
        going = gone(here, job.grad)
    if soft is None and softcap is None and is_plain(job.law, plan):
        coming, going = plain_tile(here, e, coming, going, job)
    else:
        facts = facts_at(scratch, job)
        coming, going = noted_tile(here, e, q, coming, going, makings_at(scratch, job), facts, job, soft, softcap)
    if plan.write != NOTHING:
        take(here, job.grad, plan, desk)
    if plan.write == HESSIAN:
        there = unshared(e, here.a, here.b, here.n)
        send_groups(there, job.hess, plan)
        take(there, job.hess, plan, desk)
    if after.n > 0:
        bring_rest(job.logits, coming, width)
    return going


@device
def makings_at(scratch, job):
    """Those of STEP classes of a strip, where the desk is later."""
    p = workspace(scratch, FACTS_BYTES, job.logits.data)
    return Makings(p, moved(p, STEP * LANES))


@apart
def noted_tile(here, e, q, coming, going, makings, facts, job, soft, softcap):
    """Work on a tile in three passes over each group. The gradient is left in its place, the Hessian in e."""
    (x, a, b, samples, _, _), classes = here, job.logits.shape[2]
    later, soon = lines_about(job, a, b)
    for lane in range(0, samples, GROUP):
        i, n = a * job.logits.shape[1] + b + lane, min(GROUP, samples - lane)
        for j in range(0, n, LANES):
            moving = Moving(coming, going, further(later, lane + j, classes), further(soon, lane + j, classes))
            some = min(LANES, n - j)
            moving = read_strip(i + j, some, lane + j, j, x, e, q, moving, makings, facts, job, soft, softcap)
            coming, going, _, _ = moving
            ask_for_group(job, i + j)
        settle_rows(i, n, facts, job, soft, softcap)
        if job.plan.write != NOTHING:
            for j in range(0, n, LANES):
                write_strip(lane + j, j, x, e, q, facts, job, soft, softcap)
        going = next_to_go(going, here, lane, n, job)
    return coming, going


@device
def read_strip(i, n, lane, j, x, e, q, moving, makings, facts, job, soft, softcap):
    """x[c·width + lane …]: class c of these rows; facts[… + j …]: theirs."""
    law, plan, classes, width = job.law, job.plan, job.logits.shape[2], job.plan.width
    y = begin(i, n, j, facts, job)
    clear_ignored(y, x, lane, width, classes)
    x_top = largest_logit(x, lane, width, classes)
    k = maths.where(y < 0, 0, y)
    if soft is not None or plan.write == HESSIAN:
        top_place = first_largest(x, lane, width, classes, x_top)
        store(facts.places, TOP_PLACE + j, top_place)
        if soft is not None:
            k = top_place
            store(facts.places, PLACE + j, k)
            store(facts.numbers, Q_K + j, gather(q, k * width + (lane_numbers(LANES) + lane)))
    store(facts.numbers, X_TOP + j, x_top)
    store(facts.numbers, X_K + j, gather(x, k * width + (lane_numbers(LANES) + lane)))
    power = load(facts.numbers, POWER + j, LANES)
    m, about = note_frame(moved(facts.numbers, j), maths.unit(x_top, law.inner, softcap), power, law)
    if takes(law, soft):
        weigh(x, q, lane, j, m, about, facts, job, soft, softcap)
    rest, ties, moving = terms(x, e, makings, lane, width, classes, x_top, about, moving, job, softcap)
    store(facts.sums, REST + j, rest)
    store(facts.sums, TIES + j, ties)
    return moving


@device
def write_strip(lane, j, x, e, q, facts, job, soft, softcap):
    plan, classes, width = job.plan, job.logits.shape[2], job.plan.width
    if plan.write == LOG_SOFTMAX:
        write_log_softmax(x, lane, j, width, classes, facts)
        return
    write_gradient(x, e, q, lane, j, facts, job, soft, softcap)
    if plan.write == HESSIAN:
        write_hessian(e, lane, j, width, classes, facts)
