"""Numbers of rows: the pass over the labels that comes first, which refuses bad ones and finds what the mean divides
by; and the sum of the losses, or what the caller gets of each, which comes last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce import host
from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import gather, load, pointer, store
from fastsce.backends.cpu.partial import load_part, store_part
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.plan import Line
from fastsce.backends.cpu.reductions import total as sum_of
from fastsce.backends.cpu.threads import parts_of, run
from fastsce.backends.cpu.tuning import LANES, PIECE
from fastsce.backends.cpu.vectors import frozen, splat
from fastsce.host import INT64, borrow, empty, numbers
from fastsce.maths import narrow, where, widen

NARROW = {np.dtype(kind) for kind in ("i1", "i2", "i4", "u1", "u2", "u4")}


def int64_labels(target):
    """Labels as int64, side by side, which all threads make of many."""
    flags = target.flags
    if target.size <= PIECE or target.dtype not in NARROW or not (flags.c_contiguous and flags.aligned):
        return host.labels(target)
    wide = borrow(target, target.shape).view(INT64)
    size = wide.nbytes // 4  # there is less to do than for as many bytes of logits
    parts = parts_of(size, -(-wide.size // PIECE))
    run(widened, target.dtype.char, (target.reshape(-1), wide.reshape(-1), parts), parts, 0, size)
    return wide


@kernel
def widened(target, wide, parts, memory):
    return hand_out(widen_share, parts, memory, (pointer(target), pointer(wide), wide.shape[0], parts))


@device
def widen_share(queue, scratch, p, wide, n, parts):
    start, stop = next_share(queue, -(-n // PIECE), parts)
    while start < stop:
        for i in range(start * PIECE, min(stop * PIECE, n)):
            wide[i] = p[i]
        start, stop = next_share(queue, -(-n // PIECE), parts)


def scan_labels(spec, labels, classes, weight, sample_weight, summed=True, checked=None):
    """The first bad row (or −1); Σ w_y·sample_weight over the rows not ignored, whether asked for or not; and the
    weights to go on with, in float64: of classes, or None where rows have theirs; of rows, 0 for ignored ones, or None.
    """
    flat = labels if labels.ndim == 1 else labels.reshape(-1)
    plain = weight is None and sample_weight is None
    if plain and flat.size <= PIECE:
        args = (flat, classes, spec.ignore_index)
        return *scan_few.entry(None, args)(*args), None, None
    both, weights, each, kind = of_rows_alone(spec, weight), None, None, None
    if not plain:
        own = np.ones(1) if sample_weight is None else readable(sample_weight).reshape(-1)
        if both or sample_weight is not None:
            each = borrow(labels, labels.shape)
        weights = weight, own, np.empty(0) if each is None else each.reshape(-1), both
        kind = weight is None, own.dtype
    found = np.empty((-(-flat.size // PIECE), 2))
    size = flat.nbytes // 8 if plain else flat.nbytes  # they are only read, some eight times as fast as logits
    parts = parts_of(size, found.shape[0])
    run(scan, kind, (flat, classes, spec.ignore_index, weights, found, parts), parts, 0, size)
    bad, total = -1, 0.0
    for first, part in found.tolist():
        bad, total = int(first) if bad < 0 else bad, total + part
    return bad, total, None if both else weight, each


def of_rows_alone(spec, weight):
    """Whether the weight of a class multiplies nothing but the losses of its rows. Of an infinite loss 0 leaves 0 if it
    is a class's, and NaN if it is a row's, so there must be none.
    """
    return not (spec.label_smoothing or spec.z_loss) and (weight is None or np.count_nonzero(weight) == weight.size)


def readable(sample_weight):
    """As the kernel reads it."""
    flags = sample_weight.flags
    plain = sample_weight.dtype in (np.float32, np.float64) and flags.c_contiguous and flags.aligned
    return sample_weight if plain else numbers(sample_weight)


@kernel
def scan_few(labels, classes, ignore_index):
    return scan_piece(Labels(pointer(labels), labels.shape[0], classes, ignore_index), None, 0)


@kernel
def scan(labels, classes, ignore_index, weights, found, parts, memory):
    """`found` gets the first bad row and the sum of each piece.

    weights: None, or of classes (C,) or None, of rows (N,) or (1,), what is to go on of them (N,) or (0,), and whether
    that is to be both.
    """
    job = Labels(pointer(labels), labels.shape[0], classes, ignore_index)
    return hand_out(scan_share, parts, memory, (job, weights_of(weights), pointer(found), parts))


class Labels(NamedTuple):
    data: Any
    size: int
    classes: int
    ignore_index: int


class Weights(NamedTuple):
    """What rows count."""

    classes: Any  # pointer, (C,), or None
    rows: Any  # pointer
    step: int  # 0 if all rows share one number
    each: Any  # pointer, (N,): what goes on of them, in float64
    kept: bool  # whether any goes on
    both: bool  # rows' own times those of their classes, not rows' own alone


@device
def weights_of(given):
    if given is None:
        return None
    classes, own, each, both = given
    return Weights(pointer(classes), pointer(own), 0 if own.size == 1 else 1, pointer(each), each.size > 0, both)


@device
def scan_share(queue, scratch, labels, weights, found, parts):
    pieces = -(-labels.size // PIECE)
    start, stop = next_share(queue, pieces, parts)
    while start < stop:
        for piece in range(start, stop):
            bad, total = scan_piece(labels, weights, piece * PIECE)
            store(found, 2 * piece, np.float64(bad))
            store(found, 2 * piece + 1, total)
        start, stop = next_share(queue, pieces, parts)


@device
def scan_piece(labels, weights, start):
    stop = min(start + PIECE, labels.size)
    valid, ignored = count(labels.data, start, stop, labels.classes, labels.ignore_index)
    if valid + ignored < stop - start:
        return first_bad(labels.data, start, stop, labels.classes, labels.ignore_index), 0.0
    return -1, np.float64(valid) if weights is None else weigh(labels, start, stop, weights)


def finished(losses, sample_weight, labels, ignore_index, dtype):
    """Losses times their rows' weights, in another dtype. What `scan_labels` leaves of ignored rows' weights is 0."""
    exact = losses.dtype == dtype
    if sample_weight is None and exact:
        return losses
    out = losses if exact else empty(losses, losses.shape, dtype)
    weights = np.empty(0) if sample_weight is None else sample_weight.reshape(-1)
    size = losses.nbytes // 4  # there is less to do than for as many bytes of logits
    parts = parts_of(size, -(-losses.size // PIECE))
    if losses.size:
        run(finish, dtype.char, (losses.reshape(-1), weights, out.reshape(-1), parts), parts, 0, size)
    return out


def sum_losses(losses, divisor, out):
    """Σ losses ÷ divisor."""
    if losses.size <= PIECE:
        args = (losses, divisor, out[None])
        sum_up.entry(out.dtype.char, args)(*args)
        return
    with np.errstate(all="ignore"):
        out[...] = sum_weighted(losses, np.empty(0)) / divisor


def sum_weighted(losses, weights):
    """Σ losses·weights, or Σ losses if there are none, added in an order of its own, whatever the number of threads."""
    found = np.empty(-(-losses.size // PIECE))
    size = losses.nbytes // 8  # as labels, they are only read
    parts = parts_of(size, found.size)
    run(sum_pieces, None, (losses, weights, found, parts), parts, 0, size)
    return in_order(found)


def in_order(sums):
    """Their sum, one after the other."""
    total = 0.0
    for part in sums.tolist():
        total += part
    return np.float64(total)


@kernel
def sum_up(values, divisor, out):
    """Σ values ÷ divisor, of one piece."""
    out[0] = add_up(pointer(values), Line(pointer(values), 0), 0, values.shape[0]) / divisor


@kernel
def sum_pieces(values, weights, found, parts, memory):
    """`found` gets the sum of each piece."""
    share = Line(pointer(weights), min(weights.size, 1))
    return hand_out(sum_share, parts, memory, (pointer(values), share, values.shape[0], pointer(found), parts))


@kernel
def finish(values, weights, out, parts, memory):
    """out = values·weights, or values if there are none."""
    share = Line(pointer(weights), min(weights.size, 1))
    return hand_out(finish_share, parts, memory, (pointer(values), share, values.shape[0], pointer(out), parts))


@device
def finish_share(queue, scratch, p, share, n, out, parts):
    start, stop = next_share(queue, -(-n // PIECE), parts)
    while start < stop:
        end = min(stop * PIECE, n)
        for j in range(start * PIECE, end, LANES):
            store_part(out, j, end - j, narrow(with_share(p, share, j, end), load(out, 0, 0)))
        start, stop = next_share(queue, -(-n // PIECE), parts)


@device
def with_share(p, share, j, stop):
    """Numbers from j on, times what each counts; a step of 0 stands for 1."""
    v = load_part(p, j, stop - j, 0.0, LANES)
    if share.step:
        v = v * load_part(share.data, j, stop - j, 0.0, LANES)
    return v


@device
def sum_share(queue, scratch, p, share, n, found, parts):
    pieces = -(-n // PIECE)
    start, stop = next_share(queue, pieces, parts)
    while start < stop:
        for piece in range(start, stop):
            store(found, piece, add_up(p, share, piece * PIECE, min((piece + 1) * PIECE, n)))
        start, stop = next_share(queue, pieces, parts)


@device
def add_up(p, share, start, stop):
    """Their sum."""
    lanes = splat(0.0, LANES)
    for j in range(start, stop, LANES):
        lanes = lanes + with_share(p, share, j, stop)
    return sum_of(lanes)


@device
def count(p, start, stop, classes, ignore_index):
    """How many rows are valid, and how many ignored."""
    valid, ignored = 0, 0
    for i in range(start, stop):
        skip = p[i] == ignore_index
        ignored += skip
        valid += (p[i] >= 0) & (p[i] < classes) & (not skip)
    return valid, ignored


@device
def first_bad(p, start, stop, classes, ignore_index):
    for i in range(start, stop):
        if p[i] != ignore_index and (p[i] < 0 or p[i] >= classes):
            return i
    return -1


@device
def weigh(labels, start, stop, weights):
    sums = splat(0.0, LANES)
    for i in range(start, stop, LANES):
        y = frozen(load_part(labels.data, i, stop - i, labels.ignore_index, LANES))  # the caller may change it
        y = where(y == labels.ignore_index, -1, where(y < labels.classes, y, -1))
        own = splat(np.float64(weights.rows[0]), LANES)
        if weights.step:
            own = widen(load_part(weights.rows, i, stop - i, 0.0, LANES))
        own = where(y < 0, 0.0, own)
        both = where(y < 0, 0.0, with_class(own, weights.classes, where(y < 0, 0, y)))
        sums = sums + both
        if weights.kept:
            store_part(weights.each, i, stop - i, both if weights.both else own)
    return sum_of(sums)


@device
def with_class(own, weight, y):
    if weight is None:
        return own
    return own * gather(weight, y)
