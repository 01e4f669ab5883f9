"""A thread's place, and what threads tell each other. `cuda` is numba's module of that name."""

from llvmlite import ir

from fastsce.backends.cuda.target import cuda  # first: it prepares for the imports after it

# isort: split
from numba.cuda import float64, types, uint32
from numba.cuda.extending import intrinsic

from fastsce.backends.cuda.scalars import DOUBLE, FLOAT, I32, I64, device

__all__ = ["cuda", "device", "float64", "uint32"]

EVERYONE = 0xFFFFFFFF


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


@device
def warp_barrier():
    """The same among the lanes of a warp."""
    cuda.syncwarp()


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
    return b.call(asm, [value, lane], attrs=("convergent",))
