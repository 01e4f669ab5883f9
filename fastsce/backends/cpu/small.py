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
from fastsce.backends.cpu.labels import Labels, add_up, scan_piece
from fastsce.backends.cpu.memory import View, address_of, adjoin, load, moved, pointer, store, workspace
from fastsce.backends.cpu.parts import JOB_BYTES, leave, work_off
from fastsce.backends.cpu.plan import Job, Line
from fastsce.backends.cpu.tuning import PIECE
from fastsce.backends.cpu.vectors import narrow


def small_bytes(rows, own):
    """Of memory: what a part has to know, what threads have to themselves, a number, and the losses."""
    return JOB_BYTES + own + 2 * 64 + 8 * rows


@kernel
def small(law, plan, weight, address, divisor, logits, labels, lse, grad, own, done, memory):
    """Σ losses ÷ divisor; 0 stands for the number of rows not ignored. None if the call is not a plain one. Of several
    parts that are not done yet, the divisor.

    logits, grad: (N, C), the same array if no gradient is wanted; labels, lse: (N,); address: of what does a part; own:
    bytes of memory that threads have to themselves.
    """
    rows, _ = logits.shape
    x, scale = view_of(logits), workspace(pointer(memory), JOB_BYTES + own, lse)
    losses = moved(scale, 8)
    if not done:
        g, y = view_of(grad), pointer(labels)
        valid = valid_rows(x, g, labels, plan.ignore_index)
        if valid < 0:
            return None
        if divisor == 0.0:
            divisor = np.float64(valid)
        store(scale, 0, 1.0 / divisor)
        job = Job(x, Line(y, 1), x, pointer(weight), Line(scale, 0), losses, pointer(lse), g, g, law, plan)
        leave(memory, (job, None, None))
        if plan.parts > 1:
            return divisor
        work_off(address, memory, JOB_BYTES)
    total = 0.0
    for start in range(0, rows, PIECE):
        total += add_up(losses, start, min(start + PIECE, rows))
    # no warning comes from here of what is too large for the logits' type
    return np.float64(narrow(total / divisor, load(x.data, 0, 0)))


@device
def valid_rows(x, g, labels, ignore_index):
    """How many rows are not ignored; −1 if the call is not a plain one."""
    (_, rows, classes), y = x.shape, pointer(labels)
    here, there, beside, size = address_of(x.data), address_of(g.data), address_of(y), x.item * rows * classes
    if not (dense(x) and dense(g)) or labels.strides[0] != 8 or beside % 8 != 0:
        return -1
    if (here != there and abs(here - there) < size) or (there < beside + 8 * rows and beside < there + size):
        return -1  # the gradient would be written on other logits, or on labels
    valid = 0
    for start in range(0, rows, PIECE):
        bad, some = scan_piece(Labels(y, rows, classes, ignore_index), None, start)
        if bad >= 0:
            return -1
        valid += int(some)
    return valid


@device
def view_of(array):
    rows, classes = array.shape
    return View(pointer(array), (1, rows, classes), (0, array.strides[0], array.strides[1]), array.itemsize)


@device
def dense(v):
    """Whether rows are contiguous and adjoin, and each number is where its type wants it."""
    return v.strides[2] == v.item and (v.shape[1] == 1 or adjoin(v)) and address_of(v.data) % v.item == 0
