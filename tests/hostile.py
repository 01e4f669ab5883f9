"""One array of a hostile caller: its values, how it lies in fenced memory, and what kind of object it comes as."""

import importlib.util
import random
import sys

import ml_dtypes
import numpy as np
from cases import DTYPES
from fences import CANARIES, SIZES, lay, span, strides_of

INTEGERS = [np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PEERS = [name for name in ("torch", "jax") if importlib.util.find_spec(name)]


class Subclass(np.ndarray):
    """Nothing of an array is different in it."""


class Lender:
    """No array, but it lends its memory by one of NumPy's protocols."""

    def __init__(self, array):
        self.array = array


class Interface(Lender):
    @property
    def __array_interface__(self):
        return self.array.__array_interface__


class Converts(Lender):
    def __array__(self, dtype=None, copy=None):
        return self.array


class Capsule(Lender):
    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **given):
        return self.array.__dlpack__(**given)


class Elsewhere:
    """Says that it is on another device, where nothing of it can be read."""

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return self.kind, 0


class Maker:
    """Makes the arguments of one call. All that it draws follows from `seed` and `number`."""

    def __init__(self, seed, number, yard):
        self.draw = random.Random(f"{seed}, {number}")
        self.random = np.random.Generator(np.random.SFC64(self.draw.getrandbits(64)))
        self.yard = yard
        self.traits = set()
        yard.clear(self.draw.choice(CANARIES))

    def chance(self, p) -> bool:
        return self.draw.random() < p

    def pick(self, kind, **weights):
        """One of the names, with these weights; it is noted as a trait."""
        (name,) = self.draw.choices(list(weights), weights.values())
        self.traits.add(f"{kind}: {name.replace('_', ' ')}")
        return name

    # ---------------------------------------------------------------------------------------------------- how it lies

    def place(self, shape, dtype, kind="ram", repeats=False, dense=False):
        """Memory for an array of this shape, of which nothing is written yet."""
        order, gaps, odd, shift = list(range(len(shape))), [1] * len(shape), 0, 0
        if not dense and self.chance(0.5):
            if self.chance(0.4):
                self.draw.shuffle(order)
                self.traits.add("layout: axes in another order")
            if self.chance(0.5):
                gaps = [self.draw.choice((1, 1, 2, 3)) for _ in shape]
                self.traits.add("layout: gaps")
            if self.chance(0.4):
                gaps = [g * self.draw.choice((1, -1)) for g in gaps]
                self.traits.add("layout: negative strides")
            if self.chance(0.15):
                odd = self.draw.randrange(1, 8)
                self.traits.add("layout: strides of odd bytes")
            if repeats and shape and self.chance(0.3):
                gaps[self.draw.randrange(len(shape))] = 0
                self.traits.add("layout: stride 0")
        if dtype.itemsize > 1 and not dense and self.chance(0.1):
            shift = self.draw.randrange(1, dtype.itemsize)
            self.traits.add("layout: unaligned")
        strides = strides_of(shape, dtype.itemsize, order, gaps, odd)
        if span(shape, strides, dtype.itemsize) > SIZES[-1] // 2:
            strides = strides_of(shape, dtype.itemsize, order, [1] * len(shape), 0)
        slot = self.yard.take(span(shape, strides, dtype.itemsize) + 8, kind)
        upper = self.chance(0.5)
        self.traits.add(f"fence: {'upper' if upper else 'lower'}")
        if 0 in shape:
            self.traits.add("shape: empty")
        return [lay(memory, shape, dtype, strides, shift, upper) for memory in (slot.memory, slot.filled)]

    def array(self, values, dtype, repeats=True, kinds=True) -> np.ndarray:
        """These values in fenced memory of this kind of dtype."""
        kind = "ram"
        if kinds and self.chance(0.08):
            kind = self.draw.choice(("r+", "r"))
            self.traits.add(f"memory: file mapped {kind}")
        array, filled = self.place(values.shape, dtype, kind, repeats)
        with np.errstate(all="ignore"):
            filled[...] = values.astype(dtype)
        if kind != "ram":
            return array.view(np.memmap)
        if kinds and self.chance(0.1):
            array.flags.writeable = False
            self.traits.add("memory: read-only")
        return array

    # ------------------------------------------------------------------------------------------------- what it comes as

    def wrapped(self, array, lists=True):
        """The array as something else that stands for it."""
        if not self.chance(0.15):
            return array
        kinds = {"subclass": 3, "interface": 2, "converts": 2, "capsule": 2, "list": 2 * lists}
        for name in PEERS:
            kinds[name] = 2
        kind = self.draw.choices(list(kinds), kinds.values())[0]
        found = globals()[f"as_{kind}"](array)
        if found is None:
            return array
        self.traits.add(f"object: {kind}")
        return found


def as_subclass(array):
    return array.view(Subclass)


def as_interface(array):
    return Interface(array) if array.dtype != BFLOAT16 else None


def as_converts(array):
    return Converts(array)


def as_capsule(array):
    """NumPy exports what is writable, of its own dtypes, with strides of whole elements."""
    whole = all(s % array.itemsize == 0 for s in array.strides)
    known = array.dtype.kind in "iuf" and array.dtype.isnative and array.dtype != BFLOAT16
    return Capsule(array) if whole and known and array.flags.writeable and array.flags.aligned else None


def as_list(array):
    held = array.dtype in (np.dtype(np.int64), np.dtype(np.float64)) and 0 < array.size <= 200
    return array.tolist() if held else None


def as_torch(array, gradient=True):
    whole = all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
    if not (whole and array.flags.writeable and array.dtype.isnative and array.dtype.kind in "iufV"):
        return None
    import torch

    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    found = torch.from_numpy(array.view(np.ndarray))
    return found.requires_grad_() if gradient and array.dtype.kind == "f" else found


def as_jax(array):
    """JAX makes float32 of float64, unless told otherwise."""
    if array.itemsize == 8 or not array.dtype.isnative:
        return None
    import jax

    return jax.device_put(np.array(array))  # jnp.array would compile a copy for every shape


def seen(given) -> np.ndarray:
    """The values of an argument or of a result, as NumPy has them."""
    root = type(given).__module__.partition(".")[0]
    if root == "torch":
        torch = sys.modules["torch"]
        given = given.detach()
        if given.dtype == torch.bfloat16:
            return given.view(torch.int16).numpy().view(BFLOAT16)
        return given.numpy()
    return np.asarray(given.array if isinstance(given, Lender) else given)


# -------------------------------------------------------------------------------------------------------------- values


def logits(maker, shape, dtype):
    """Numbers of every size that a dtype has; −inf, +inf and NaN here and there."""
    limits = np.finfo(np.float32) if dtype == BFLOAT16 else np.finfo(dtype)
    # a difference of float64's largest would be infinite in the reference, too
    largest, tiny = min(float(limits.max), 1e307), float(limits.smallest_subnormal)
    random = maker.random
    x = random.standard_normal(shape)
    style = maker.pick(
        "logits", ordinary=40, wide=8, confident=5, huge=6, tiny=4, equal=3, zero=2, offset=4, masked=8, poisoned=8
    )
    if style == "wide":
        x *= 40
    elif style == "confident":
        x[random.random(shape) < 0.1] += 60
    elif style == "huge":
        x = np.where(x > 0, largest, -largest) * random.choice([1, 0.5, 1e-3], shape)
    elif style == "tiny":
        x = np.trunc(x * 5) * tiny * 4
    elif style == "equal":
        x[...] = random.choice([0.5, -7.0, 1e4])
    elif style == "zero":
        x = np.where(x > 0, 0.0, -0.0)
    elif style == "offset":
        x = x * 2 + random.choice([1e6, -3e4, 2.0**24, 1e9, -4e9, -1e30])
        x = np.clip(x, -largest, largest)
    elif style == "masked":
        x = np.where(random.random(shape) < random.choice([0.05, 0.5, 0.95]), -np.inf, x * 3)
    elif style == "poisoned":
        x = np.where(random.random(shape) < 2 / max(x.size, 4), random.choice([np.nan, np.inf, -np.inf]), x * 3)
    else:
        x *= 3
    return x, style


def chances(maker, shape):
    """Probabilities, or what should be some."""
    style = maker.pick("p", shares=60, one=20, poisoned=10, any=10)
    p = maker.random.random(shape) * maker.random.choice([1, 1e-3, 1e-30], shape)
    if style == "one":
        p = np.rint(p)
    elif style == "poisoned":
        p = np.where(maker.random.random(shape) < 2 / max(p.size, 4), np.nan, p)
    elif style == "any":
        p = maker.random.standard_normal(shape) * 100
    return p, style


def factors(maker, name, shape):
    """Weights of any kind: None, moderate, none at all here and there, negative, of any size."""
    style = maker.pick(name, none=50, moderate=25, zeros=6, negative=5, integers=4, large=4, small=4)
    if style == "none":
        return None
    w = maker.random.uniform(0.2, 2.0, shape)
    if style == "zeros":
        w = w * (maker.random.random(shape) < 0.6)
    elif style == "negative":
        w = w * maker.random.choice([1, -1], shape)
    elif style == "integers":
        w = np.trunc(w * 3)
    elif style == "large":
        w *= 1e6
    elif style == "small":
        w *= 1e-6
    kinds = [DTYPES[d] for d in ("float64", "float64", "float32")]
    if style in ("moderate", "zeros", "negative"):
        kinds += [DTYPES["float16"], BFLOAT16]
    if style == "integers":
        kinds = [*INTEGERS, np.dtype(bool)]
    return maker.wrapped(maker.array(w, maker.draw.choice(kinds)))
