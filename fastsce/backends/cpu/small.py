"""A whole call in one kernel: labels are looked through, rows worked on, and losses added up.

In a small call nearly all the time is Python's, and of 1 MB a third. So what follows from its types, shapes and options
is found out once for all calls like it, and what may differ from one to the next the kernel looks at itself. Where it
finds anything but the plain case it gives up before anything is written, and the call goes the long way, which knows
what to say.

Where there is work for several threads the kernel is called twice, and they work between.
"""

from __future__ import annotations

import numpy as np

from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.labels import Labels, Weights, add_up, scan_piece
from fastsce.backends.cpu.memory import View, address_of, adjoin, load, pointer, workspace
from fastsce.backends.cpu.parts import JOB_BYTES, leave, work_off
from fastsce.backends.cpu.plan import Job, Line, Scale
from fastsce.backends.cpu.tuning import PIECE
from fastsce.backends.cpu.vectors import narrow


def small_bytes(rows, own, weighted):
    """Of memory: what a part has to know, what threads have to themselves, rows' losses, and what rows count."""
    return JOB_BYTES + own + (1 + weighted) * (64 + 8 * rows)


@kernel
def small(law, softcap, plan, weight, address, divisor, logits, labels, counts, losses, lse, grad, own, done, memory):
    """Σ losses ÷ divisor; 0 stands for what the rows not ignored count. None if the call is not a plain one. Of several
    parts that are not done yet, the divisor. Where `losses` are wanted, a number that says nothing.

    logits, grad: (N, C), the same array if no gradient is wanted; labels, lse: (N,); counts: what a row counts, in
    float64, by its class (C,) and by itself (N,) or (1,), and whether its loss is to have both, or None; losses: (N,),
    or empty if their sum is wanted; address: of what does a part; own: bytes of memory that threads have to themselves.
    """
    rows, _ = logits.shape
    x, each = view_of(logits), workspace(pointer(memory), JOB_BYTES + own, lse)
    weights = weights_in(counts, workspace(pointer(memory), JOB_BYTES + own + 64 + 8 * rows, lse))
    share = line_of(weights, each)
    if not done:
        g, y = view_of(grad), pointer(labels)
        plain, total = looked_through(x, g, labels, plan.ignore_index, weights)
        if not plain:
            return None
        if divisor == 0.0:
            divisor = total
        scale = Scale(share, 1.0 / divisor)
        job = Job(x, Line(y, 1), x, pointer(weight), scale, each, pointer(lse), g, g, law, plan)
        leave(memory, (job, None, softcap))  # few.py asks for numbers in place of the softcap, and reads none of them
        if plan.parts > 1:
            return divisor
        work_off(address, memory, JOB_BYTES)
    # no warning comes from here of what is too large for the logits' type
    if losses.size > 0:
        for i in range(rows):
            losses[i] = narrow(each[i] * share.data[i] if share.step else each[i], load(x.data, 0, 0))
        return 0.0
    total = 0.0
    for start in range(0, rows, PIECE):
        total += add_up(each, share, start, min(start + PIECE, rows))
    return np.float64(narrow(total / divisor, load(x.data, 0, 0)))


@device
def weights_in(counts, memory):
    """What rows count, written there."""
    if counts is None:
        return None
    classes, own, both = counts
    return Weights(pointer(classes), pointer(own), 0 if own.size == 1 else 1, memory, True, both)


@device
def line_of(weights, like):
    """The same, one a row; a step of 0 stands for none."""
    if weights is None:
        return Line(like, 0)
    return Line(weights.each, 1)


@device
def looked_through(x, g, labels, ignore_index, weights):
    """Whether the call is a plain one, and what the rows that are not ignored count."""
    (_, rows, classes), y = x.shape, pointer(labels)
    here, there, beside, size = address_of(x.data), address_of(g.data), address_of(y), x.item * rows * classes
    if not (dense(x) and dense(g)) or labels.strides[0] != 8 or beside % 8 != 0:
        return False, 0.0
    if (here != there and abs(here - there) < size) or (there < beside + 8 * rows and beside < there + size):
        return False, 0.0  # the gradient would be written on other logits, or on labels
    total = 0.0
    for start in range(0, rows, PIECE):
        bad, some = scan_piece(Labels(y, rows, classes, ignore_index), weights, start)
        if bad >= 0:
            return False, 0.0
        total += some
    return True, total


@device
def view_of(array):
    rows, classes = array.shape
    return View(pointer(array), (1, rows, classes), (0, array.strides[0], array.strides[1]), array.itemsize)


@device
def dense(v):
    """Whether rows are contiguous and adjoin, and each number is where its type wants it."""
    return v.strides[2] == v.item and (v.shape[1] == 1 or adjoin(v)) and address_of(v.data) % v.item == 0
