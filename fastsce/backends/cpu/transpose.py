"""Rows of few classes, turned into lines of one class each, and back: 16 rows at a time."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsce.backends.cpu.memory import joined, moved_by, place, size_of
from fastsce.backends.cpu.storage import decode, encode
from fastsce.backends.cpu.vectors import I64, shuffle, wide_registers

ROWS = 16
QUAD = 4  # classes that quads_in and quads_out move at a time


@intrinsic
def quads_in(typing, source, step, target, target_step):
    """From 16 rows, `step` bytes apart, bring four numbers each to target[target_step·class + row]."""

    def build(context, b, signature, args):
        for c, line in enumerate(lines_of_quads(context, b, args[0], args[1], source)):
            b.store(line, place(b, args[2], b.mul(args[3], I64(c)), ROWS), align=size_of(target))
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), build


@intrinsic
def quads_out(typing, source, source_step, target, step):
    """The way back: to 16 rows, `step` bytes apart, four numbers each from source[source_step·class + row]."""

    def build(context, b, signature, args):
        places = [place(b, args[0], b.mul(args[1], I64(c)), ROWS) for c in range(QUAD)]
        lines = [b.load(p, align=size_of(source)) for p in places]
        quads_of_lines(context, b, lines, args[2], args[3], target)
        return context.get_dummy_value()

    return types.void(source, types.int64, target, types.int64), build


@intrinsic(prefer_literal=True)
def deal(typing, source, classes, target, target_step):
    """From 16 rows, end to end, of 2 or 3 classes, to target[target_step·class + row]."""

    def build(context, b, signature, args):
        for c, line in enumerate(lines_of_rows(context, b, args[0], classes.literal_value, source)):
            b.store(line, place(b, args[2], b.mul(args[3], I64(c)), ROWS), align=size_of(target))
        return context.get_dummy_value()

    return types.void(source, classes, target, types.int64), build


@intrinsic(prefer_literal=True)
def collect(typing, source, source_step, classes, target):
    """The way back."""

    def build(context, b, signature, args):
        places = [place(b, args[0], b.mul(args[1], I64(c)), ROWS) for c in range(classes.literal_value)]
        rows_of_lines(context, b, [b.load(p, align=size_of(source)) for p in places], args[3], target)
        return context.get_dummy_value()

    return types.void(source, types.int64, classes, target), build


# --- in LLVM: p points to numbers as `kind` does ----------------------------------------------------------------------


def lines_of_quads(context, b, p, step, kind):
    """The four lines of what lies first in 16 rows."""
    quads = [b.load(quad, align=size_of(kind)) for quad in quads_at(b, p, step)]
    return turned(b, [decode(context, b, joined(b, quads[j::4]), kind.dtype, ROWS) for j in range(4)])


def quads_of_lines(context, b, lines, p, step, kind):
    """The way back."""
    squares = [whole(b, encode(context, b, line, kind.dtype, ROWS), kind) for line in turned(b, lines)]
    for i, quad in enumerate(quads_at(b, p, step)):
        four = shuffle(b, squares[i % 4], squares[i % 4], range(i // 4 * 4, i // 4 * 4 + 4))
        b.store(four, quad, align=size_of(kind))


def lines_of_rows(context, b, p, count, kind):
    """The lines of 16 rows, end to end, of 2 or 3 classes."""
    rows = end_to_end(b, [b.load(place(b, p, I64(ROWS * i), ROWS), align=size_of(kind)) for i in range(count)])
    lines = [shuffle(b, rows, rows, range(c, ROWS * count, count)) for c in range(count)]
    return [decode(context, b, line, kind.dtype, ROWS) for line in lines]


def rows_of_lines(context, b, lines, p, kind):
    """The way back."""
    count, rows = len(lines), end_to_end(b, [encode(context, b, line, kind.dtype, ROWS) for line in lines])
    for i in range(count):
        numbers = range(ROWS * i, ROWS * i + ROWS)
        some = shuffle(b, rows, rows, [ROWS * (j % count) + j // count for j in numbers])
        b.store(some, place(b, p, I64(ROWS * i), ROWS), align=size_of(kind))


def quads_at(b, p, step):
    """Where 16 rows' four numbers are. Each four addresses come of one, lest LLVM keep 16 of them, which spill."""
    quads = []
    for i in range(0, ROWS, 4):
        if i > 0:
            p = opaque(b, moved_by(b, p, b.mul(step, I64(4))), "r")
        places = [moved_by(b, p, b.mul(step, I64(j))) for j in range(4)]
        quads += [b.bitcast(place, ir.VectorType(p.type.pointee, QUAD).as_pointer()) for place in places]
    return quads


def end_to_end(b, vectors):
    """As `joined`, of any number of vectors; what is beyond them may be anything."""
    nothing = ir.Constant(vectors[0].type, ir.Undefined)
    return joined(b, [*vectors, *[nothing] * (-len(vectors) % (1 << (len(vectors) - 1).bit_length()))])


def turned(b, lines):
    """Transpose each of the four 4 × 4 squares that four lines of 16 numbers hold side by side."""

    def merged(v, w, pattern):
        return shuffle(b, v, w, [4 * (i // 4) + pattern[i % 4] for i in range(16)])

    low, high = [0, 16, 1, 17], [2, 18, 3, 19]
    front, back = [0, 1, 16, 17], [2, 3, 18, 19]
    a, c = merged(lines[0], lines[1], low), merged(lines[2], lines[3], low)
    d, e = merged(lines[0], lines[1], high), merged(lines[2], lines[3], high)
    return [merged(a, c, front), merged(a, c, back), merged(d, e, front), merged(d, e, back)]


def whole(b, v, kind):
    """v, of which quads are to be stored: LLVM would turn each quad of 512 bits for itself, with 40 shuffles, not 8."""
    if not wide_registers():
        return v
    lanes = min(ROWS, 64 // size_of(kind))
    parts = [shuffle(b, v, v, range(i, i + lanes)) for i in range(0, ROWS, lanes)]
    return joined(b, [opaque(b, part, "v") for part in parts])


def opaque(b, value, kind):
    """A value in a register of this kind, of which LLVM does not know where it comes from."""
    return b.asm(ir.FunctionType(value.type, [value.type]), "", f"={kind},0", [value], False)
