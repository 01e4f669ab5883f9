"""Numbers of rows: the pass over the labels that comes first, which refuses bad ones and finds what the mean divides
by; and the sum of the losses, which comes last.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.memory import gather, pointer, store
from fastsce.backends.cpu.partial import load_part
from fastsce.backends.cpu.parts import hand_out, next_share
from fastsce.backends.cpu.reductions import total as sum_of
from fastsce.backends.cpu.threads import parts_of, run
from fastsce.backends.cpu.tuning import LANES, PIECE
from fastsce.backends.cpu.vectors import frozen, splat
from fastsce.maths import where


def scan_labels(labels, classes, ignore_index, weight, sample_weight, summed=True, checked=None):
    """The first bad row (or −1), and Σ w_y·sample_weight over the rows not ignored, whether asked for or not."""
    labels = labels if labels.ndim == 1 else labels.reshape(-1)
    plain = weight is None and sample_weight is None
    kind = weight is None, sample_weight is None
    if plain and labels.size <= PIECE:
        args = (labels, classes, ignore_index)
        return scan_few.entry(None, args)(*args)
    if not plain:
        sample_weight = np.ones(1) if sample_weight is None else sample_weight.reshape(-1)
    found = np.empty((-(-labels.size // PIECE), 2))
    size = labels.nbytes // 8 if plain else labels.nbytes  # they are only read, some eight times as fast as logits
    parts = parts_of(size, found.shape[0])
    run(scan, kind, (labels, classes, ignore_index, weight, sample_weight, found, parts), parts, 0, size)
    bad, total = -1, 0.0
    for first, part in found.tolist():
        bad, total = int(first) if bad < 0 else bad, total + part
    return bad, total


@kernel
def scan_few(labels, classes, ignore_index):
    return scan_piece(Labels(pointer(labels), labels.shape[0], classes, ignore_index), None, 0)


@kernel
def scan(labels, classes, ignore_index, weight, sample_weight, found, parts, memory):
    """`found` gets the first bad row and the sum of each piece; each of weight and sample_weight may be None, but
    for sample_weight beside a weight.
    """
    job = Labels(pointer(labels), labels.shape[0], classes, ignore_index)
    return hand_out(scan_share, parts, memory, (job, weights_of(weight, sample_weight), pointer(found), parts))


class Labels(NamedTuple):
    data: Any
    size: int
    classes: int
    ignore_index: int


@device
def weights_of(weight, sample_weight):
    if sample_weight is None:
        return None
    return pointer(weight), pointer(sample_weight), 0 if sample_weight.size == 1 else 1


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


def sum_losses(losses, divisor, out):
    """Σ losses ÷ divisor, added in an order of its own, whatever the number of threads."""
    if losses.size <= PIECE:
        args = (losses, divisor, out[None])
        sum_up.entry(out.dtype.char, args)(*args)
        return
    found = np.empty(-(-losses.size // PIECE))
    size = losses.nbytes // 8  # as labels, they are only read
    parts = parts_of(size, found.size)
    run(sum_pieces, None, (losses, found, parts), parts, 0, size)
    with np.errstate(all="ignore"):
        out[...] = in_order(found) / divisor


def in_order(sums):
    """Their sum, one after the other."""
    total = 0.0
    for part in sums.tolist():
        total += part
    return np.float64(total)


@kernel
def sum_up(values, divisor, out):
    """Σ values ÷ divisor, of one piece."""
    out[0] = add_up(pointer(values), 0, values.shape[0]) / divisor


@kernel
def sum_pieces(values, found, parts, memory):
    """`found` gets the sum of each piece."""
    return hand_out(sum_share, parts, memory, (pointer(values), values.shape[0], pointer(found), parts))


@device
def sum_share(queue, scratch, p, n, found, parts):
    pieces = -(-n // PIECE)
    start, stop = next_share(queue, pieces, parts)
    while start < stop:
        for piece in range(start, stop):
            store(found, piece, add_up(p, piece * PIECE, min((piece + 1) * PIECE, n)))
        start, stop = next_share(queue, pieces, parts)


@device
def add_up(p, start, stop):
    lanes = splat(0.0, LANES)
    for j in range(start, stop, LANES):
        lanes = lanes + load_part(p, j, stop - j, 0.0, LANES)
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
    weight, sample_weight, step = weights
    sums = splat(0.0, LANES)
    for i in range(start, stop, LANES):
        y = frozen(load_part(labels.data, i, stop - i, labels.ignore_index, LANES))  # the caller may change it
        y = where(y == labels.ignore_index, -1, where(y < labels.classes, y, -1))
        own = load_part(sample_weight, i, stop - i, 0.0, LANES) if step else splat(sample_weight[0], LANES)
        sums = sums + where(y < 0, 0.0, with_class(own, weight, where(y < 0, 0, y)))
    return sum_of(sums)


@device
def with_class(own, weight, y):
    if weight is None:
        return own
    return own * gather(weight, y)
