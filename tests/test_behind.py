"""Rows of large batches are written while others are read: the same bits as rows that are not."""

import sys

import numpy as np
import pytest
from expect import same_bits

import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import room, ways
from fastsce.backends.cpu.tuning import BLOCK, GROUP_CLASSES, GROUP_CLASSES_BEHIND, LANES
from fastsce.spec import BFLOAT16

KINDS = {"float32": np.float32, "float64": np.float64, "float16": np.float16, "bfloat16": BFLOAT16}
# classes, and how far in numbers past a cache line the gradient begins
SHAPES = [
    (400, 0),  # several groups of many rows
    (400, 1),  # rows share lines
    (257, 9),
    (1000, 0),
    (1001, 3),
    (4 * LANES * 17, 0),
    (BLOCK, 0),
    (BLOCK + 1, 0),
    (BLOCK + 5, 7),
    (3 * BLOCK, 0),
    (3 * BLOCK + 33, 0),
    (3 * BLOCK + 64, 5),
    (GROUP_CLASSES + 2000, 0),  # a row is a group
]


def rising(x):
    """The largest logit grows from block to block, further than terms are kept for."""
    x += np.linspace(-300, 0, x.shape[1], dtype=x.dtype)


def high(x):
    x += 1000


def spoiled(x):
    x[1] = -np.inf
    x[2, 5] = np.nan
    x[3, -1] = np.inf
    x[4, : x.shape[1] // 2] = -np.inf


def batch(classes, kind, change, seed=0):
    rng = np.random.default_rng(seed)
    rows = 2 * (GROUP_CLASSES // classes) + 7 if classes > 1200 else 37
    x = rng.standard_normal((rows, classes)) * 4
    if change is not None:
        change(x)
    y = rng.integers(0, classes, rows)
    y[:4] = 0, classes - 1, min(BLOCK, classes - 1), min(BLOCK - 1, classes - 1)
    y[[5, rows // 2, rows - 1]] = -100
    return stored(x, kind), y


def stored(x, kind):
    with np.errstate(all="ignore"):
        if kind != "bfloat16":
            return x.astype(KINDS[kind])
        return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).view(BFLOAT16)


def gradient(x, y, past, **options):
    """In memory that begins `past` numbers after a cache line; what lies around it must stay as it is."""
    memory = np.full(x.nbytes + 256, 0x5A, np.uint8)
    start = -memory.ctypes.data % 64 + past * x.itemsize
    out = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    results = fastsce.cross_entropy_value_and_grad(x, y, out=out, backend="cpu", **options)
    assert (memory[:start] == 0x5A).all()
    assert (memory[start + x.nbytes :] == 0x5A).all()
    return out, results.loss, results.lse


@pytest.fixture(params=["together", "alone"])
def planned(request, monkeypatch):
    """Stream everything, however small, and behind what is read, rows that may go together in that way or not; the
    plans that were made.
    """
    plans = []
    plan_of = cpu.plan_of
    plan_of.cache_clear()  # what is changed here is not among what it remembers plans by

    def watched(*args):
        kernel, plan, scratch = plan_of(*args)
        plans.append(plan)
        return kernel, plan, scratch

    def prepare():
        for name in ("STREAM_BYTES", "STREAM_ROW_BYTES"):
            monkeypatch.setattr(cpu, name, 0)
        for name in ("BEHIND_BYTES", "BEHIND_BYTES_16"):
            monkeypatch.setattr(ways, name, 0)
        if request.param == "alone":
            monkeypatch.setattr(cpu, "TOGETHER", 0)
        monkeypatch.setattr(cpu, "plan_of", watched)
        plan_of.cache_clear()
        return plans

    yield prepare
    plan_of.cache_clear()


def are_behind(plans, classes, scaled=True):
    """Whether all plans are as they should be. What is worked out again when it is written is not written behind."""
    together = classes <= cpu.TOGETHER
    return plans and all(
        (plan.behind, plan.together, plan.stream or plan.desk > 0) == (scaled, together, True) for plan in plans
    )


def same(a, b):
    """The same bits, but for the sign of a NaN, which a product of two takes from either."""
    a, b = numbers(a), numbers(b)
    none = np.isnan(a)
    return np.array_equal(none, np.isnan(b)) and np.where(none, 0, a).tobytes() == np.where(none, 0, b).tobytes()


def numbers(a):
    a = np.asarray(a)
    if a.dtype != BFLOAT16:
        return a
    return (a.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("change", [None, rising, high, spoiled])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("classes", "past"), SHAPES)
def test_written_behind(classes, past, kind, change, planned):
    x, y = batch(classes, kind, change)
    expected = gradient(x, y, past)
    plans = planned()
    found = gradient(x, y, past)
    assert are_behind(plans, classes)
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("change", [None, spoiled])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("classes", "past"), SHAPES)
def test_not_behind(classes, past, kind, change, planned, monkeypatch):
    """At once, and where rows share lines, put together at the desk first."""
    x, y = batch(classes, kind, change)
    expected = gradient(x, y, past)
    plans = planned()
    for name in ("BEHIND_BYTES", "BEHIND_BYTES_16"):
        monkeypatch.setattr(ways, name, sys.maxsize)
    found = gradient(x, y, past)
    desk = (classes * x.itemsize % 64 > 0 or past * x.itemsize % 64 > 0) and plans[0].together
    assert plans and all((plan.behind, plan.desk > 0 or plan.stream) == (False, True) for plan in plans)
    assert all(plan.desk > 0 for plan in plans) or not desk
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


OPTIONS = [  # and whether their gradient is terms times a factor, minus what lies in memory
    ({"label_smoothing": 0.1}, True),
    ({"label_smoothing": 0.1, "weight": True}, True),
    ({"label_smoothing": 0.1, "weight": True, "sample_weight": True, "z_loss": 0.01, "logit_scale": 0.7}, True),
    ({"label_smoothing": 0.1, "softcap": 5.0}, False),
    ({"softcap": 5.0}, True),
    ({"logit_scale": 3.0, "z_loss": 0.01}, True),
    ({"weight": True}, True),
    ({"sample_weight": True}, True),
    ({"reduction": "none"}, True),
    ({"soft": True}, True),
    ({"soft": True, "sample_weight": True, "z_loss": 0.01, "logit_scale": 0.7}, True),
    ({"soft": True, "label_smoothing": 0.1}, False),
    ({"soft": True, "weight": True}, False),
    ({"soft": True, "softcap": 5.0}, False),
]


def given(x, y, options):
    """The target and the options that these stand for; some weights are 0, one of a class that is masked."""
    rng, options = np.random.default_rng(1), dict(options)
    if options.pop("soft", False):
        y = rng.dirichlet(np.ones(x.shape[1]), len(x)).astype(np.float32)
    if "weight" in options:
        options["weight"] = rng.random(x.shape[1]) * (rng.random(x.shape[1]) > 0.2)
        x[-2, options["weight"] == 0] = -np.inf
    if "sample_weight" in options:
        options["sample_weight"] = rng.random(len(x)) * (rng.random(len(x)) > 0.2)
    return y, options


@pytest.mark.parametrize(("options", "scaled"), OPTIONS, ids=lambda v: str(v) if isinstance(v, dict) else "")
@pytest.mark.parametrize("change", [None, spoiled])
@pytest.mark.parametrize(("classes", "past"), [(400, 0), (1001, 3), (3 * BLOCK + 33, 0), (3 * BLOCK + 34, 5)])
def test_written_behind_with_options(classes, past, change, options, scaled, planned):
    x, y = batch(classes, "float32", change)
    y, options = given(x, y, options)
    expected = gradient(x, y, past, **options)
    plans = planned()
    found = gradient(x, y, past, **options)
    assert are_behind(plans, classes, scaled=scaled)
    equal = same_bits if change is None else same
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("ahead", [64, 128, 192, 256, 4032])
@pytest.mark.parametrize(
    ("classes", "kind", "options"),
    [
        (1024, "float32", {}),
        (1024, "float32", {"label_smoothing": 0.1}),
        (1024, "float32", {"label_smoothing": 0.1, "weight": True}),
        (1024, "float32", {"soft": True}),
        (100, "float32", {}),
        (16, "float32", {}),
        (1040, "bfloat16", {}),
    ],
    ids=str,
)
def test_gradients_just_ahead_of_the_logits_in_another_page(classes, kind, options, ahead, planned, monkeypatch):
    """The last lines of a row go first there; of a short one all do."""
    monkeypatch.setattr(cpu, "SHORT", 0)
    monkeypatch.setattr(cpu, "FEW_BYTES", 0)
    x, y = batch(classes, kind, None)
    y, options = given(x, y, options)
    memory = np.zeros(x.nbytes + 8192, np.uint8)
    group = room.group_rows(classes, False, GROUP_CLASSES_BEHIND) * classes * x.itemsize
    start = (-memory.ctypes.data) % 4096
    memory[start : start + x.nbytes] = x.view(np.uint8).reshape(-1)
    x = memory[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    expected = gradient(x, y, 0, **options)
    out = np.zeros(x.nbytes + 8192, np.uint8)
    start = (-out.ctypes.data + group + ahead) % 4096
    out = out[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
    plans = planned()
    found = fastsce.cross_entropy_value_and_grad(x, y, out=out, backend="cpu", **options)
    assert len(plans) == 1 and are_behind(plans, classes)
    assert found.grad.tobytes() == expected[0].tobytes()


@pytest.mark.parametrize("rows", [1, 2, LANES, LANES + 1, 3 * LANES])
@pytest.mark.parametrize("ignored", ["none", "every second", "all"])
@pytest.mark.parametrize("classes", [1024, 1001])
def test_few_rows_in_place(rows, ignored, classes, planned):
    x, y = batch(classes, "float32", None)
    x, y = np.concatenate([x, x])[:rows], np.arange(rows)
    y[{"none": rows, "every second": 1, "all": 0}[ignored] :: 2 if ignored == "every second" else 1] = -100
    expected = gradient(x, y, 0)[0]
    plans = planned()
    inside = x.copy()
    fastsce.cross_entropy_value_and_grad(inside, y, out=inside, backend="cpu")
    assert len(plans) == 1 and are_behind(plans, classes)
    assert inside.tobytes() == expected.tobytes()


@pytest.mark.parametrize("classes", [1024, 1001])
def test_images_whose_rows_are_apart(classes, planned):
    """Blocks of rows that do not adjoin: no group reaches from one into the next."""
    x = np.random.default_rng(3).standard_normal((5, 7, 2, classes), np.float32)[:, :, 0]
    y = np.random.default_rng(4).integers(0, classes, (5, 7))
    expected = fastsce.cross_entropy_value_and_grad(x, y, backend="cpu").grad
    plans = planned()
    out = np.full((5, 7, 3, classes), np.float32(7))
    fastsce.cross_entropy_value_and_grad(x, y, out=out[:, :, 1], backend="cpu")
    assert are_behind(plans, classes)
    assert (out[:, :, 1] == expected).all()
    assert (out[:, :, [0, 2]] == 7).all()


@pytest.mark.parametrize("streamed", [False, True])
def test_blocks_far_below_the_largest_logit(streamed, planned):
    """What multiplies their terms is no normal number, if it is kept beside them."""
    x = np.random.default_rng(5).standard_normal((5, 3 * BLOCK), np.float32)
    x[:, :BLOCK] -= 75
    y = np.full(5, 2 * BLOCK)
    expected = fastsce.cross_entropy_value_and_grad(x, y, backend="reference").grad
    if streamed:
        planned()
    found = fastsce.cross_entropy_value_and_grad(x, y, out=np.empty_like(x), backend="cpu").grad
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_blocks_of_rows_in_place(planned):
    """Groups end where blocks do; many rows are ignored."""
    x, rng = np.random.default_rng(0).standard_normal((5, 21, 700), np.float32) * 5, np.random.default_rng(1)
    y = np.where(rng.random((5, 21)) < 0.4, -100, rng.integers(0, 700, (5, 21)))
    expected = fastsce.cross_entropy_value_and_grad(x, y, axis=-1, backend="cpu")
    apart = np.zeros((5, 23, 700), np.float32)
    inside = apart[:, :21]
    inside[...] = x
    plans = planned()
    found = fastsce.cross_entropy_value_and_grad(inside, y, axis=-1, out=inside, backend="cpu")
    assert are_behind(plans, 700)
    assert same_bits(inside, expected.grad) and same_bits(found.loss, expected.loss)
    assert (apart[:, 21:] == 0).all()
