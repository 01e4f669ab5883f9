"""Sheets: some rows of a few classes, as a tuple of vectors: each has all rows of a class.

How many classes there are is known when a kernel is compiled, from the length of a tuple. What is done to a sheet is
written down for each class (`each`), one after the other, so that LLVM can keep it in registers; no loop would do.
"""

from __future__ import annotations

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastsce.backends.cpu.memory import joined, moved_by, place, size_of
from fastsce.backends.cpu.storage import compute_type, decode, encode
from fastsce.backends.cpu.transpose import (
    QUAD,
    ROWS,
    lines_of_quads,
    lines_of_rows,
    quads_of_lines,
    rows_of_lines,
)
from fastsce.backends.cpu.tuning import SHEET, TALL, TALL_SHEET
from fastsce.backends.cpu.vectors import I8, I32, I64, Vector, call, cast_value, shuffle, splat_value


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
    return types.UniTuple(Vector(dtype, rows_of(classes)), classes.count)


def packed(context, b, sheet, lines):
    return context.make_tuple(b, sheet, lines)


def lines_of(b, sheet):
    return cgutils.unpack_tuple(b, sheet)


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
        return packed(context, b, result, [joined(b, list(line)) for line in zip(*strips)])

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
            lines = [shuffle(b, line, line, strip) for line in lines_of(b, args[1])]
            if count < QUAD:
                rows_of_lines(context, b, lines, here, p)
            else:
                for c, across in quads:
                    quads_of_lines(context, b, lines[c : c + QUAD], moved_by(b, here, I64(across)), I64(step), p)
        return context.get_dummy_value()

    return types.void(p, sheet, classes), build


@intrinsic
def lines_at(typing, p, step, classes):
    """The rows that lie side by side from p on, the next class `step` bytes further on."""
    result, rows = sheet_type(compute_type(p.dtype), classes), rows_of(classes)

    def build(context, b, signature, args):
        lines = []
        for here in places(b, args[0], args[1], classes):
            line = b.load(place(b, here, I64(0), rows), align=size_of(p))
            lines.append(decode(context, b, line, p.dtype, rows))
        return packed(context, b, result, lines)

    return result(p, types.int64, classes), build


def define_leave_lines(doc, nontemporal=False):
    @intrinsic
    def leave_lines_as(typing, p, step, sheet, classes):
        rows = rows_of(classes)
        align = min(64, rows * size_of(p)) if nontemporal else size_of(p)

        def build(context, b, signature, args):
            for here, line in zip(places(b, args[0], args[1], classes), lines_of(b, args[2])):
                encoded = encode(context, b, line, p.dtype, rows)
                instruction = b.store(encoded, place(b, here, I64(0), rows), align=align)
                if nontemporal:
                    instruction.set_metadata("nontemporal", b.module.add_metadata([I32(1)]))
            return context.get_dummy_value()

        return types.void(p, types.int64, sheet, classes), build

    leave_lines_as.__doc__ = doc
    return leave_lines_as


leave_lines = define_leave_lines("The way back of `lines_at`.")
stream_lines = define_leave_lines("The same past the caches: whole cache lines, or halves.", nontemporal=True)


def places(b, p, step, classes):
    """Where each class begins."""
    return [moved_by(b, p, b.mul(step, I64(c))) for c in range(classes.count)]


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
def each(typing, function, sheets, common):
    """A sheet: function(…, *common) of what each class has in the sheets."""
    one = called(typing, function, sheets, common)
    result = types.UniTuple(one.return_type, sheets.types[0].count)

    def build(context, b, signature, args):
        return packed(context, b, result, calls(context, b, function, one, args))

    return result(function, sheets, common), build


def called(typing, function, sheets, common):
    return function.get_call_type(typing, (*[sheet.dtype for sheet in sheets.types], *common.types), {})


def calls(context, b, function, one, args):
    """What the function is of each class."""
    work, rest = context.get_function(function, one), cgutils.unpack_tuple(b, args[2])
    lines = zip(*[lines_of(b, sheet) for sheet in cgutils.unpack_tuple(b, args[1])])
    return [work(b, [*line, *rest]) for line in lines]


@intrinsic
def terms_of(typing, function, sheets, common):
    """(term, the same or 0 for the largest, whether it is that) = function(…, *common) as in `each`: the terms; each
    row's sum of others than the largest, in float64, but as in `strips.terms` four are added up in the working
    precision, and two, which is exact; how many are the largest, in that precision.
    """
    one, sheet = called(typing, function, sheets, common), sheets.types[0]
    count, line = sheet.count, sheet.dtype
    size = 2 if count == 2 else 4
    result = types.Tuple([sheet, Vector(types.float64, line.lanes), line])

    def build(context, b, signature, args):
        ties, unit = (ir.Constant(line.llvm, [value] * line.lanes) for value in (0.0, 1.0))
        terms, sums, waiting = [], [], []
        for made in calls(context, b, function, one, args):
            term, other, is_top = cgutils.unpack_tuple(b, made)
            ties = b.select(is_top, b.fadd(ties, unit), ties)
            terms.append(term)
            waiting.append(other)
            if len(waiting) == size:
                sums.append(summed(b, waiting))
                waiting = []
        wide = [cast_value(b, v, line.dtype, types.float64) for v in sums + waiting]
        return packed(context, b, result, [packed(context, b, sheet, terms), functools.reduce(b.fadd, wide), ties])

    return result(function, sheets, common), build


def summed(b, vectors):
    """In pairs."""
    while len(vectors) > 1:
        vectors = [b.fadd(v, w) for v, w in zip(vectors[::2], vectors[1::2])]
    return vectors[0]


@intrinsic
def weights_at(typing, p, sheet):
    """p[class], for every row."""

    def build(context, b, signature, args):
        lines = []
        for i in range(sheet.count):
            number = b.load(moved_by(b, args[0], I64(i * size_of(p))))
            lines.append(splat_value(b, sheet.dtype, number))
        return packed(context, b, sheet, lines)

    return sheet(p, sheet), build


@intrinsic
def class_is(typing, y, classes):
    """Whether a row's number is that of the class."""
    result = types.UniTuple(Vector(types.boolean, y.lanes), classes.count)

    def build(context, b, signature, args):
        numbers = [ir.Constant(y.llvm, [c] * y.lanes) for c in range(classes.count)]
        return packed(context, b, result, [b.icmp_signed("==", args[0], number) for number in numbers])

    return result(y, classes), build


@intrinsic
def largest_of(typing, sheet):
    """Each row's largest number, NaN left out."""
    line = sheet.dtype

    def build(context, b, signature, args):
        m = ir.Constant(line.llvm, [float("-inf")] * line.lanes)
        for v in lines_of(b, args[0]):
            m = b.select(b.fcmp_ordered(">", v, m), v, m)
        return m

    return line(sheet), build


@intrinsic
def chosen(typing, sheet, mask):
    """Of each row the number where the mask is true; where it nowhere is, any."""

    def build(context, b, signature, args):
        v, *lines = lines_of(b, args[0])
        for line, here in zip(lines, lines_of(b, args[1])[1:]):
            v = b.select(here, line, v)
        return v

    return sheet.dtype(sheet, mask), build


@intrinsic
def sum_in_turns(typing, sheet):
    """Each row's sum in the working precision: of every other class, and then of both."""

    def build(context, b, signature, args):
        lines = lines_of(b, args[0])
        return b.fadd(functools.reduce(b.fadd, lines[::2]), functools.reduce(b.fadd, lines[1::2]))

    return sheet.dtype(sheet), build


@intrinsic
def added(typing, sums, numbers):
    """The sums, and to them the numbers of each strip of as many rows, one strip after the other."""

    def build(context, b, signature, args):
        s = args[0]
        for i in range(0, numbers.lanes, sums.lanes):
            s = b.fadd(s, shuffle(b, args[1], args[1], range(i, i + sums.lanes)))
        return s

    return sums(sums, numbers), build
