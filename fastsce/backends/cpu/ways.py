"""Which way results leave: what follows from where they lie in memory, before there is a plan."""

from __future__ import annotations

from fastsce.backends.cpu.tuning import BEHIND_BYTES, BEHIND_BYTES_16, DESK_BYTES, SHARED_BYTES, TALL_SHEET


def line_shared(grad):
    """How many numbers a cache line has, if samples lie side by side and not all classes begin alike in one; else 0."""
    return 64 // grad.itemsize if grad is not None and grad.strides[1] == grad.itemsize and grad.strides[2] % 64 else 0


def way_out(grad, streamed, scaled):
    """Whether rows are written behind those that are read, and whether at a desk: of gradients that are streamed."""
    if not streamed:
        return False, False
    size = grad.shape[-1] * grad.itemsize
    behind = scaled and size >= (BEHIND_BYTES if grad.itemsize >= 4 else BEHIND_BYTES_16)
    return behind, grad.flags.c_contiguous and not behind and not (shares_none(grad) and size >= DESK_BYTES)


def shares_none(result):
    """Whether each row has cache lines of its own."""
    size = result.shape[-1] * result.itemsize
    return all(step % 64 == 0 for step in (*result.strides[:-1], size, result.ctypes.data))


def line_by_line(result):
    """Whether rows that go neither behind others nor to a desk may be streamed: not if lines that they share, which
    never are, are much of them.
    """
    return result is None or result.shape[-1] * result.itemsize >= SHARED_BYTES or shares_none(result)


def sheets_side_by_side(logits, results, most, streamed):
    """Of rows that lie side by side: how many classes they may have for few.py, if those that adjoin may have so many;
    whether they are streamed there; and whether no sheet of them is short but the last.
    """
    if len(results) == 2 or logits.itemsize < 4:
        most //= 2
    if streamed and not alike_in_lines(results):
        most, streamed = most // 4, False
    whole = logits.shape[0] == 1 or logits.shape[1] % TALL_SHEET == 0
    return most, streamed, whole and not (streamed and results[0].ctypes.data % 64)  # see `few.before_line`


def alike_in_lines(results):
    """Whether all classes of all results begin alike in a cache line."""
    steps = [step for a in results for step in (a.strides[2], a.strides[0] if a.shape[0] > 1 else 0)]
    return not any(step % 64 for step in steps) and len({a.ctypes.data % 64 for a in results}) == 1
