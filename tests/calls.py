"""Random calls of every public function: well-formed, if strange. `faults` puts into them what is to be refused."""

from dataclasses import dataclass, field

import hostile
import numpy as np
from cases import DTYPES, IGNORE
from hostile import INTEGERS, Maker, seen

import fastsce

LOSSES = {
    "cross_entropy": 14,
    "cross_entropy_value_and_grad": 26,
    "cross_entropy_backward": 14,
    "cross_entropy_grad_and_hess": 12,
}
BINARY = {
    "binary_cross_entropy": 5,
    "binary_cross_entropy_value_and_grad": 8,
    "binary_cross_entropy_grad_and_hess": 6,
}
OTHERS = {"softmax": 4, "log_softmax": 4, "logsumexp": 4, "softmax_vjp": 4, "softmax_jacobian": 3}
SMALL = {"backend_for": 1, "warmup": 0.5}
FUNCTIONS = {**LOSSES, **BINARY, **OTHERS, **SMALL}
CLASSES = (
    1,
    2,
    3,
    4,
    5,
    7,
    10,
    15,
    16,
    17,
    31,
    32,
    33,
    63,
    65,
    100,
    128,
    159,
    160,
    161,
    200,
    300,
    319,
    320,
    321,
    513,
    1003,
)
MANY = (2047, 2049, 4097, 16384, 16385)
DEFAULTS = {"ignore_index": IGNORE, "label_smoothing": 0.0, "z_loss": 0.0, "softcap": None, "logit_scale": 1.0}


@dataclass
class Call:
    """One call, and what must come of it."""

    function: str
    given: dict  # the arguments by name
    axis: int | None = None  # of the classes, counted from 0
    values: dict = field(default_factory=dict)  # NumPy's views of the arrays among them
    outs: list = field(default_factory=list)  # views of what may be written
    style: str = ""  # of the logits
    traits: set = field(default_factory=set)
    errors: set = field(default_factory=set)  # it must be refused with one of these; accepted if there are none
    may: set = field(default_factory=set)  # it may be refused with one of these

    @property
    def shape(self):
        return self.values["logits"].shape

    @property
    def rows(self):
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]

    @property
    def classes(self):
        return self.shape[self.axis]

    def run(self, **more):
        return getattr(fastsce, self.function)(**{**self.given, **more})


def make(seed, number, yard) -> tuple[Maker, Call]:
    maker = Maker(seed, number, yard)
    (function,) = maker.draw.choices(list(FUNCTIONS), FUNCTIONS.values())
    call = Call(function, {}, traits=maker.traits)
    makers = ((LOSSES, loss), (BINARY, binary), (OTHERS, probabilities), (SMALL, small))
    next(make for names, make in makers if function in names)(maker, call)
    return maker, call


# ------------------------------------------------------------------------------------------------------------- shapes


def sizes(maker) -> tuple[tuple, int]:
    """The lengths of the rows' axes and the number of classes; most are small, for time."""
    draw = maker.draw
    if maker.chance(0.004):  # work for several threads
        maker.traits.add("shape: many threads")
        classes = draw.choice(CLASSES)
        return draw.choice([(80_000 // classes,), (2, 40_000 // classes)]), classes
    if maker.chance(0.01):
        maker.traits.add("shape: many classes")
        return draw.choice([(1,), (2,), (2, 1)]), draw.choice(MANY)
    classes = draw.choice(CLASSES)
    most = max(1, 3000 // classes)
    rows = []
    for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        rows.append(min(most, draw.choice((1, 1, 2, 3, 5, 17, 40, 70))))
        most = max(1, most // rows[-1])
    if rows and maker.chance(0.04):
        rows[draw.randrange(len(rows))] = 0
        classes = draw.choice((classes, 0))
    if 1 in (*rows, classes):
        maker.traits.add("shape: an axis of one")
    return tuple(rows), classes


def logits(maker, call, name="logits"):
    """The logits of a call with a class axis, and that axis."""
    rows, classes = sizes(maker)
    axis = maker.draw.randrange(len(rows) + 1) if maker.chance(0.4) else len(rows)
    shape = (*rows[:axis], classes, *rows[axis:])
    call.axis = axis
    if axis != len(rows) or maker.chance(0.3):
        value = maker.draw.choice((axis, axis - len(shape)))
        call.given["axis"] = np.int64(value) if maker.chance(0.1) else value
    floats(maker, call, name, shape)


def floats(maker, call, name, shape):
    dtype = DTYPES[maker.pick("dtype", float32=40, float64=25, float16=17, bfloat16=17)]
    x, call.style = hostile.chances(maker, shape) if name == "p" else hostile.logits(maker, shape, dtype)
    array = maker.array(x, dtype)
    call.given[name] = maker.wrapped(array)
    call.values["logits"] = seen(call.given[name]).view(np.ndarray)


# --------------------------------------------------------------------------------------------------------- the softmax


def loss(maker, call):
    logits(maker, call)
    options(maker, call)
    target(maker, call)
    keep(call, "weight", hostile.factors(maker, "weight", (call.classes,)))
    keep(call, "sample_weight", hostile.factors(maker, "sample_weight", call.rows))
    forget_ignored(maker, call)
    if call.function != "cross_entropy":
        upstream(maker, call, call.rows)
    if call.function == "cross_entropy_backward":
        saved(maker, call)
    if call.function != "cross_entropy":
        outs(maker, call)


def keep(call, name, argument):
    """An optional argument of the call."""
    if argument is not None:
        call.given[name] = argument
        call.values[name] = seen(argument).view(np.ndarray)


def forget_ignored(maker, call):
    """The weights of rows to ignore are no numbers, for nobody reads them."""
    s = call.values.get("sample_weight")
    if s is None or not is_labelled(call) or not s.flags.writeable or s.dtype.kind != "f" or 0 in s.strides:
        return
    if isinstance(call.given["sample_weight"], np.ndarray) and maker.chance(0.3):
        s[np.asarray(call.values["target"]) == ignored(call)] = maker.draw.choice((np.nan, np.inf))
        maker.traits.add("sample_weight: none for ignored rows")


def options(maker, call):
    draw, given = maker.draw, call.given
    huge = call.style == "huge" or (call.style == "offset" and call.values["logits"].dtype == np.float16)
    if maker.chance(0.3):
        given["label_smoothing"] = draw.choice((0, -0.0, 0.1, 0.5, 1.0, 1, 1e-12, np.float32(0.1), np.array(0.25)))
    if maker.chance(0.25):
        scales = (0.7, 1e-3, 1, np.float16(0.5)) if huge else (0.7, 3, 1e-30, np.array(12.5))
        if call.style in ("huge", "offset") and call.function == "cross_entropy_backward":
            scales = (0.75, 2.0**-10, 1, np.float16(0.5))  # of which float32 has all digits, and an lse as many as z
        given["logit_scale"] = draw.choice(scales)
    if call.function != "cross_entropy_grad_and_hess":
        if maker.chance(0.2):
            given["z_loss"] = draw.choice((0.01, 1e-12, 3, -0.0, np.float64(0.5)))
        if maker.chance(0.25):
            given["softcap"] = draw.choice((5.0, 30, 0.5, 1e6, np.float32(2.5), None))
    reducing(maker, given)
    if maker.chance(0.1):
        given["check_targets"] = draw.choice((None, True, False))
    maker.traits.update(f"option: {name}" for name in given if name not in ("logits", "target"))


def reducing(maker, given):
    reduction = maker.pick("reduction", default=30, mean=15, sum=20, none=35)
    if reduction != "default":
        given["reduction"] = reduction
    if reduction in ("default", "mean") and maker.chance(0.4):
        given["denominator"] = maker.draw.choice((37.5, 1e-3, 10**6, np.float32(3), np.array(8)))
        maker.traits.add("option: denominator")


def target(maker, call):
    draw = maker.draw
    if maker.pick("target", labels=65, probabilities=35) == "labels":
        labels(maker, call)
        return
    t = maker.random.random(call.shape) * (maker.random.random(call.shape) < 0.8)
    style = draw.choice(("shares", "shares", "one-hot", "one"))
    dtype = call.values["logits"].dtype
    if style == "shares":
        kinds = [dtype, dtype, np.dtype(np.float32), np.dtype(np.float64), DTYPES["float16"], DTYPES["bfloat16"]]
        dtype = draw.choice(kinds)
    elif call.classes:
        t = np.moveaxis(t, call.axis, -1)
        t = np.moveaxis((t == t.max(-1, keepdims=True)).astype(float), -1, call.axis)
        dtype = draw.choice([dtype, *INTEGERS, np.dtype(bool), np.dtype(np.float64)])
    maker.traits.add(f"target: {dtype} probabilities")
    keep(call, "target", maker.wrapped(maker.array(t, dtype)))


def labels(maker, call):
    """Labels of every integer dtype, some of rows to ignore."""
    draw = maker.draw
    kinds = [d for d in INTEGERS if np.iinfo(d).max >= call.classes - 1]
    dtype = draw.choice([np.dtype(np.int64), *kinds])
    limits = np.iinfo(dtype)
    ignore = draw.choice((IGNORE, IGNORE, 255, -1, 0, call.classes, int(limits.min), min(int(limits.max), 2**63 - 1)))
    if ignore != IGNORE:
        call.given["ignore_index"] = np.int64(ignore) if maker.chance(0.2) else ignore
    y = maker.random.integers(0, max(call.classes, 1), call.rows)
    y = np.asarray(y) if maker.chance(0.8) else np.full_like(y, draw.choice((0, max(call.classes, 1) - 1)))
    if limits.min <= ignore <= limits.max and maker.chance(0.5):
        y = np.where(maker.random.random(call.rows) < draw.choice((0.2, 0.2, 1.0)), ignore, y)
        maker.traits.add("labels: ignored rows")
    dtype = dtype.newbyteorder() if maker.chance(0.1) else dtype
    maker.traits.add(f"labels: {dtype}")
    keep(call, "target", maker.wrapped(maker.array(y, dtype)))


def upstream(maker, call, shape):
    draw, given = maker.draw, call.given
    kind = maker.pick("grad_output", none=60, number=20, array=20)
    if kind == "number":
        given["grad_output"] = draw.choice((1, 2.5, 0, -3.0, np.float16(0.5), np.int8(-2), np.array(4.0), 1e-8, 1e6))
        call.values["grad_output"] = np.asarray(given["grad_output"])
    elif kind == "array" and given.get("reduction") == "none":
        g = maker.random.standard_normal(shape) * draw.choice((1, 1, 1e-6, 1e6))
        keep(call, "grad_output", maker.wrapped(maker.array(g, DTYPES[draw.choice(("float32", "float64"))])))


def saved(maker, call):
    """lse as it must be, or larger: that of all shards; anything at all for rows to ignore."""
    with np.errstate(all="ignore"):
        z = scaled(call)
        m = z.max(-1, initial=-np.inf)
        lse = m + np.log(np.exp(z - m[..., None]).sum(-1))
    if maker.chance(0.2):
        lse = lse + maker.random.exponential(2, lse.shape)
        maker.traits.add("lse: of more classes")
    if is_labelled(call) and maker.chance(0.5):
        lse = np.where(np.asarray(call.values["target"]) == ignored(call), maker.draw.choice((np.nan, 0, 1e300)), lse)
    keep(call, "lse", maker.wrapped(maker.array(lse, np.dtype(np.float64), repeats=False)))


def scaled(call):
    """z in float64, the classes last."""
    s, cap = float(option(call, "logit_scale")), option(call, "softcap")
    x = np.moveaxis(call.values["logits"].astype(np.float64), call.axis, -1)
    if cap is None:
        return s * x
    return np.where(x == -np.inf, -np.inf, float(cap) * np.tanh(s * x / float(cap)))


def option(call, name):
    return call.given.get(name, DEFAULTS[name])


def ignored(call) -> int:
    return int(option(call, "ignore_index"))


def is_labelled(call) -> bool:
    return call.values["target"].ndim < len(call.shape)


# ----------------------------------------------------------------------------------------------------------- the rest


def binary(maker, call):
    rows, classes = sizes(maker)
    shape = rows + ((classes,) if maker.chance(0.8) else ())
    floats(maker, call, "logits", shape)
    dtype = call.values["logits"].dtype
    t = maker.random.random(shape)
    kind = maker.draw.choice([dtype, dtype, np.dtype(np.float32), np.dtype(np.float64), DTYPES["bfloat16"], *INTEGERS])
    if kind.kind in "iu":
        t = np.rint(t)
    maker.traits.add(f"target: binary {kind}")
    keep(call, "target", maker.wrapped(maker.array(t, kind)))
    for name in ("weight", "pos_weight"):
        share = tuple(n if maker.chance(0.7) else 1 for n in shape)[maker.draw.randrange(len(shape) + 1) :]
        keep(call, name, hostile.factors(maker, name, share))
    share = shape[: maker.draw.randrange(len(shape) + 1)]
    keep(call, "sample_weight", hostile.factors(maker, "sample_weight", share))
    reducing(maker, call.given)
    if call.function != "binary_cross_entropy":
        upstream(maker, call, shape)
        outs(maker, call)


def probabilities(maker, call):
    name = "p" if call.function in ("softmax_vjp", "softmax_jacobian") else "x"
    if call.function == "softmax_jacobian":
        call.axis = 0
        floats(maker, call, name, (maker.draw.choice((0, *CLASSES[:16])),))
    else:
        logits(maker, call, name)
    if call.function == "softmax_vjp":
        p = call.values["logits"]
        keep(call, "v", maker.wrapped(maker.array(maker.random.standard_normal(p.shape), p.dtype)))


def small(maker, call):
    if call.function == "warmup":
        call.given["dtypes"] = maker.draw.choice(([], (), iter(())))
        call.given["classes"] = maker.draw.choice(((), [2, 10], iter((1,)), np.arange(1, 4)))
    else:
        call.given["array"] = maker.wrapped(maker.array(np.zeros((2, 3)), maker.draw.choice(list(DTYPES.values()))))


# ---------------------------------------------------------------------------------------------------------------- out


def outs(maker, call):
    """Where the results go: to new memory, to the caller's, or one of them to the logits."""
    count = 2 if call.function.endswith("hess") else 1
    kind = maker.pick("out", fresh=35, own=40, in_place=25)
    if kind == "fresh":
        return
    found = [own(maker, call) for _ in range(count)]
    x = call.given["logits"]
    if kind == "in_place":
        a = call.values["logits"]
        if not isinstance(x, np.ndarray) or not x.flags.writeable or overlaps_itself(a):
            maker.traits.add("out: own")
        else:
            found[maker.draw.randrange(count)] = x if maker.chance(0.7) else a
    call.outs = [seen(out).view(np.ndarray) for out in found]
    if count == 2 and maker.chance(0.1):
        lost = maker.draw.randrange(2)
        found[lost], call.outs = None, call.outs[1 - lost : 2 - lost]
    call.given["out"] = found[0] if count == 1 else maker.draw.choice((tuple, list))(found)


def own(maker, call):
    kind = "r+" if maker.chance(0.05) else "ram"
    array, _ = maker.place(call.shape, call.values["logits"].dtype, kind)
    if kind == "r+":
        return array.view(np.memmap)
    if "torch" in hostile.PEERS and maker.chance(0.1):
        tensor = hostile.as_torch(array, gradient=False)
        return array if tensor is None else tensor
    return hostile.as_subclass(array) if maker.chance(0.1) else array


def overlaps_itself(a) -> bool:
    return any(s == 0 and n > 1 for s, n in zip(a.strides, a.shape))
