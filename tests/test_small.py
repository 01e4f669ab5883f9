"""Small calls: the same bits as the long way, and the same refusals."""

import itertools

import numpy as np
import pytest
from cases import DTYPES, labels, logits
from expect import refused, same_bits

import fastsce
from fastsce import api, cross_entropy, cross_entropy_value_and_grad, small
from fastsce.arrays import view_of
from fastsce.backends import cpu

SHAPES = [(1, 2), (1, 10), (32, 10), (33, 63), (17, 64), (40, 100), (3, 512), (3, 513), (9000, 5), (1, 65536)]
SHAPES += [(200, 1000), (40000, 5), (16385, 10), (2, 300000), (1, 100000)]  # for several threads
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "denominator": {"denominator": 7.5},
    "smoothing": {"label_smoothing": 0.1},
    "z-loss and scale": {"z_loss": 1e-3, "logit_scale": 0.7},
    "ignored": {"ignore_index": 1},
    "softcap": {"softcap": 3.0},
    "losses": {"reduction": "none"},
    "losses, softcap": {"reduction": "none", "softcap": 3.0},
}
# Of classes and of rows; infinity is the weight of every other row that is left out.
WEIGHTS = {
    "classes": (np.float32, None),
    "rows": (None, np.float64),
    "both": (np.float64, np.float32),
}


def weights(name, n, classes, target):
    rng = np.random.default_rng(n)
    kinds = WEIGHTS[name]
    weight, sample_weight = (
        None if kind is None else rng.uniform(-0.5, 2.0, size).astype(kind) for kind, size in zip(kinds, (classes, n))
    )
    if sample_weight is not None:
        sample_weight[np.flatnonzero(target == -100)[::2]] = np.inf
    return {"weight": weight, "sample_weight": sample_weight}


@pytest.fixture
def the_long_way_fails(monkeypatch):
    def fail(*args):
        raise AssertionError("went the long way")

    monkeypatch.setattr(api, "prepare", fail)


def answers(x, target, out, **options):
    loss, grad, lse = cross_entropy_value_and_grad(x, target, out=out, **options)
    return loss, grad.copy(), lse, cross_entropy(x, target, **options)


def compare(x, target, **options):
    for out in (None, np.empty_like(x)):
        short, long = (answers(x, target, out, backend=backend, **options) for backend in (None, "cpu"))
        for a, b in zip(short, long):
            assert type(a) is type(b)
            assert a.dtype == b.dtype
            assert same_bits(view_of(a), view_of(b))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_bits(shape, name, dtype):
    compare(logits(shape, dtype), labels(*shape, ignored=name != "ignored"), **OPTIONS[name])


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}, {"reduction": "none", "softcap": 3.0}])
@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("shape", [(1, 10), (32, 10), (17, 64), (9000, 5), (200, 1000), (16385, 10), (2, 300000)])
def test_the_same_bits_with_weights(shape, name, options):
    target = labels(*shape, ignored=True)
    compare(logits(shape), target, **weights(name, *shape, target), **options)


@pytest.mark.parametrize("shape", [(8, 4, 10), (2, 1, 3, 64), (1, 1, 5)])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_same_bits_of_more_axes(shape, reduction):
    *rows, classes = shape
    n = np.prod(rows)
    target = labels(n, classes, ignored=True).reshape(rows)
    for kind in (np.int64, np.int32):
        compare(logits(shape), target.astype(kind), reduction=reduction)
    given = weights("both", n, classes, target.ravel())
    given["sample_weight"] = given["sample_weight"].reshape(rows)
    compare(logits(shape), target, **given, reduction=reduction)


@pytest.mark.parametrize("odd", [0.0, -1.0, np.inf, -np.inf, np.nan, 1e300])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_odd_weights(reduction, odd):
    x, target = logits((4, 5)), np.array([0, -100, 2, 4])
    for row in range(4):
        sample_weight = np.ones(4)
        sample_weight[row] = odd
        compare(x, target, sample_weight=sample_weight, reduction=reduction)
    for weight in (np.array([1, 1, odd, 1, 1.0]), np.full(5, odd)):
        compare(x, target, weight=weight, reduction=reduction)


def test_a_signaling_nan_among_weights_is_no_warning():
    x, target, odd = logits((4, 5)), labels(4, 5), np.array([0x7F800001] * 5, np.uint32).view(np.float32)
    for given in ({"weight": odd}, {"sample_weight": odd[:4]}):
        assert np.isnan(cross_entropy(x, target, **given))


@pytest.mark.parametrize("kind", ["i1", "i2", "i4", "u1", "u2", "u4", ">i4", "u8"])
def test_labels_of_other_integers(kind):
    x = logits((40, 100))
    compare(x, labels(40, 100).astype(kind))
    compare(x, labels(40, 100).astype(kind), ignore_index=3)


@pytest.mark.usefixtures("the_long_way_fails")
@pytest.mark.parametrize("shape", [(32, 10), (200, 1000), (40000, 5)])
@pytest.mark.parametrize("name", OPTIONS)
def test_plain_calls_take_the_short_way(name, shape):
    x, target = logits(shape), labels(*shape)
    before = x.copy()
    loss, grad, _, alone = answers(x, target, None, **OPTIONS[name])
    assert same_bits(loss, alone)
    assert np.isfinite(grad).all()
    assert same_bits(x, before)
    assert cross_entropy_value_and_grad(x, target, out=x, **OPTIONS[name]).grad is x
    assert same_bits(x, grad)


@pytest.mark.usefixtures("the_long_way_fails")
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_and_narrow_labels_take_the_short_way(name):
    x, target = logits((200, 1000)), labels(200, 1000).astype(np.int32)
    given = weights(name, 200, 1000, target)
    before = [None if a is None else a.copy() for a in given.values()]
    answers(x, target, np.empty_like(x), **given)
    answers(x.reshape(20, 10, 1000), target.reshape(20, 10), None, weight=given["weight"])
    assert all(a is None or same_bits(a, b) for a, b in zip(given.values(), before))


def libraries():
    """Of each whose arrays are to be seen as they are: what makes one of them."""
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")

    def tensor(a):
        if a.dtype == DTYPES["bfloat16"]:
            return torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(a.copy())

    return {"torch": tensor, "jax": jnp.asarray, "numpy": np.array}


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("library", ["torch", "jax", "numpy"])
def test_arrays_of_other_libraries(library, dtype, reduction, monkeypatch):
    """Each with arrays of all others beside it: the same bits, and the types of the long way."""
    kinds = libraries()
    x, target, given = logits((17, 10), dtype), labels(17, 10, ignored=True), weights("both", 17, 10, labels(17, 10))
    x = kinds[library](x)
    calls = [{"target": kind(target), "reduction": reduction} for kind in kinds.values()]
    calls += [{**calls[0], **{name: kind(w) for name, w in given.items()}} for kind in kinds.values()]
    long = [cross_entropy_value_and_grad(x, **call, backend="cpu") for call in calls]
    monkeypatch.setattr(api, "prepare", None)
    for call, expected in zip(calls, long):
        found = cross_entropy_value_and_grad(x, **call)
        for a, b in zip((*found, cross_entropy(x, **call)), (*expected, expected.loss)):
            assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
            assert same_bits(view_of(a), view_of(b))


@pytest.mark.usefixtures("the_long_way_fails")
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_that_are_written_into(dtype):
    kinds, target = libraries(), labels(17, 10)
    x = kinds["torch"](logits((17, 10), dtype))
    _, grad, _ = cross_entropy_value_and_grad(x, target)
    for out in (x.clone(), x):
        before = out._version
        assert cross_entropy_value_and_grad(x, target, out=out).grad is out
        assert same_bits(view_of(out), view_of(grad))
        assert out._version == before + 1  # autograd is told


def test_tensors_that_are_refused():
    kinds, target = libraries(), labels(17, 10)
    x = kinds["torch"](logits((17, 10)))
    calls = [
        ((x.to_sparse(), target), {}, "to_dense"),
        ((x.to("meta"), target), {}, "meta"),
        ((x, x.long()[:, 0].to("meta")), {}, "target is on meta"),
        ((x, target), {"weight": x[0].to("meta")}, "weight is on meta"),
        ((x, target), {"sample_weight": x.to_sparse()[:, 0]}, "to_dense"),
        ((x, target), {"out": kinds["jax"](logits((17, 10)))}, "cannot be written into"),
        ((x, target), {"out": x.tolist()}, "cannot be written into"),
        ((x, target), {"out": x.to("meta")}, "out is on meta"),
        ((np.ma.array(logits((17, 10))), target), {}, "masked"),
    ]
    for arguments, options, words in calls:
        refused((TypeError, RuntimeError), words, cross_entropy_value_and_grad, *arguments, **options)
    assert same_bits(x.numpy(), logits((17, 10)))


@pytest.mark.usefixtures("the_long_way_fails")
def test_all_threads_work_on_what_is_not_the_smallest(monkeypatch):
    threads, drive, most = [], cpu.threads.drive, cpu.thread_count()
    monkeypatch.setattr(cpu.threads, "drive", lambda *args: (threads.append(args[-1]), drive(*args)))
    for rows in (32, 200, 200):
        cross_entropy_value_and_grad(logits((rows, 1000)), labels(rows, 1000))
    assert threads == ([min(most, 200)] * 2 if most > 1 else [])


@pytest.mark.usefixtures("the_long_way_fails")
def test_other_calls_do_not():
    x, target, wide = logits((4, 6)), labels(4, 6), np.zeros((4, 12), np.float32)
    read_only = np.zeros_like(x)
    read_only.flags.writeable = False
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    same = np.zeros((8, 6), np.float32)
    overlapping, lying_on = same[:4], same[1:5]
    labels_below = np.zeros(48, np.int64)
    on_labels = labels_below.view(np.float32).reshape(16, 6)[:4]
    calls = [
        (x.T.copy().T, target, None, {}),
        (wide[:, ::2], target, None, {}),
        (odd, target, None, {}),
        (x, target.astype(np.uint64), None, {}),
        (x, target.astype(bool), None, {}),
        (x, labels_below.view(np.int32)[:4], on_labels, {}),
        (x, np.repeat(target, 2)[::2], None, {}),
        (x.astype(np.longdouble), target, None, {}),
        (x.astype(">f4"), target, None, {}),
        (x.tolist(), target, None, {}),
        (x, target.tolist(), None, {}),
        (x.view(np.memmap), target, None, {}),
        (x, target, wide[:, ::2], {}),
        (x, target, odd, {}),
        (x, target, read_only, {}),
        (x, target, np.zeros((4, 6)), {}),
        (overlapping, target, lying_on, {}),
        (x, labels_below[2:6], on_labels, {}),
        (x, target, None, {"weight": np.ones(5)}),
        (x, target, None, {"weight": np.ones(6, int)}),
        (x, target, None, {"weight": [1.0] * 6}),
        (x, target, None, {"sample_weight": np.ones((4, 1))}),
        (x, target, None, {"sample_weight": 2.0}),
        (x, target, None, {"grad_output": 2.0}),
        (x, target, None, {"backend": "reference"}),
        (x, np.full(4, 6), None, {}),
        (x, x, None, {}),
        (x[None], target[None], np.zeros((1, 8, 6), np.float32)[:, ::2], {}),
        (wide.reshape(2, 2, 12)[..., :6], target.reshape(2, 2), None, {}),
        (x[None], target[None].astype(np.int32), None, {"axis": 1}),
        (x[0], target[0].reshape(()), None, {}),
        (x[:0], target[:0], None, {}),
        (np.zeros((1024, 4096), np.float32), np.zeros(1024, np.int64), None, {}),
        (np.zeros((300000, 2), np.float32), np.zeros(300000, np.int64), None, {}),
    ]
    for given, labelled, out, options in calls:
        with pytest.raises(AssertionError, match="long way"):
            cross_entropy_value_and_grad(given, labelled, out=out, **options)


BAD = [
    ({"target": np.array([0, 1, 2, 6])}, IndexError),
    ({"target": np.array([0, -1, 2, 3])}, IndexError),
    ({"target": np.array([0.0, 1, 2, 3])}, TypeError),
    ({"target": np.array([0, 1, 2])}, ValueError),
    ({"label_smoothing": True}, TypeError),
    ({"label_smoothing": 1.5}, ValueError),
    ({"ignore_index": -100.0}, TypeError),
    ({"z_loss": np.zeros(2)}, TypeError),
    ({"reduction": "average"}, ValueError),
    ({"reduction": ["mean"]}, ValueError),
    ({"denominator": 0.0}, ValueError),
    ({"axis": 2}, ValueError),
    ({"axis": 0.5}, TypeError),
    ({"weight": np.ones(5)}, ValueError),
    ({"sample_weight": np.ones(4, complex)}, TypeError),
    ({"target": np.array([0, 1, 2, 2**64 - 100], np.uint64)}, IndexError),
    ({"target": np.array([0, 1, 2, 200], np.uint8)}, IndexError),
    ({"reduction": "none", "denominator": 3.0}, ValueError),
    ({"axis": 2, "denominator": -1.0}, ValueError),
]


@pytest.mark.parametrize(("change", "error"), BAD)
def test_the_same_refusals(change, error):
    """Also where a call has been seen whose options are equal to these, but of other types."""
    given = {"logits": logits((4, 6)), "target": labels(4, 6), "out": np.full((4, 6), 3, np.float32)}
    for options in ({"label_smoothing": 1.0}, {"label_smoothing": 1}, {"ignore_index": -100}):
        cross_entropy_value_and_grad(given["logits"], given["target"], **options)
    said = []
    for backend in (None, "cpu"):
        with pytest.raises(error) as refusal:
            cross_entropy_value_and_grad(**{**given, **change}, backend=backend)
        said.append(str(refusal.value))
    assert said[0] == said[1]
    assert (given["out"] == 3).all()


@pytest.mark.parametrize("shape", [(1, 2), (33, 63), (17, 64), (9000, 5), (200, 1000)])
def test_nothing_is_written_beside_what_is_borrowed(shape, monkeypatch):
    pieces = []

    def borrow(size):
        memory = np.full(size + 512, 77, np.uint8)
        start = 256 - memory.ctypes.data % 64 + 8 * (len(pieces) % 8)
        pieces.append((memory, start, size))
        return memory[start : start + size]

    monkeypatch.setattr(cpu, "borrow", borrow)
    monkeypatch.setattr(cpu, "give_back", lambda memory: None)
    x, target = logits(shape), labels(*shape)
    for options in ({}, {"reduction": "none"}, weights("both", *shape, target)):
        for _ in range(8):
            cross_entropy_value_and_grad(x, target, **options)
    assert len(pieces) == 24
    for memory, start, size in pieces:
        assert (memory[:start] == 77).all()
        assert (memory[start + size :] == 77).all()


def test_an_option_that_changes():
    class Knob:
        def __init__(self, value):
            self.value = value

        def __float__(self):
            return self.value

    x, target, knob = logits((4, 6)), labels(4, 6), Knob(0.25)
    assert cross_entropy(x, target, label_smoothing=knob) == cross_entropy(x, target, label_smoothing=0.25)
    knob.value = 0.5
    assert cross_entropy(x, target, label_smoothing=knob) == cross_entropy(x, target, label_smoothing=0.5)


def test_as_many_kinds_of_calls_as_you_like():
    x, target = logits((3, 5)), labels(3, 5)
    expected = cross_entropy(x, target, backend="cpu")
    for index in range(-600, -100):
        assert cross_entropy(x, target, ignore_index=index) == expected
    assert small.small_call.cache_info().currsize <= small.small_call.cache_info().maxsize


@pytest.mark.parametrize("row", [[3e38, -3e38], [np.inf, 0], [-np.inf, -np.inf], [np.nan, 1], [0, -np.inf], [1e-45, 0]])
def test_extremes(row):
    x, target = np.array([row, row], np.float32), np.array([1, 1])
    short, long = (answers(x, target, None, backend=backend) for backend in (None, "cpu"))
    for a, b in zip(short, long):
        np.testing.assert_array_equal(a, b)


def test_rows_that_are_all_ignored():
    x, target = logits((3, 5)), np.full(3, -100)
    for backend, reduction in itertools.product((None, "cpu"), ("mean", "sum")):
        loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, target, backend=backend, reduction=reduction)
        assert np.isnan(loss) if reduction == "mean" else loss == 0
        assert not grad.any()
        assert not lse.any()
