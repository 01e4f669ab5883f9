"""How numbers lie in a GPU's memory, and every instruction that numba has no name for.

A 16-bit float becomes a Single when loaded and is rounded, to nearest even, when stored. A *word* is 128 bits, the most
that one instruction moves: `width` numbers, kept raw in four registers. Its address must be a multiple of 16 bytes.
Offsets count numbers, in 64 bits, from a pointer.
"""

import numpy as np
from llvmlite import ir

from fastsce.backends.cuda.target import cuda  # first: it prepares for the imports after it

# isort: split
from numba.cuda import cgutils, float64, types, uint32
from numba.cuda.extending import core_models, intrinsic, register_model

from fastsce import maths
from fastsce.backends.cuda.scalars import BITS, DOUBLE, FLOAT, I32, I64, SINGLE, device, into, meaning

__all__ = ["cuda", "device", "float64", "uint32"]

I16, HALF = ir.IntType(16), ir.HalfType()
WORD = ir.VectorType(I32, 4)
EVERYONE = 0xFFFFFFFF


class Stored(types.Type):
    """A float that is only stored, never computed with."""

    bitwidth = 16


@register_model(Stored)
class StoredModel(core_models.PrimitiveModel):
    def __init__(self, manager, stored):
        super().__init__(manager, stored, I16)


FLOAT16, BFLOAT16 = Stored("stored_float16"), Stored("stored_bfloat16")

# --- threads ----------------------------------------------------------------------------------------------------------


@device
def thread():
    """This thread's number in its block."""
    return types.int64(cuda.threadIdx.x)


@device
def thread_y():
    return types.int64(cuda.threadIdx.y)


@device
def threads():
    """How many there are."""
    return types.int64(cuda.blockDim.x)


@device
def threads_y():
    return types.int64(cuda.blockDim.y)


@device
def block():
    return types.int64(cuda.blockIdx.x)


@device
def blocks():
    return types.int64(cuda.gridDim.x)


@device
def barrier():
    """No thread of the block goes on before all have come here; what they wrote is seen by all."""
    cuda.syncthreads()


@intrinsic
def lanes_xor(typing, x, distance):
    """x of the lane of this warp whose number differs in the bits of `distance`. All 32 lanes must ask."""

    def build(context, b, signature, args):
        value, lane = args[0], context.cast(b, args[1], signature.args[1], types.int32)
        if value.type == FLOAT:
            return b.bitcast(exchange(b, b.bitcast(value, I32), lane), FLOAT)
        if value.type == I32:
            return exchange(b, value, lane)
        raw = b.bitcast(value, I64) if value.type == DOUBLE else value
        low = exchange(b, b.trunc(raw, I32), lane)
        high = exchange(b, b.trunc(b.lshr(raw, I64(32)), I32), lane)
        raw = b.or_(b.zext(low, I64), b.shl(b.zext(high, I64), I64(32)))
        return b.bitcast(raw, DOUBLE) if value.type == DOUBLE else raw

    return x(x, distance), build


def exchange(b, value, lane):
    kind = ir.FunctionType(I32, [I32, I32])
    asm = ir.InlineAsm(kind, f"shfl.sync.bfly.b32 $0, $1, $2, 31, {EVERYONE:#x};", "=r,r,r", side_effect=True)
    return b.call(asm, [value, lane])


# --- loops over registers ---------------------------------------------------------------------------------------------
#
# A number in a register has no address, so a loop over registers has to be laid out step by step. LLVM does that to
# short loops only; these are always.


def laid_out(numbers_of):
    """state = step(n, state, *args) for every n of `numbers_of(what)`; the last state."""

    @intrinsic
    def loop(typing, what, step, state, args):
        if isinstance(what, types.Integer) and not isinstance(what, types.Literal):
            return None  # numba tries again with the literal
        state = types.unliteral(state)
        inner = step.get_call_type(typing, (types.int64, state, *args.types), {})
        if inner.return_type != state:
            raise TypeError(f"a step makes {inner.return_type} of {state}")

        def build(context, b, signature, values):
            value = context.cast(b, values[2], signature.args[2], state)
            given = [b.extract_value(values[3], k) for k in range(len(args.types))]
            for n in numbers_of(what):
                value = context.get_function(step, inner)(b, [I64(n), value, *given])
            return value

        return state(what, step, state, args), build

    return loop


each = laid_out(lambda count: range(count.literal_value))
each_number = laid_out(lambda p: range(numbers_in_word(p.dtype)))
each_pair = laid_out(lambda p: range(0, numbers_in_word(p.dtype), 2))


# --- single numbers ---------------------------------------------------------------------------------------------------


def compute_type(dtype):
    """What numbers of a type are worked on as."""
    return types.float64 if dtype == types.float64 else SINGLE


def decode(b, value, dtype):
    """A stored value as a float of LLVM's, of the type that it is worked on as."""
    if dtype == FLOAT16:
        return b.fpext(b.bitcast(value, HALF), FLOAT)
    if dtype == BFLOAT16:
        return b.bitcast(b.shl(b.zext(value, I32), I32(16)), FLOAT)
    return value


def encode(b, value, dtype):
    if dtype == FLOAT16:
        return b.bitcast(b.fptrunc(value, HALF), I16)
    if dtype == BFLOAT16:
        return asm(b, "cvt.rn.bf16.f32 $0, $1;", I16, "=h,f", [value])
    return value


def asm(b, text, result, constraints, args):
    kind = ir.FunctionType(result, [a.type for a in args])
    return b.call(ir.InlineAsm(kind, text, constraints), args)


def address(context, b, pointer, offset, given, kind, space=1):
    """Of the number at an offset; in device memory, which no compiler could know by itself."""
    p = b.gep(pointer, [context.cast(b, offset, given, types.int64)])
    p = b.addrspacecast(p, ir.PointerType(p.type.pointee, space)) if space else p
    return b.bitcast(p, ir.PointerType(kind, space))


def width(p):
    """How many numbers of a pointer's type a word holds."""


@meaning(width)
def width_meaning(p):
    numbers = numbers_in_word(p.dtype)
    return lambda p: numbers


def numbers_in_word(dtype):
    return 128 // dtype.bitwidth


@intrinsic
def to_boundary(typing, p, i):
    """How many numbers there are from the i-th on to the first that can begin a word."""

    def build(context, b, signature, args):
        size = p.dtype.bitwidth // 8
        start = b.ptrtoint(b.gep(args[0], [context.cast(b, args[1], signature.args[1], types.int64)]), I64)
        return b.lshr(b.and_(b.neg(start), I64(15)), I64(size.bit_length() - 1))

    return types.int64(p, i), build


@intrinsic
def load(typing, p, i):
    """The i-th number from p."""
    dtype = p.dtype
    result = compute_type(dtype) if dtype in (FLOAT16, BFLOAT16, types.float32, types.float64) else dtype

    def build(context, b, signature, args):
        kind = context.get_value_type(dtype)
        return decode(b, b.load(address(context, b, args[0], args[1], signature.args[1], kind)), dtype)

    return result(p, i), build


@intrinsic
def store(typing, p, i, x):
    dtype = p.dtype
    plain = dtype if dtype in (types.float64, types.int64) else types.float32

    def build(context, b, signature, args):
        given = x.dtype if x == SINGLE else x
        value = encode(b, context.cast(b, args[2], given, plain), dtype)
        b.store(value, address(context, b, args[0], args[1], signature.args[1], value.type))
        return context.get_dummy_value()

    return types.void(p, i, x), build


@intrinsic
def load_like(typing, p, i, like):
    """The i-th number of any type from p, as numbers of `like` are worked on."""
    result = compute_type(like.dtype)

    def build(context, b, signature, args):
        kind = context.get_value_type(p.dtype)
        value = decode(b, b.load(address(context, b, args[0], args[1], signature.args[1], kind)), p.dtype)
        given = types.float32 if p.dtype in (FLOAT16, BFLOAT16) else p.dtype
        return into(context, b, value, given, result) if given != result else value

    return result(p, i, like), build


@intrinsic
def small(typing, x):
    """A class, in 32 bits: half the registers."""
    return BITS(x), lambda context, b, signature, args: context.cast(b, args[0], x, types.int32)


@intrinsic
def wide(typing, x):
    """A class, in 64 bits, for offsets."""
    return types.int64(x), lambda context, b, signature, args: context.cast(b, args[0], types.int32, types.int64)


def label(x):
    """An integer as int64; one that int64 cannot hold as the largest, which is no label."""


@meaning(label)
def label_meaning(x):
    if x == types.uint64:
        return lambda x: types.int64(x) if x < 1 << 63 else (1 << 63) - 1
    return lambda x: types.int64(x)


@intrinsic
def number(typing, x, like):
    """x as numbers of the pointer `like` are worked on."""
    result = compute_type(like.dtype)
    given = x.dtype if x == SINGLE else x
    return result(x, like), lambda context, b, signature, args: into(context, b, args[0], given, result)


# --- registers --------------------------------------------------------------------------------------------------------


@intrinsic
def anew(typing, x):
    """x, of which the compiler does not know that it is x: what is made of it is made again, not kept in a register."""
    long = x in (types.int64, types.float64)
    kind, letter = ("b64", "l") if long else ("b32", "r")

    def build(context, b, signature, args):
        raw = I64 if long else I32
        call = ir.InlineAsm(ir.FunctionType(raw, [raw]), f"mov.{kind} $0, $1;", f"={letter},{letter}", side_effect=True)
        return b.bitcast(b.call(call, [b.bitcast(args[0], raw)]), args[0].type)

    return x(x), build


@intrinsic
def renew(typing, held, j):
    """The same for the raw word held[j] … held[j + 3]."""

    def build(context, b, signature, args):
        for n in range(4):
            place = register(context, b, held, args[0], signature.args[1], args[1], n)
            call = ir.InlineAsm(ir.FunctionType(I32, [I32]), "mov.b32 $0, $1;", "=r,r", side_effect=True)
            b.store(b.call(call, [b.load(place)]), place)
        return context.get_dummy_value()

    return types.void(held, j), build


# --- words ------------------------------------------------------------------------------------------------------------


@intrinsic
def load_word(typing, p, i, held, j):
    """The word from the i-th number on, into held[j] … held[j + 3]."""

    def build(context, b, signature, args):
        word = b.load(address(context, b, args[0], args[1], signature.args[1], WORD), align=16)
        for n in range(4):
            b.store(b.extract_element(word, I32(n)), register(context, b, held, args[2], signature.args[3], args[3], n))
        return context.get_dummy_value()

    return types.void(p, i, held, j), build


@intrinsic
def store_word(typing, p, i, held, j):
    """The way back, marked as not to be read again soon."""

    def build(context, b, signature, args):
        start = address(context, b, args[0], args[1], signature.args[1], I32)
        parts = [b.load(register(context, b, held, args[2], signature.args[3], args[3], n)) for n in range(4)]
        kind = ir.FunctionType(ir.VoidType(), [start.type] + [I32] * 4)
        text = "st.global.cs.v4.b32 [$0], {$1, $2, $3, $4};"
        b.call(ir.InlineAsm(kind, text, "l,r,r,r,r,~{memory}", side_effect=True), [start, *parts])
        return context.get_dummy_value()

    return types.void(p, i, held, j), build


@intrinsic
def keep_word(typing, kept, w, held, j):
    """held[j] … held[j + 3] into word w of shared memory."""

    def build(context, b, signature, args):
        word = ir.Constant(WORD, ir.Undefined)
        for n in range(4):
            part = b.load(register(context, b, held, args[2], signature.args[3], args[3], n))
            word = b.insert_element(word, part, I32(n))
        b.store(word, shared_word(context, b, kept, args[0], signature.args[1], args[1]), align=16)
        return context.get_dummy_value()

    return types.void(kept, w, held, j), build


@intrinsic
def take_word(typing, kept, w, held, j):
    """The way back."""

    def build(context, b, signature, args):
        word = b.load(shared_word(context, b, kept, args[0], signature.args[1], args[1]), align=16)
        for n in range(4):
            b.store(b.extract_element(word, I32(n)), register(context, b, held, args[2], signature.args[3], args[3], n))
        return context.get_dummy_value()

    return types.void(kept, w, held, j), build


def register(context, b, array, value, given, j, n):
    """Where number j + n of a local array is."""
    data = context.make_array(array)(context, b, value=value).data
    return b.gep(data, [b.add(context.cast(b, j, given, types.int64), I64(n))])


def shared_word(context, b, array, value, given, w):
    data = context.make_array(array)(context, b, value=value).data
    return b.bitcast(b.gep(data, [b.shl(context.cast(b, w, given, types.int64), I64(2))]), ir.PointerType(WORD))


@intrinsic
def get(typing, held, n, p):
    """Number n of raw words that came from p."""
    dtype = p.dtype

    def build(context, b, signature, args):
        at = context.cast(b, args[1], signature.args[1], types.int64)

        def raw(index):
            return b.load(register(context, b, held, args[0], types.int64, index, 0))

        if dtype == types.float32:
            return b.bitcast(raw(at), FLOAT)
        if dtype == types.float64:
            low, high = (b.zext(raw(b.add(b.shl(at, I64(1)), I64(half))), I64) for half in (0, 1))
            return b.bitcast(b.or_(low, b.shl(high, I64(32))), DOUBLE)
        both, odd = raw(b.lshr(at, I64(1))), b.trunc(b.and_(at, I64(1)), ir.IntType(1))
        if dtype == BFLOAT16:
            return b.bitcast(b.select(odd, b.and_(both, I32(0xFFFF0000)), b.shl(both, I32(16))), FLOAT)
        half = b.trunc(b.select(odd, b.lshr(both, I32(16)), both), I16)
        return decode(b, half, dtype)

    return compute_type(dtype)(held, n, p), build


@intrinsic
def put(typing, held, n, x, y, p):
    """Numbers n and n + 1 into raw words that are to go to p; n is even."""
    dtype = p.dtype

    def build(context, b, signature, args):
        at = context.cast(b, args[1], signature.args[1], types.int64)

        def place(index):
            return register(context, b, held, args[0], types.int64, index, 0)

        if dtype in (FLOAT16, BFLOAT16):
            name = "f16x2" if dtype == FLOAT16 else "bf16x2"
            both = asm(b, f"cvt.rn.{name}.f32 $0, $2, $1;", I32, "=r,f,f", [args[2], args[3]])
            b.store(both, place(b.lshr(at, I64(1))))
        elif dtype == types.float32:
            for k, value in enumerate(args[2:4]):
                b.store(b.bitcast(value, I32), place(b.add(at, I64(k))))
        else:
            for k, value in enumerate(args[2:4]):
                raw, start = b.bitcast(value, I64), b.shl(b.add(at, I64(k)), I64(1))
                b.store(b.trunc(raw, I32), place(start))
                b.store(b.trunc(b.lshr(raw, I64(32)), I32), place(b.add(start, I64(1))))
        return context.get_dummy_value()

    return types.void(held, n, x, y, p), build


# --- the largest number of a row --------------------------------------------------------------------------------------
#
# Numbers of 16 bits are compared two by two, as they are stored; NaN loses against any number.


def lowest(p):
    """What is larger than nothing: −∞, or two of it."""


@meaning(lowest)
def lowest_meaning(p):
    if is_half(p):
        return lambda p: lowest_pair(p)
    return lambda p: number(-np.inf, p)


def larger(top, held, j, p):
    """The larger of `top` and the numbers of raw word j."""


@meaning(larger)
def larger_meaning(top, held, j, p):
    if is_half(p):
        return lambda top, held, j, p: each(4, larger_pair, top, (held, 4 * j, p))
    return lambda top, held, j, p: each_number(p, larger_number, top, (held, width(p) * j, p))


def largest(top, p):
    """As it is worked on."""


@meaning(largest)
def largest_meaning(top, p):
    if is_half(p):
        return lambda top, p: larger_of_pair(top, p)
    return lambda top, p: top


@device
def larger_number(k, top, held, start, p):
    return maths.maximum(top, get(held, start + k, p))


@device
def larger_pair(k, top, held, start, p):
    return maximum_pair(top, held, start + k, p)


@intrinsic
def lowest_pair(typing, p):
    value = 0xFC00FC00 if p.dtype == FLOAT16 else 0xFF80FF80
    return types.int32(p), lambda context, b, signature, args: I32(value)


@intrinsic
def maximum_pair(typing, pair, held, n, p):
    kind = "f16x2" if p.dtype == FLOAT16 else "bf16x2"

    def build(context, b, signature, args):
        other = b.load(register(context, b, held, args[1], signature.args[2], args[2], 0))
        return asm(b, f"max.{kind} $0, $1, $2;", I32, "=r,r,r", [args[0], other])

    return types.int32(pair, held, n, p), build


@intrinsic
def larger_of_pair(typing, pair, p):
    def build(context, b, signature, args):
        halves = [decode(b, b.trunc(b.lshr(args[0], I32(bits)), I16), p.dtype) for bits in (0, 16)]
        kind = ir.FunctionType(FLOAT, [FLOAT, FLOAT])
        return b.call(cgutils.get_or_insert_function(b.module, kind, "llvm.maxnum.f32"), halves)

    return SINGLE(pair, p), build


# --- exp --------------------------------------------------------------------------------------------------------------


@intrinsic
def exp2(typing, x):
    """2^x as the hardware has it, within 2 ulp; 0 for what is below the normal numbers."""
    return SINGLE(x), lambda context, b, signature, args: asm(b, "ex2.approx.ftz.f32 $0, $1;", FLOAT, "=f,f", [args[0]])


def is_half(p):
    return p.dtype in (FLOAT16, BFLOAT16)


def raised(p, z, power):
    """2^power·e^z; for 16-bit numbers as good as their rounding asks for, and without the power."""


@meaning(raised)
def raised_meaning(p, z, power):
    if is_half(p):
        return lambda p, z, power: exp2(z * 1.4426950408889634)
    return lambda p, z, power: maths.exp(z, power)


def power_of(p, scale):
    """The power of two with which terms are kept, narrowed."""


@meaning(power_of)
def power_of_meaning(p, scale):
    if is_half(p):
        return lambda p, scale: number(0.0, p)
    return lambda p, scale: number(maths.carried(scale), p)
