"""Which way results leave: what follows from where they lie in memory, before there is a plan."""

from __future__ import annotations

from fastsce.backends.cpu.tuning import BEHIND_BYTES, BEHIND_BYTES_16, DESK_BYTES, SHARED_BYTES


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
