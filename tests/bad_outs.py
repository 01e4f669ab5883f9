"""Faults of `out`: memory that cannot take a gradient, or that lies on what must not be overwritten."""

import hostile
import numpy as np
from calls import is_labelled
from faults import fault, is_loss, takes_out
from fences import lay, span


def offer(maker, call, out) -> None:
    """As the only result's memory, or as one of two."""
    if call.function.endswith("hess"):
        out = maker.draw.choice(((None, out), [out, None], (out, np.empty_like(call.values["logits"]))))
    call.given["out"] = out


def has_room(call) -> bool:
    return takes_out(call) and call.values["logits"].size > 1


@fault("out", where=takes_out, weight=3)
def out_of_a_wrong_kind(maker, call):
    shape, dtype = call.shape, call.values["logits"].dtype
    other = np.dtype(np.float32 if dtype != np.float32 else np.float64)
    locked, wide, wrong, lent = (
        maker.place(s, d)[0] for s, d in ((shape, dtype), ((*shape, 2), dtype), (shape, other), (shape, dtype))
    )
    locked.flags.writeable = False
    outs = [(locked, ValueError), (wide, ValueError), (wrong, TypeError), (hostile.Converts(lent), TypeError)]
    outs += [(thing, TypeError) for thing in ([0.0], 5, "out", np.ma.masked_array(np.zeros(shape)))]
    outs += [(np.zeros(shape, kind), TypeError) for kind in (complex, object)]
    if shape == ():
        outs += [(dtype.type(1), TypeError)] * 3
    out, error = maker.draw.choice(outs)
    offer(maker, call, out)
    return {error}


@fault("out", where=has_room)
def out_on_itself(maker, call):
    """An axis of stride 0, or of less than an element."""
    a, _ = maker.place(call.shape, call.values["logits"].dtype, dense=True)
    strides = list(a.strides)
    strides[maker.draw.choice([axis for axis, n in enumerate(call.shape) if n > 1])] = maker.draw.choice((0, 1))
    offer(maker, call, np.lib.stride_tricks.as_strided(a, call.shape, strides))
    return {ValueError}


@fault("out", "logits", where=has_room, weight=4)
def out_on_a_part_of_the_logits(maker, call):
    """Their memory shifted or backwards; if it turns out to lie between them and on none, it is no fault."""
    a = call.values["logits"]
    if not isinstance(call.given["logits"], np.ndarray) or not call.given["logits"].flags.writeable:
        return set()
    out = a[tuple(slice(None, None, -1) for _ in a.shape)] if maker.chance(0.2) else shifted(maker, a)
    if out is None:
        return set()
    offer(maker, call, out)
    if np.isin(addresses(a), addresses(out)).any():
        return {ValueError}
    call.may.add(ValueError)  # to know that two arrays are apart can take too long
    call.outs = [out]
    maker.traits.add("out: between the logits")
    return set()


def shifted(maker, a):
    """The same layout some bytes away, if that is inside the slot."""
    slot = next(s for s in maker.yard.taken if 0 <= lowest(a) - s.memory.ctypes.data < s.size)
    shift = maker.draw.choice((1, a.itemsize, a.itemsize, 4 * a.itemsize))
    for place in (lowest(a) - slot.memory.ctypes.data + shift, lowest(a) - slot.memory.ctypes.data - shift):
        if 0 <= place <= slot.size - span(a.shape, a.strides, a.itemsize):
            return lay(slot.memory, a.shape, a.dtype, a.strides, place, False)
    return None


def lowest(a) -> int:
    return a.ctypes.data + sum(s * (n - 1) for s, n in zip(a.strides, a.shape) if s < 0)


def addresses(a) -> np.ndarray:
    """Of every byte of every element."""
    found = np.arange(a.itemsize) + a.ctypes.data
    for n, s in zip(a.shape, a.strides):
        found = (found[:, None] + np.arange(n) * s).ravel()
    return found


@fault("out", "target", where=lambda call: takes_out(call) and call.values["logits"].size > 0)
def out_on_the_target(maker, call):
    """Probabilities of the logits' dtype, or labels that are used where they lie."""
    a, out = call.values["logits"], None
    if is_loss(call) and is_labelled(call):
        count = call.values["target"].size
        memory, _ = maker.place((max(count, a.nbytes // 8 + 1),), np.dtype(np.int64), dense=True)
        memory[...] = 0
        call.given["target"] = memory[:count].reshape(call.rows)
        out = np.ndarray(a.shape, a.dtype, memory.view(np.uint8))
    else:
        out = maker.array(np.zeros(a.shape), a.dtype, repeats=False, kinds=False)
        call.given["target"] = out if maker.chance(0.5) else out.view(hostile.Subclass)
    offer(maker, call, out)
    return {ValueError}


@fault("out", where=lambda call: takes_out(call) and call.function.endswith("hess") and call.values["logits"].size > 0)
def outs_that_are_no_pair(maker, call):
    a, _ = maker.place(call.shape, call.values["logits"].dtype)
    bad = (((a, a), ValueError), (a, TypeError), ((a,), TypeError), ((a, a, a), TypeError), (1, TypeError))
    call.given["out"], error = maker.draw.choice(bad)
    return {error}
