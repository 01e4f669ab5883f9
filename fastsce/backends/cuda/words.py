"""How numbers lie in a GPU's memory and in registers, and the instructions that numba has no name for.

A 16-bit float becomes a Single when loaded and is rounded, to nearest even, when stored. A *word* is 128 bits, the most
that one instruction moves: `width` numbers, kept raw in four registers. Its address must be a multiple of 16 bytes.
Offsets count numbers, in 64 bits, from a pointer.
"""

from llvmlite import ir

import fastsce.backends.cuda.target  # noqa: F401 - first: it prepares for the imports after it

# isort: split
from numba.cuda import types
from numba.cuda.extending import core_models, intrinsic, register_model

from fastsce.backends.cuda.scalars import BITS, DOUBLE, FLOAT, I32, I64, SINGLE, into, meaning

I16, HALF = ir.IntType(16), ir.HalfType()
WORD = ir.VectorType(I32, 4)


class Stored(types.Type):
    """A float that is only stored, never computed with."""

    bitwidth = 16


@register_model(Stored)
class StoredModel(core_models.PrimitiveModel):
    def __init__(self, manager, stored):
        super().__init__(manager, stored, I16)


FLOAT16, BFLOAT16 = Stored("stored_float16"), Stored("stored_bfloat16")

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
