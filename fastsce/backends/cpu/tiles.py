"""Tiles: samples side by side, one class after the other, and the way between them and an array of any strides."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce.backends.cpu.ahead import FOUR, prefetch
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import (
    QUAD,
    View,
    adjoin,
    at,
    collect,
    copy_line,
    deal,
    load,
    load_apart,
    moved,
    past_boundary,
    quads_in,
    quads_out,
    store,
    store_apart,
    stream,
    stream_line,
)
from fastsce.backends.cpu.partial import load_part, store_part
from fastsce.backends.cpu.tuning import CLASSES_AHEAD, GROUP, LANES, SHORT_APART


@device
def stride(lanes):
    """From a class to the next in a tile: not a power of two, for then all of them would meet in a few cache sets."""
    return lanes + LANES if lanes > LANES else lanes


@device
def tile_bytes(classes, lanes):
    return 8 * classes * stride(lanes) + 64


@device
def desk_bytes(classes):
    """For the rows of a group, as they are stored."""
    return 8 * GROUP * min(classes, SHORT_APART) + 64


class Part(NamedTuple):
    """n samples from b on of block a, and the tile they belong into."""

    x: Any
    a: Any
    b: Any
    n: Any


class Coming(NamedTuple):
    """A tile that is being brought: what begins with sample j of class c comes next."""

    part: Any
    c: Any
    j: Any


@device
def bring_some(v, coming, width):
    """Bring four steps of a tile of at least one, and ask for what comes CLASSES_AHEAD, in this tile or in the one
    behind it. When all have come, the last class comes again.
    """
    if coming.part.n > FOUR:  # a tenth faster than one by one
        return bring_steps(v, coming, width, FOUR)
    for _ in range(4):
        coming = bring_steps(v, coming, width, LANES)
    return coming


@device
def bring_steps(v, coming, width, size):
    """So many samples of one class."""
    (x, a, b, n), c, j = coming
    c = min(c, v.shape[2] - 1)
    p, soon = at(v, a, b, c), class_ahead(v, coming.part, c)
    for i in range(j, j + size, LANES):
        store(x, c * width + i, load(p, i, LANES))
        prefetch(soon, i, LANES)
    prefetch(soon, j + size, LANES)  # columns need not begin with a cache line
    j += size
    if j + size > n:
        c, j = c + 1, 0
    return Coming(coming.part, c, j)


@device
def class_ahead(v, part, c):
    """Where the samples of a class to come begin."""
    later, b = c + CLASSES_AHEAD, part.b
    if later >= v.shape[2]:
        later, b = min(later - v.shape[2], v.shape[2] - 1), b + part.n
    return at(v, part.a, b, later)


@device
def bring_rest(v, coming, width):
    """What has not come."""
    (x, a, b, n), c, j = coming
    whole, brought = n // LANES * LANES, n // FOUR * FOUR if n > FOUR else n // LANES * LANES
    for k in range(v.shape[2]):
        p, start = at(v, a, b, k), 0
        if k <= c:
            start = j if k == c else brought
        for i in range(start, whole, LANES):
            store(x, k * width + i, load(p, i, LANES))
        if whole < n:
            store(x, k * width + whole, load_part(p, whole, n - whole, 0.0, LANES))


@device
def bring(v, part, width):
    """Fill a tile; whatever in the lanes beyond its samples."""
    x, a, b, n = part.x, part.a, part.b, part.n
    classes, whole = v.shape[2], n // LANES * LANES
    if v.strides[1] == v.item:
        bring_rest(v, Coming(part, 0, 0), width)
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
def take(x, width, n, v, a, b, streaming, desk):
    """The way back; rows that adjoin are put together at a desk, so that they leave in whole lines."""
    classes, whole = v.shape[2], n // LANES * LANES
    if v.strides[1] == v.item:
        for c in range(classes):
            p = at(v, a, b, c)
            whole_lines = streaming and v.item * LANES >= 64 and past_boundary(p, 0) == 0
            for j in range(0, whole, LANES):
                if whole_lines:
                    stream(p, j, load(x, c * width + j, LANES))
                else:
                    store(p, j, load(x, c * width + j, LANES))
            if whole < n:
                store_part(p, whole, n - whole, load(x, c * width + whole, LANES))
        return
    if adjoin(v) and classes < SHORT_APART:
        put_apart(x, width, n, View(desk, v.shape, v.strides, v.item), 0, 0)
        send(desk, at(v, a, b, 0), n * classes, v.item, streaming)
    else:
        put_apart(x, width, n, v, a, b)


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
