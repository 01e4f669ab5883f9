"""What the kernels are told about a call besides its law; shared by all but those of elementwise.py."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce.backends.cpu.jit import device
from fastsce.backends.cpu.memory import View, pointer, view
from fastsce.law import Law

IGNORED = -1  # stands for the label of a row to leave out
NO_TARGET = -2  # a label: q = 0 and mass = 1, so that the loss is lse and the gradient p
SOFT = -3  # stands for the label where the target is soft
NOTHING, GRADIENT, HESSIAN, LOG_SOFTMAX = range(4)  # what to write; the first three: how many results a class has


class Block(NamedTuple):
    """What there is to plan for: rows, as they lie in memory, and which kernels and ways out would do for them."""

    shape: tuple[int, int, int]
    itemsize: int  # of a number that is computed with
    contiguous: bool = True  # the classes of a row lie side by side
    either: bool = True  # those, or the rows' numbers of a class
    aligned: bool = True
    few_classes: int = 0  # few.py has what is asked for, for up to so many
    few_stream: bool = False  # and streams results
    banded: bool = False  # bands.py has, for as many classes as suit it
    apart: bool = False  # columns.py: a tile has what it is made of apart, as soft targets and softcaps ask for
    summed: bool = False  # no more is wanted of the losses than their sum
    line: int = 0  # `ways.line_shared`
    stream_rows: bool = False  # what is streamed may be row by row
    behind: bool = False  # or behind the next rows
    desk: bool = False  # or in whole lines from a desk


class Plan(NamedTuple):
    """How to go about it. What a call asks for, and then what `plan_of` decides."""

    parts: int  # that the rows are cut into
    write: int  # NOTHING, GRADIENT, HESSIAN (and gradient) or LOG_SOFTMAX
    saved: bool  # lse is given, and loss and lse are not written
    stream: bool  # write past the caches
    weighted: bool  # classes have weights that are not 1
    untargeted: bool  # there are no labels
    ignore_index: int
    together: bool = False  # rows.py: up to LANES rows are gone through at once
    keep: bool = False  # rows.py: the terms of a row are kept until it is written
    behind: bool = False  # rows.py: rows are written while the next are read
    copies: bool = False  # rows.py: rows are not contiguous, and are worked on in copies
    group: int = 1  # rows.py: rows that are worked on together
    desk: int = 0  # rows.py: rows that are put together before they are streamed; 0: each is written where it belongs
    summed: bool = False  # few.py: losses are added up, not written
    side: bool = False  # few.py: rows of a class lie side by side, and not classes of a row
    lanes: int = 0  # columns.py, bands.py: samples in a tile, or in a band
    width: int = 0  # from a class to the next in there
    block: int = 0  # bands.py: classes of a block
    shared: bool = False  # tiles or bands share cache lines, and leave those that they end in to the next


class Job(NamedTuple):
    """All that a thread has to know of a call, but whether the target is soft and whether there is a softcap: those
    two choose the code, and go from function to function as arguments of their own that are None or not.
    """

    logits: Any  # view, (A, B, C)
    labels: Any  # line, or None
    soft: Any  # view, (A, B, C); of the classes' weights, alike for all rows, if the target is not soft
    weight: Any  # pointer, (C,)
    row_scale: Any  # scale
    loss: Any  # pointer, (A·B,)
    lse: Any  # pointer, (A·B,)
    grad: Any  # view
    hess: Any  # view
    law: Law
    plan: Plan


class Line(NamedTuple):
    """One number a row, `step` apart: 0 if all share one."""

    data: Any
    step: int


@device
def job_of(logits, target, weight, row_scale, loss, lse, grad, hess, law, plan):
    return Job(
        view(logits),
        labels_of(target),
        soft_of(target, weight),
        pointer(weight),
        scale_of(row_scale[0], row_scale[1]),
        pointer(loss),
        pointer(lse),
        view(grad),
        view(hess),
        law,
        plan,
    )


class Scale(NamedTuple):
    """What rows are multiplied by: numbers of theirs, and a factor, in which a number is that all share."""

    rows: Any  # line, not read if its step is 0
    factor: float


@device
def scale_of(rows, factor):
    if rows.size > 1:
        return Scale(line(rows), factor)
    return Scale(Line(pointer(rows), 0), factor * rows[0])


@device
def line(array):
    return Line(pointer(array), array.strides[0] // array.itemsize)


@device
def labels_of(target):
    if target.ndim == 1:
        return line(target)
    return None


@device
def soft_of(target, weight):
    if target.ndim == 1:
        return View(pointer(weight), (0, 0, weight.size), (0, 0, weight.itemsize), weight.itemsize)
    return view(target)


@device
def softness(target):
    """None for labels."""
    if target.ndim == 1:
        return None
    return True
