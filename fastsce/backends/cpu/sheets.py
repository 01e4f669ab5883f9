"""Sheets: some rows of a few classes as one vector, all rows of a class and then of the next.

How many classes there are is known when a kernel is compiled, from the length of a tuple. LLVM cuts a sheet into
registers and works on all of them side by side, which no loop over classes would do. It has a power of two of classes;
what is in those that no row has may be anything, and LLVM sees that nobody asks for it.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsce.backends.cpu.memory import joined, moved_by, size_of
from fastsce.backends.cpu.storage import compute_type
from fastsce.backends.cpu.transpose import (
    QUAD,
    ROWS,
    end_to_end,
    lines_of_quads,
    lines_of_rows,
    quads_of_lines,
    rows_of_lines,
)
from fastsce.backends.cpu.tuning import SHEET, TALL, TALL_SHEET
from fastsce.backends.cpu.vectors import I8, I32, I64, INTEGER, Vector, call, cast_value, shuffle, splat_value


def rows_of(classes):
    return TALL_SHEET if classes.count <= TALL else SHEET


@intrinsic
def row_numbers(typing, classes):
    """0, 1, 2, … for the rows of a sheet."""
    result = Vector(types.int64, rows_of(classes))
    return result(classes), lambda context, b, signature, args: ir.Constant(result.llvm, list(range(result.lanes)))


@intrinsic
def sheet_rows(typing, classes):
    """How many there are."""
    return types.int64(classes), lambda context, b, signature, args: I64(rows_of(classes))


def sheet_type(dtype, classes):
    return Vector(dtype, rows_of(classes) << (classes.count - 1).bit_length())


def lines_of(b, sheet, classes):
    rows = rows_of(classes)
    return [shuffle(b, sheet, sheet, range(i * rows, (i + 1) * rows)) for i in range(classes.count)]


def squares(p, classes):
    """For each 16 rows, end to end from p on: how far they are, and then how far each four classes of them are."""
    size, count = size_of(p), classes.count
    starts = [min(start, count - QUAD) for start in range(0, count, QUAD)]  # the last four overlap those before
    return count * size, [
        (row * count * size, [(c, c * size) for c in starts]) for row in range(0, rows_of(classes), ROWS)
    ]


@intrinsic
def sheet_at(typing, p, classes):
    """The rows that lie end to end from p on."""
    count = classes.count
    result = sheet_type(compute_type(p.dtype), classes)

    def build(context, b, signature, args):
        step, parts = squares(p, classes)
        strips = []
        for offset, quads in parts:
            here, lines = moved_by(b, args[0], I64(offset)), [None] * count
            if count < QUAD:
                lines = lines_of_rows(context, b, here, count, p)
            else:
                for c, across in quads:
                    lines[c : c + QUAD] = lines_of_quads(context, b, moved_by(b, here, I64(across)), I64(step), p)
            strips.append(lines)
        return end_to_end(b, [joined(b, list(line)) for line in zip(*strips)])

    return result(p, classes), build


@intrinsic
def leave_sheet(typing, p, sheet, classes):
    """The way back."""
    count = classes.count

    def build(context, b, signature, args):
        step, parts = squares(p, classes)
        for i, (offset, quads) in enumerate(parts):
            here = moved_by(b, args[0], I64(offset))
            strip = range(ROWS * i, ROWS * i + ROWS)
            lines = [shuffle(b, line, line, strip) for line in lines_of(b, args[1], classes)]
            if count < QUAD:
                rows_of_lines(context, b, lines, here, p)
            else:
                for c, across in quads:
                    quads_of_lines(context, b, lines[c : c + QUAD], moved_by(b, here, I64(across)), I64(step), p)
        return context.get_dummy_value()

    return types.void(p, sheet, classes), build


@intrinsic
def ask_for_sheet(typing, p, index, classes):
    """Ask for the cache lines of the rows from p[index] on; any address will do."""

    def build(context, b, signature, args):
        for i in range(0, rows_of(classes) * classes.count * size_of(p), 64):
            start = moved_by(b, args[0], b.add(b.mul(args[1], I64(size_of(p))), I64(i)))
            call(b, "llvm.prefetch.p0", ir.VoidType(), [b.bitcast(start, I8.as_pointer()), I32(0), I32(3), I32(1)])
        return context.get_dummy_value()

    return types.void(p, types.int64, classes), build


@intrinsic
def spread(typing, v, classes):
    """What each row has, for every class."""
    result = sheet_type(v.dtype, classes)

    def build(context, b, signature, args):
        return shuffle(b, args[0], args[0], list(range(v.lanes)) * (result.lanes // v.lanes))

    return result(v, classes), build


@intrinsic
def weights_at(typing, p, sheet, classes):
    """p[class], for every row."""

    def build(context, b, signature, args):
        lines = []
        for i in range(classes.count):
            number = b.load(moved_by(b, args[0], I64(i * size_of(p))))
            lines.append(splat_value(b, Vector(sheet.dtype, rows_of(classes)), number))
        return end_to_end(b, lines)

    return sheet(p, sheet, classes), build


@intrinsic
def class_numbers(typing, sheet, classes):
    """0, 1, 2, … for every row, as integers of the size of the sheet's numbers."""
    result = Vector(INTEGER[sheet.dtype], sheet.lanes)
    numbers = [i // rows_of(classes) for i in range(sheet.lanes)]
    return result(sheet, classes), lambda context, b, signature, args: ir.Constant(result.llvm, numbers)


@intrinsic
def largest_of(typing, sheet, classes):
    """Each row's largest number, NaN left out."""
    result = Vector(sheet.dtype, rows_of(classes))

    def build(context, b, signature, args):
        m = ir.Constant(result.llvm, [float("-inf")] * result.lanes)
        for line in lines_of(b, args[0], classes):
            m = b.select(b.fcmp_ordered(">", line, m), line, m)
        return m

    return result(sheet, classes), build


@intrinsic
def chosen(typing, sheet, mask, classes):
    """Of each row the number where the mask is true; where it nowhere is, any."""
    result = Vector(sheet.dtype, rows_of(classes))

    def build(context, b, signature, args):
        v, *lines = lines_of(b, args[0], classes)
        for line, here in zip(lines, lines_of(b, args[1], classes)[1:]):
            v = b.select(here, line, v)
        return v

    return result(sheet, mask, classes), build


@intrinsic
def sum_of_others(typing, sheet, classes):
    """Each row's sum, in float64, of numbers of which one at least is 0; but as in `strips.terms` four are added up in
    the working precision, and two, which is exact.
    """
    result, count = Vector(types.float64, rows_of(classes)), classes.count

    def build(context, b, signature, args):
        lines, size = lines_of(b, args[0], classes), 2 if count == 2 else 4
        sums = [summed(b, lines[i : i + size]) for i in range(0, count - count % size, size)]
        wide = [cast_value(b, v, sheet.dtype, types.float64) for v in sums + lines[count - count % size :]]
        return functools.reduce(b.fadd, wide)

    return result(sheet, classes), build


@intrinsic
def sum_in_turns(typing, sheet, classes):
    """Each row's sum in the working precision: of every other class, and then of both."""

    def build(context, b, signature, args):
        lines = lines_of(b, args[0], classes)
        return b.fadd(functools.reduce(b.fadd, lines[::2]), functools.reduce(b.fadd, lines[1::2]))

    return Vector(sheet.dtype, rows_of(classes))(sheet, classes), build


def summed(b, vectors):
    """In pairs."""
    while len(vectors) > 1:
        vectors = [b.fadd(v, w) for v, w in zip(vectors[::2], vectors[1::2])]
    return vectors[0]


@intrinsic
def how_many(typing, mask, like, classes):
    """For how many classes it is true, in the precision of `like`."""
    result = Vector(like.dtype, rows_of(classes))

    def build(context, b, signature, args):
        zero, one = (ir.Constant(result.llvm, [value] * result.lanes) for value in (0.0, 1.0))
        count = zero
        for here in lines_of(b, args[0], classes):
            count = b.select(here, b.fadd(count, one), count)
        return count

    return result(mask, like, classes), build


@intrinsic
def added(typing, sums, numbers):
    """The sums, and to them the numbers of each strip of as many rows, one strip after the other."""

    def build(context, b, signature, args):
        s = args[0]
        for i in range(0, numbers.lanes, sums.lanes):
            s = b.fadd(s, shuffle(b, args[1], args[1], range(i, i + sums.lanes)))
        return s

    return sums(sums, numbers), build
