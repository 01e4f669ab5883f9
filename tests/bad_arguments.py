"""Faults of labels, other arrays and options."""

import decimal

import numpy as np
from calls import ignored, is_labelled
from cases import DTYPES
from faults import fault, has_arrays, has_classes, has_target, is_binary, is_loss
from hostile import INTEGERS, PEERS, Elsewhere

# ------------------------------------------------------------------------------------------------------------- target


def has_labels(call) -> bool:
    return is_loss(call) and is_labelled(call) and call.values["target"].size > 0


@fault("target", "ignore_index", where=has_labels, weight=12)
def label_out_of_range(maker, call):
    """At every edge: C, −1, and the ends of every dtype."""
    y, skip = np.array(call.values["target"], order="C"), ignored(call)
    limits = np.iinfo(y.dtype)
    smallest, largest = int(limits.min), int(limits.max)
    edges = {call.classes, call.classes + 1, -1, -2, skip + 1, skip - 1, 2**31, 2**32, 2**63, 2**64 + skip}
    edges |= {smallest, largest, largest - 1, call.classes + 2**32}
    bad = sorted(e for e in edges if smallest <= e <= largest and e != skip and not 0 <= e < call.classes)
    if not bad:
        return set()
    y.reshape(-1)[maker.random.integers(0, y.size, maker.draw.choice((1, 1, 2)))] = maker.draw.choice(bad)
    call.given["target"] = maker.array(y, y.dtype, repeats=False)
    return {IndexError}


@fault("target", where=has_target)
def target_of_a_wrong_kind(maker, call):
    bad = [(call.shape, dtype) for dtype in (complex, object, "U3", np.longdouble, ">f4", ">i8", "M8[s]")]
    if is_loss(call):
        dtypes = (object, complex, "U1", "M8[s]", float, bool, DTYPES["bfloat16"], ">f8")
        bad += [(call.rows, dtype) for dtype in dtypes]
    shape, dtype = maker.draw.choice(bad)
    call.given["target"] = np.ones(shape).astype(dtype)
    return {TypeError}


@fault("target", where=has_target)
def target_of_a_wrong_shape(maker, call):
    right = (call.shape, call.rows) if is_loss(call) else (call.shape,)
    shapes = [(*call.shape, 1), (1, *call.shape), (7, 11), tuple(n + 1 for n in call.shape)]
    shape = maker.draw.choice([s for s in shapes if s not in right])
    call.given["target"] = maker.array(np.zeros(shape), np.dtype(maker.draw.choice((np.int64, np.float32))))
    return {ValueError}


@fault("target", where=is_loss)
def no_target(maker, call):
    call.given["target"] = None
    return {TypeError}


# ------------------------------------------------------------------------------------------------------- other arrays


def first(call) -> str:
    return next(name for name in ("logits", "x", "p") if name in call.given)


@fault("logits", "out", where=has_arrays)
def logits_of_a_wrong_kind(maker, call):
    dtypes = (*INTEGERS, bool, complex, object, "U4", "S2", "M8[s]", np.longdouble, ">f4", ">f8", ">f2", "V8", "f4,f4")
    call.given[first(call)] = np.zeros(call.shape, np.dtype(maker.draw.choice(dtypes)))
    return {TypeError}


@fault("logits", "out", where=has_arrays)
def logits_that_are_no_array(maker, call):
    masked = np.ma.masked_array(np.zeros(call.shape))
    others = (None, "text", object(), {}, {1, 2}, lambda: 0, [[1.0, 2.0], [3.0]], masked)
    call.given[first(call)] = maker.draw.choice(others)
    return {TypeError, ValueError}


@fault("logits", where=has_arrays)
def logits_on_another_device(maker, call):
    call.given[first(call)] = Elsewhere(maker.draw.choice((2, 3, 10, 13, 99)))
    return {RuntimeError, TypeError}


@fault("target", "weight", "sample_weight", "lse", "v", "pos_weight", where=has_arrays)
def another_array_on_another_device(maker, call):
    names = [n for n in ("target", "weight", "sample_weight", "lse", "v", "pos_weight") if n in call.given]
    if not names:
        return set()
    call.given[maker.draw.choice(names)] = Elsewhere(maker.draw.choice((2, 3, 10, 99)))
    return {TypeError}


@fault("logits", "axis", where=has_classes)
def no_class_axis(maker, call):
    call.given[first(call)] = maker.draw.choice((1.0, np.float32(2), np.zeros((), np.float16)))
    return {ValueError}


@fault("logits", "out", "axis", where=has_classes)
def no_classes(maker, call):
    call.given[first(call)] = np.zeros((*(3 for _ in call.rows), 0), np.float32)
    call.given.pop("axis", None)
    return {ValueError}


@fault("logits", where=lambda call: call.function == "softmax_jacobian")
def not_one_row(maker, call):
    call.given["p"] = np.zeros(maker.draw.choice(((), (1, 3), (2, 2), (0, 0))), np.float32)
    return {ValueError}


@fault("v", where=lambda call: call.function == "softmax_vjp")
def v_that_does_not_fit(maker, call):
    p = call.values["logits"]
    other = np.dtype(np.float32 if p.dtype == np.float64 else np.float64)
    shape, dtype, error = maker.draw.choice([(p.shape, other, TypeError), ((*p.shape, 2), p.dtype, ValueError)])
    call.given["v"] = maker.array(np.zeros(shape), dtype)
    return {error}


@fault("weight", "sample_weight", "lse", where=is_loss)
def factor_of_a_wrong_shape(maker, call):
    name = maker.draw.choice(("weight", "sample_weight", *(["lse"] if "lse" in call.given else [])))
    right = (call.classes,) if name == "weight" else call.rows
    shapes = [(*right, 1), (2, *right), (right[0] + 1, *right[1:]) if right else (1,)]
    call.given[name] = maker.array(np.ones(maker.draw.choice(shapes)), np.dtype(float))
    return {ValueError}


@fault("weight", "sample_weight", "pos_weight", where=is_binary)
def factor_that_does_not_broadcast(maker, call):
    name = maker.draw.choice(("weight", "sample_weight", "pos_weight"))
    call.given[name] = maker.array(np.ones((2, *call.shape)), np.dtype(float))
    return {ValueError}


@fault("weight", "sample_weight", "pos_weight", "lse", where=has_target)
def factor_of_a_wrong_kind(maker, call):
    shapes = {"weight": (call.classes,), "sample_weight": call.rows} if is_loss(call) else {}
    if is_binary(call):
        shapes = dict.fromkeys(("weight", "sample_weight", "pos_weight"), call.shape)
    if "lse" in call.given:
        shapes["lse"] = call.rows
    name = maker.draw.choice(list(shapes))
    dtype = maker.draw.choice((complex, object, "U1", ">f8", ">i4", np.longdouble, "M8[s]"))
    call.given[name] = np.ones(shapes[name]).astype(dtype)
    return {TypeError}


@fault("grad_output", where=lambda call: is_loss(call) and call.function != "cross_entropy")
def bad_upstream(maker, call):
    bad = ((np.ones((3, 5, 7)), ValueError), (1j, TypeError), ("1", TypeError), (np.ones(2, "M8[s]"), TypeError))
    call.given["grad_output"], error = maker.draw.choice(bad)
    return {error}


# ------------------------------------------------------------------------------------------------------------ options

NAN, INF = float("nan"), float("inf")
NO_NUMBERS = (True, "1", b"1", 1j, np.zeros(2), [1.0], np.complex64(2), np.array(1j), np.array("2.5"), np.bool_(True))
HUGE = (10**400, decimal.Decimal("1e999"))
REDUCED = {"reduction", "denominator"}
OPTIONS = {  # which calls have it, values of a wrong type, values out of range
    "ignore_index": (is_loss, (1.5, None, "1", np.zeros(3), np.float64(1)), (2**63, -(2**63) - 1, 10**30)),
    "label_smoothing": (is_loss, (None, *NO_NUMBERS), (-0.1, 1.1, NAN, INF, -5e-324, np.float32(2), *HUGE)),
    "z_loss": (is_loss, (None, *NO_NUMBERS), (-1, NAN, INF, *HUGE)),
    "softcap": (is_loss, NO_NUMBERS, (0, -1, NAN, INF, -0.0, np.array(0), *HUGE)),
    "logit_scale": (is_loss, (None, *NO_NUMBERS), (0, -1.5, NAN, INF, -INF, *HUGE)),
    "denominator": (has_target, NO_NUMBERS, (0, -1, NAN, INF, np.array(-2), *HUGE)),
    "reduction": (
        has_target,
        (),
        ("avg", None, 1, b"mean", "MEAN", ("mean",), ["mean"], np.array(["mean", "sum"]), {}),
    ),
    "axis": (has_classes, (1.0, None, "0", (0,), np.float64(0), np.zeros(2, int)), (99, -99, 10**30, np.int64(2**62))),
    "backend": (has_arrays, ("cuda", ["cpu"], {}, np.zeros(2)), ("gpu", "", "CPU", 5)),
}


def option(name, kind, where, values, error):
    def change(maker, call):
        call.given[name] = maker.draw.choice(values)
        if name == "denominator":
            call.given["reduction"] = "mean"
        return {error}

    change.__name__ = f"{name} {kind}"
    fault(*(REDUCED if name in REDUCED else {name}), where=where)(change)


for name, (where, types, ranges) in OPTIONS.items():
    if types:
        option(name, "of a wrong type", where, types, TypeError)
    option(name, "out of range", where, ranges, ValueError)


@fault(*REDUCED, where=has_target)
def denominator_without_a_mean(maker, call):
    call.given |= {"denominator": 2.0, "reduction": maker.draw.choice(("sum", "none"))}
    return {ValueError}


@fault("softcap", "z_loss", where=lambda call: call.function == "cross_entropy_grad_and_hess")
def hessian_of_a_loss_without_one(maker, call):
    call.given |= maker.draw.choice(({"softcap": 5.0}, {"z_loss": 0.1}))
    return {ValueError}


@fault("ignore_index", where=lambda call: is_loss(call) and not is_labelled(call))
def ignored_probabilities(maker, call):
    call.given["ignore_index"] = maker.draw.choice((0, 1, 255))
    return {ValueError}


@fault("surplus", where=has_arrays)
def unknown_argument(maker, call):
    call.given["targets"] = 1
    return {TypeError}


@fault("dtypes", where=lambda call: call.function == "warmup")
def dtypes_to_warm_up(maker, call):
    bad = (("float99", ValueError), (["int8"], ValueError), (5, TypeError), (None, TypeError))
    call.given["dtypes"], error = maker.draw.choice(bad)
    return {error}


@fault("classes", where=lambda call: call.function == "warmup")
def classes_to_warm_up(maker, call):
    bad = (([0], ValueError), ([3, -1], ValueError), ([2.5], TypeError), (["3"], TypeError), (5, TypeError))
    call.given["classes"], error = maker.draw.choice(bad)
    return {error}


@fault("array", where=lambda call: call.function == "backend_for")
def no_backend(maker, call):
    call.given["array"] = Elsewhere(maker.draw.choice((3, 10, 13, 99)))
    return {RuntimeError}


if "torch" in PEERS:

    @fault("logits", "out", where=has_arrays)
    def tensors_of_a_wrong_kind(maker, call):
        import torch

        x = torch.zeros(call.shape)
        kinds = [x.to(torch.complex64), x.to(torch.int32), x.to(torch.float8_e4m3fn), x.to("meta"), x > 0]
        if call.shape:
            kinds.append(x.to_sparse())
        call.given[first(call)] = maker.draw.choice(kinds)
        return {TypeError, RuntimeError}
