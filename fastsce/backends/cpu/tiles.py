"""Tiles: samples side by side, one class after the other, and the way between them and an array of any strides."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce.backends.cpu.ahead import STRIPS, ask, prefetch
from fastsce.backends.cpu.coefficients import FACTS_BYTES
from fastsce.backends.cpu.jit import apart, device
from fastsce.backends.cpu.memory import (
    View,
    address_of,
    adjoin,
    at,
    copy_line,
    load,
    load_apart,
    load_line,
    moved,
    moved_bytes,
    numbers_in_line,
    past_boundary,
    store,
    store_apart,
    stream,
    stream_line,
    workspace,
)
from fastsce.backends.cpu.partial import load_part, store_part
from fastsce.backends.cpu.plan import NOTHING
from fastsce.backends.cpu.transpose import QUAD, collect, deal, quads_in, quads_out
from fastsce.backends.cpu.tuning import CLASSES_AHEAD, GROUP, LANES, LINE, SHORT_APART, STEP


def tile_width(lanes, line):
    """From a class to the next in a tile: room for the line that the tile before ended in, and an odd number of LANES,
    or classes would meet in a few cache sets.
    """
    return (lanes + max(LANES, line)) | LANES if lanes > LANES else lanes


@device
def tile_bytes(classes, width, itemsize):
    """Of numbers of the working precision; before the first class there is room for a line, too."""
    return max(4, itemsize) * (classes * width + LINE) + 64


@device
def tile_at(scratch, number, job):
    """A tile of those that a thread has: two that come and go in turn, and two for what has no place in these."""
    classes, like = job.logits.shape[2], job.logits.data
    start = FACTS_BYTES + desk_bytes(classes) + number * tile_bytes(classes, job.plan.width, job.logits.item)
    return moved(workspace(scratch, start, like), LINE)


@device
def desk_bytes(classes):
    """For the rows of a group, as they are stored; before that, for what terms with a softcap are made with."""
    return 8 * max(GROUP * min(classes, SHORT_APART), 2 * STEP * LANES) + 64


class Part(NamedTuple):
    """n samples from b on of block a, and the tile they belong into."""

    x: Any
    a: Any
    b: Any
    n: Any
    follows: bool  # what the tile before has left over lies before its first samples
    followed: bool  # it leaves its last samples to the tile behind it, where they fill no line


@device
def unshared(x, a, b, n):
    return Part(x, a, b, n, False, False)


class Coming(NamedTuple):
    """A tile that is being brought: what comes next, and what is left."""

    part: Any
    source: Any
    target: Any
    steps: Any  # of this class
    classes: Any  # this one included


class Going(NamedTuple):
    """A group of a tile that is being sent: the class that goes next, and how many are left."""

    source: Any
    target: Any
    classes: Any
    begun: bool  # the cache line that a class of it begins in holds samples before it


@device
def coming_of(part, v):
    steps = part.n // step_size(part)
    return Coming(part, at(v, part.a, part.b, 0), part.x, steps, v.shape[2] if steps > 0 else 0)


@device
def step_size(part):
    return STRIPS if part.n >= STRIPS else LANES


@device
def gone(part, v):
    """Nothing of it is to go."""
    return Going(part.x, v.data, 0, False)


class Moving(NamedTuple):
    """What moves while terms are worked out: a tile that comes, a group that goes, lines that are asked for."""

    coming: Any
    going: Any
    later: Any
    soon: Any


@device
def move_some(moving, i, width, job):
    """A step of each, before the group's place is taken by what comes."""
    coming, going, later, soon = moving
    if going.classes > 0:
        going = send_class(job.grad, going, job.plan)
    if coming.classes > 0:
        coming = bring_some(job.logits, coming, width)
    elif coming.part.n == 0:
        ask(later, i)
        ask(soon, i)
    return Moving(coming, going, later, soon)


@device
def bring_some(v, coming, width):
    """Bring four steps of LANES samples, if so many are left."""
    if coming.part.n >= STRIPS:  # a tenth faster than one by one
        return bring_step(v, coming, width, STRIPS)
    for _ in range(4):
        if coming.classes > 0:
            coming = bring_step(v, coming, width, LANES)
    return coming


@device
def bring_step(v, coming, width, size):
    """So many samples of one class. Those CLASSES_AHEAD, in this tile or in the one behind it, are asked for."""
    part, source, target, steps, classes = coming
    ahead = min(CLASSES_AHEAD, v.shape[2])
    later = ahead * v.strides[2]
    if classes <= ahead:
        later += part.n * v.item - v.shape[2] * v.strides[2]
    soon = moved_bytes(source, later)
    for i in range(0, size, LANES):
        store(target, i, load(source, i, LANES))
        prefetch(soon, i, LANES)
    prefetch(soon, size, LANES)  # columns need not begin with a cache line
    source, target, steps = moved(source, size), moved(target, size), steps - 1
    if steps == 0:
        steps, classes = part.n // size, classes - 1
        source, target = moved_bytes(source, v.strides[2] - steps * size * v.item), moved(target, width - steps * size)
    return Coming(part, source, target, steps, classes)


@device
def bring_rest(v, coming, width):
    """What has not come."""
    x, a, b, n, _, _ = coming.part
    while coming.classes > 0:
        coming = bring_some(v, coming, width)
    begin, whole = n - n % step_size(coming.part), n - n % LANES
    for c in range(v.shape[2] if begin < n else 0):
        p = at(v, a, b, c)
        for i in range(begin, whole, LANES):
            store(x, c * width + i, load(p, i, LANES))
        if whole < n:
            store(x, c * width + whole, load_part(p, whole, n - whole, 0.0, LANES))


@device
def bring(v, part, width):
    """Fill a tile; whatever in the lanes beyond its samples."""
    x, a, b, n = part.x, part.a, part.b, part.n
    classes, whole = v.shape[2], n // LANES * LANES
    if v.strides[1] == v.item:
        bring_rest(v, coming_of(part, v), width)
        return
    quads, few = v.strides[2] == v.item and classes >= QUAD, adjoin(v) and 2 <= classes <= 3
    for j in range(0, whole, LANES):
        if few:
            deal_few(at(v, a, b + j, 0), classes, moved(x, j), width)
        for c in range(0, 0 if few else classes, QUAD if quads else 1):
            if quads:
                start = min(c, classes - QUAD)  # the last four overlap those before
                quads_in(at(v, a, b + j, start), v.strides[1], moved(x, start * width + j), width)
            else:
                store(x, c * width + j, load_apart(at(v, a, b + j, c), v.strides[1], LANES))
    for c in range(classes):
        for j in range(whole, n):
            store(x, c * width + j, load(at(v, a, b + j, c), 0, 0))


@device
def deal_few(source, classes, target, width):
    """LANES rows of 2 or 3 classes: how many is known when compiling."""
    if classes == 2:
        deal(source, 2, target, width)
    else:
        deal(source, 3, target, width)


@device
def collect_few(source, width, classes, target):
    """The way back."""
    if classes == 2:
        collect(source, width, 2, target)
    else:
        collect(source, width, 3, target)


@device
def next_to_go(going, part, lane, n, job):
    """Send what is left of a group, and let the next go if it is whole; the others are edges."""
    v, plan = job.grad, job.plan
    send_rest(v, going, plan)
    if n == GROUP and plan.write != NOTHING and v.strides[1] == v.item:
        return going_of(part, lane, v)
    return gone(part, v)


@device
def going_of(part, lane, v):
    return Going(moved(part.x, lane), at(v, part.a, part.b + lane, 0), v.shape[2], lane > 0 or part.follows)


@device
def send_rest(v, going, plan):
    if going.classes > 0:  # a call takes as long as a small tile's tenth
        send_classes(v, going, plan)


@apart
def send_classes(v, going, plan):
    while going.classes > 0:
        going = send_class(v, going, plan)


@device
def send_class(v, going, plan):
    """The lines that are whole with a class of a group: the first may begin with samples of the group before, and the
    last samples wait for the group behind, for the next tile or for `send_edges`.
    """
    source, target, classes, begun = going
    back = past_line(target)
    x, p = moved(source, -back), moved(target, -back)
    if plan.stream:  # asked once and not for each line: 0.98 of the time
        if begun or back == 0:
            stream(p, 0, load_line(x, 0, p))
        for j in range(numbers_in_line(p), GROUP, numbers_in_line(p)):
            stream(p, j, load_line(x, j, p))
    else:
        if begun or back == 0:
            store(p, 0, load_line(x, 0, p))
        for j in range(numbers_in_line(p), GROUP, numbers_in_line(p)):
            store(p, j, load_line(x, j, p))
    return Going(moved(source, plan.width), moved_bytes(target, v.strides[2]), classes - 1, begun)


@device
def past_line(p):
    """How many elements lie between the beginning of a cache line and p."""
    return -past_boundary(p, 0) & (numbers_in_line(p) - 1)


@apart
def send_edges(part, v, plan):
    """Of each class what `send_class` leaves: samples that fill no line, before those that do and behind them."""
    x, a, b, n, follows, followed = part
    width, whole = plan.width, n // GROUP * GROUP
    if (follows and followed) or (whole == n and (address_of(at(v, a, b, 0)) | v.strides[2]) % 64 == 0):
        return
    if whole == 0 and not follows:
        for c in range(v.shape[2]):
            p = at(v, a, b, c)
            for j in range(0, n, LANES):
                send_some(x, c * width + j, p, j, n - j, plan.stream)
        return
    for c in range(v.shape[2]):
        p = at(v, a, b, c)
        back = past_line(p)
        head = 0 if follows else -back & (numbers_in_line(p) - 1)
        for j in range(0, head, LANES):
            send_some(x, c * width + j, p, j, head - j, plan.stream)
        stop = n - back if followed else n
        for j in range(whole - back, stop, LANES):
            send_some(x, c * width + j, p, j, stop - j, plan.stream)


@device
def leave_over(part, y, v, width):
    """Put the last samples of each class before the first ones of the next tile."""
    line = numbers_in_line(v.data)
    for c in range(v.shape[2]):
        store(y, c * width - line, load_line(part.x, c * width + part.n - line, v.data))


@device
def send_some(x, i, p, j, n, streaming):
    """LANES numbers at most; they are streamed if they are whole lines."""
    v = load(x, i, LANES)
    if n < LANES:
        store_part(p, j, n, v)
    elif streaming and numbers_in_line(p) <= LANES and past_boundary(p, j) == 0:
        stream(p, j, v)
    else:
        store(p, j, v)


@device
def send_groups(part, v, plan):
    """All at once, where samples lie side by side."""
    for lane in range(0, part.n // GROUP * GROUP if v.strides[1] == v.item else 0, GROUP):
        send_rest(v, going_of(part, lane, v), plan)


@device
def take(part, v, plan, desk):
    """The way back of what has not gone. Rows that adjoin are put together at a desk, so that they leave in whole
    lines.
    """
    x, a, b, n, _, _ = part
    if v.strides[1] == v.item:
        send_edges(part, v, plan)
        return
    for lane in range(0, n, GROUP):
        some, p = min(GROUP, n - lane), moved(x, lane)
        if adjoin(v) and v.shape[2] < SHORT_APART:
            put_apart(p, plan.width, some, View(desk, v.shape, v.strides, v.item), 0, 0)
            send(desk, at(v, a, b + lane, 0), some * v.shape[2], v.item, plan.stream)
        else:
            put_apart(p, plan.width, some, v, a, b + lane)


@device
def put_apart(x, width, n, v, a, b):
    """Samples that do not lie side by side."""
    classes, whole = v.shape[2], n // LANES * LANES
    quads, few = v.strides[2] == v.item and classes >= QUAD, adjoin(v) and 2 <= classes <= 3
    for j in range(0, whole, LANES):
        if few:
            collect_few(moved(x, j), width, classes, at(v, a, b + j, 0))
        for c in range(0, 0 if few else classes, QUAD if quads else 1):
            if quads:
                start = min(c, classes - QUAD)
                quads_out(moved(x, start * width + j), width, at(v, a, b + j, start), v.strides[1])
            else:
                store_apart(at(v, a, b + j, c), v.strides[1], load(x, c * width + j, LANES))
    for c in range(classes):
        for j in range(whole, n):
            store(at(v, a, b + j, c), 0, load(x, c * width + j, 0))


@device
def send(source, target, n, item, streaming):
    """n numbers, in whole cache lines but for the first and the last."""
    line = 64 // item
    head = min(past_boundary(target, 0), n)
    whole = head + (n - head) // line * line
    for i in range(head):
        target[i] = source[i]
    if streaming:
        for i in range(head, whole, line):
            stream_line(source, target, i)
    else:
        for i in range(head, whole, line):
            copy_line(source, target, i)
    for i in range(whole, n):
        target[i] = source[i]
