"""A whole call of few rows in one kernel: labels are looked through, rows worked on, and losses added up.

In a small call nearly all the time is Python's. So what follows from its types, shapes and options is found out once
for all calls like it, and what may differ from one to the next the kernel looks at itself. Where it finds anything but
the plain case it gives up before anything is written, and the call goes the long way, which knows what to say.
"""

from __future__ import annotations

from fastsce.backends.cpu.jit import device, kernel
from fastsce.backends.cpu.labels import Labels, add_up, scan_piece
from fastsce.backends.cpu.memory import View, address_of, adjoin, load, pointer, store, workspace
from fastsce.backends.cpu.parts import JOB_BYTES, leave, work_off
from fastsce.backends.cpu.plan import Job, Line
from fastsce.backends.cpu.vectors import narrow


def small_bytes(rows, scratch):
    return losses_end(rows) + scratch


@device
def losses_end(rows):
    """Of memory: what a part has to know, a number, the losses; after them comes the part's own."""
    return JOB_BYTES + 2 * 64 + 8 * rows


@kernel
def small(law, plan, weight, address, divisor, logits, labels, lse, grad, memory):
    """Σ losses ÷ divisor; 0 stands for the number of rows not ignored. None if the call is not a plain one.

    logits, grad: (N, C), the same array if no gradient is wanted; labels, lse: (N,); address: of the part that does it.
    """
    rows, classes = logits.shape
    x, g, y = view_of(logits), view_of(grad), pointer(labels)
    here, there, beside, size = address_of(x.data), address_of(g.data), address_of(y), x.item * rows * classes
    if not (dense(x) and dense(g)) or labels.strides[0] != 8 or beside % 8 != 0:
        return None
    if (here != there and abs(here - there) < size) or (there < beside + 8 * rows and beside < there + size):
        return None  # the gradient would be written on other logits, or on labels
    bad, valid = scan_piece(Labels(y, rows, classes, plan.ignore_index), None, 0)
    if bad >= 0:
        return None
    if divisor == 0.0:
        divisor = valid
    scale, losses = workspace(pointer(memory), JOB_BYTES, lse), workspace(pointer(memory), JOB_BYTES + 64, lse)
    store(scale, 0, 1.0 / divisor)
    job = Job(x, Line(y, 1), x, pointer(weight), Line(scale, 0), losses, pointer(lse), g, g, law, plan)
    leave(memory, (job, None, None))
    work_off(address, memory, losses_end(rows))
    return narrow(add_up(losses, 0, rows) / divisor, load(x.data, 0, 0))  # here no warning comes of what is too large


@device
def view_of(array):
    rows, classes = array.shape
    return View(pointer(array), (1, rows, classes), (0, array.strides[0], array.strides[1]), array.itemsize)


@device
def dense(v):
    """Whether rows are contiguous and adjoin, and each number is where its type wants it."""
    return v.strides[2] == v.item and (v.shape[1] == 1 or adjoin(v)) and address_of(v.data) % v.item == 0
