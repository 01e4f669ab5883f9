"""The pass over the labels that comes first: it refuses bad ones and finds what the mean divides by."""

from __future__ import annotations

from functools import partial

import numpy as np
from numba import prange

from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.layout import constant
from fastsce.backends.cpu.memory import pointer

ALONE = 16  # pieces up to which waking another thread takes longer than it saves
PIECE = 16384  # labels summed one after the other; sums of pieces are added in their order, whoever made them


def scan_labels(labels, classes, ignore_index, weight, sample_weight):
    """The first bad row (or −1), and Σ w_y·sample_weight over the rows that are not ignored."""
    size = labels.size
    pieces = -(-size // PIECE)
    bad, total = np.empty(pieces, np.int64), np.empty(pieces)
    w = constant(1.0, (classes,)) if weight is None else weight
    s = constant(1.0, (size,)) if sample_weight is None else sample_weight.reshape(-1)
    plain = weight is None and sample_weight is None
    scan = scan_with_threads if pieces > ALONE else scan_alone
    scan(labels.reshape(-1), classes, ignore_index, w, s, plain, bad, total)
    if pieces == 1:
        return int(bad[0]), float(total[0])
    found = bad[bad >= 0]
    return int(found[0]) if found.size else -1, float(total.sum())


@kernel
def scan_with_threads(labels, classes, ignore_index, weight, sample_weight, plain, bad, total):
    for piece in prange(bad.shape[0]):
        scan_piece(piece, labels, classes, ignore_index, weight, sample_weight, plain, bad, total)


@partial(kernel, parallel=False)
def scan_alone(labels, classes, ignore_index, weight, sample_weight, plain, bad, total):
    for piece in range(bad.shape[0]):
        scan_piece(piece, labels, classes, ignore_index, weight, sample_weight, plain, bad, total)


@device
def scan_piece(piece, labels, classes, ignore_index, weight, sample_weight, plain, bad, total):
    p, start, stop = pointer(labels), piece * PIECE, min((piece + 1) * PIECE, labels.shape[0])
    valid, ignored = count(p, start, stop, classes, ignore_index)
    bad[piece], total[piece] = -1, valid
    if valid + ignored < stop - start:
        bad[piece] = first_bad(p, start, stop, classes, ignore_index)
    elif not plain:
        total[piece] = weigh(p, start, stop, ignore_index, weight, sample_weight)


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
def weigh(p, start, stop, ignore_index, weight, sample_weight):
    total = 0.0
    for i in range(start, stop):
        y = p[i]  # read once: the caller's memory may change meanwhile
        if y != ignore_index and 0 <= y < weight.shape[0]:
            total += weight[y] * sample_weight[i]
    return total
