"""Where the numbers of rows are: where the caller has them, in copies, or in what a thread has to itself.

A thread's scratch has room for a group of rows: facts, folds, notes, terms and what is known of their blocks, then
copies of a row or rows at the desk; for two groups where one is written while the other is read.
"""

from __future__ import annotations

from fastsce.backends.cpu.coefficients import FACTS_BYTES
from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.makings import Makings
from fastsce.backends.cpu.memory import at, moved, spare, workspace
from fastsce.backends.cpu.plan import NOTHING
from fastsce.backends.cpu.terms import MAKINGS_BYTES, PART_SIZE, STRETCH, SUM_SIZE, TOPS_BYTES, Notes, Rows, rows_at
from fastsce.backends.cpu.tiles import send
from fastsce.backends.cpu.tuning import BLOCK, LANES, TOGETHER

FOLD_BYTES = 8 * (SUM_SIZE + LANES * LANES) + 64  # sums, and counts
TAILS_BYTES = 8 * LANES * LANES + 64
ROWS_START = FACTS_BYTES + FOLD_BYTES + TOPS_BYTES + TAILS_BYTES + MAKINGS_BYTES


def group_rows(classes, copies, most):
    """How many rows are worked on together, of no more than `most` classes; two, if rows go together."""
    if copies:
        return 1
    return max(2 if classes <= TOGETHER else 1, min(LANES, most // classes))


@device
def scratch_bytes(classes, plan):
    """Of all groups that a thread has under way."""
    return group_bytes(classes, plan) * (2 if plan.behind else 1)


@device
def group_bytes(classes, plan):
    """Facts of a group, folds, notes, terms and what is known of their blocks; copies of rows, or rows at the desk."""
    copies = 4 * slot_bytes(classes) if plan.copies else slot_bytes(plan.desk * classes)
    return (copies_start(classes, plan) + copies + 63) // 64 * 64


@device
def copies_start(classes, plan):
    return ROWS_START + kept_rows(plan.group, plan.keep) * row_bytes(classes, plan.keep)


@device
def slot_bytes(classes):
    return 8 * (classes + LANES) + 64


@device
def kept_rows(group, keep):
    """Rows whose terms stay until they are written; those of the others take each other's place, in L1."""
    return group if keep else 1


@device
def row_bytes(classes, keep):
    """Of one row's terms and what is known of its blocks: whole cache lines, so that all rows begin with one."""
    return (slot_bytes(classes if keep else BLOCK) + 8 * (classes // BLOCK + 1) + 127) // 64 * 64


# --- rows where they lie, or copies of them ---------------------------------------------------------------------------


@device
def place_of(i, v):
    """Row i of a view; a division takes longer than a short row."""
    return (0, i) if v.shape[0] == 1 else (i // v.shape[1], i % v.shape[1])


@device
def folds_at(scratch, job):
    """For LANES rows, LANES numbers each that are to be folded into one: in the place of one another, and float64."""
    sums = workspace(scratch, FACTS_BYTES, job.lse)
    return numbers_of(sums, job.logits.data), sums, moved(sums, LANES * LANES)


@device
def seams_at(scratch, job):
    """For what LANES rows share, at most two lines between one and the next, in the place of folds that were read."""
    return spare(scratch, FACTS_BYTES, job.grad.data)


@device
def notes_at(scratch, job):
    """For the loops over the terms of rows from a group's first on."""
    (_, sums, _), like, start = folds_at(scratch, job), job.logits.data, FACTS_BYTES + FOLD_BYTES
    tops, tail = workspace(scratch, start, like), workspace(scratch, start + TOPS_BYTES, like)
    part, counts = workspace(scratch, start + TOPS_BYTES + TAILS_BYTES, like), moved(sums, SUM_SIZE)
    makings = Makings(moved(part, PART_SIZE), moved(part, PART_SIZE + STRETCH))
    return Notes(tops, tail, makings, part, sums, numbers_of(counts, like))


@device
def numbers_of(sums, like):
    """The same memory, for numbers of the working precision."""
    return workspace(sums, 0, like)


@device
def terms_of(r, job, scratch):
    """The terms of rows from row r of a group on."""
    plan, classes = job.plan, job.logits.shape[2]
    size = row_bytes(classes, plan.keep)
    start = ROWS_START + (r if plan.keep else 0) * size
    return Rows(workspace(scratch, start, job.logits.data), size if plan.keep else 0)


@device
def blocks_of(r, job, scratch):
    """The m of the blocks of row r, and when all are read what multiplies their terms."""
    plan, classes = job.plan, job.logits.shape[2]
    start = ROWS_START + (r if plan.keep else 0) * row_bytes(classes, plan.keep)
    return workspace(scratch, start + slot_bytes(classes if plan.keep else BLOCK), job.lse)


@device
def input_rows(i, job, soft, scratch):
    """Logits and soft target of rows from row i on, and what should be in the caches when it is written."""
    plan = job.plan
    a, b = place_of(i, job.logits)
    x, q, soon = rows_at(job.logits, a, b), rows_at(job.soft, a, b), rows_at(job.grad, a, b)
    if plan.write == NOTHING or plan.stream or plan.copies or plan.desk > 0:
        soon = x
    if plan.copies:
        x = Rows(copied(job.logits, a, b, copy(0, x.data, job, scratch)), 0)
        if soft is not None:
            q = Rows(copied(job.soft, a, b, copy(1, q.data, job, scratch)), 0)
    return x, q, soon


@device
def copy(number, like, job, scratch):
    """Where one of a row's four copies is."""
    classes = job.logits.shape[2]
    return spare(scratch, copies_start(classes, job.plan) + number * slot_bytes(classes), like)


@device
def copied(v, a, b, p):
    for c in range(v.shape[2]):
        p[c] = at(v, a, b, c)[0]
    return p


@device
def finish_row(v, a, b, p, plan):
    if plan.copies:
        for c in range(v.shape[2]):
            at(v, a, b, c)[0] = p[c]


@device
def send_rows(i, n, job, scratch):
    """n rows from i on leave the desk."""
    classes = job.logits.shape[2]
    a, b = place_of(i, job.grad)
    desk = spare(scratch, copies_start(classes, job.plan), job.grad.data)
    send(desk, at(job.grad, a, b, 0), n * classes, job.grad.item, True)
