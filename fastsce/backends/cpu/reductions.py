"""From the lanes of a vector down to fewer, or to one number, in an order that is always the same."""

from functools import partial

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastsce.backends.cpu.memory import place, size_of
from fastsce.backends.cpu.storage import compute_type
from fastsce.backends.cpu.tuning import LANES
from fastsce.backends.cpu.vectors import I1, I32, I64, Vector, call, cast_value, shuffle


def halved(b, v, n, combine):
    """Reduce a vector in a fixed tree: its upper half onto its lower one, until one lane is left."""
    while n > 1:
        n //= 2
        v = combine(shuffle(b, v, v, range(n)), shuffle(b, v, v, range(n, 2 * n)))
    return v


def larger(b, v, w):
    return b.select(b.fcmp_ordered(">", v, w), v, w)


def define_rows_fold(doc, combine):
    @intrinsic
    def rows_fold(typing, p):
        result = Vector(compute_type(p.dtype), LANES)

        def build(context, b, signature, args):
            vectors = [b.load(place(b, args[0], I64(r * LANES), LANES), align=size_of(p)) for r in range(LANES)]
            n = LANES  # lanes that each row has left
            while n > 1:
                lower = [start + i for start in range(0, 2 * LANES, n) for i in range(n // 2)]
                upper = [i + n // 2 for i in lower]
                pairs = zip(vectors[::2], vectors[1::2])
                vectors = [combine(b)(shuffle(b, v, w, lower), shuffle(b, v, w, upper)) for v, w in pairs]
                n //= 2
            return vectors[0]

        return result(p), build

    rows_fold.__doc__ = doc
    return rows_fold


rows_sum = define_rows_fold("The sums of LANES rows of LANES numbers, as `total` adds them up.", lambda b: b.fadd)
rows_largest = define_rows_fold("The largest number of each, NaN left out.", lambda b: partial(larger, b))


@intrinsic
def total(typing, x):
    """The sum of the lanes, in float64."""

    def build(context, b, signature, args):
        v = cast_value(b, args[0], x.dtype, types.float64)
        return b.extract_element(halved(b, v, x.lanes, b.fadd), I32(0))

    return types.float64(x), build


@intrinsic
def largest(typing, x):
    """The largest lane, NaN left out unless there is nothing else."""

    def build(context, b, signature, args):
        return b.extract_element(halved(b, args[0], x.lanes, partial(larger, b)), I32(0))

    return x.dtype(x), build


@intrinsic
def first(typing, mask):
    """The first lane that is true, or the number of lanes."""

    def build(context, b, signature, args):
        as_bits = b.zext(b.bitcast(args[0], ir.IntType(mask.lanes)), ir.IntType(2 * mask.lanes))
        wide = as_bits.type
        stop = b.or_(as_bits, ir.Constant(wide, 1 << mask.lanes))
        place = call(b, f"llvm.cttz.i{wide.width}", wide, [stop, I1(1)])
        return b.zext(place, I64) if wide.width < 64 else b.trunc(place, I64)

    return types.int64(mask), build
