"""Bands of bands.py: many classes first, a block of them after the other, and what comes and goes meanwhile."""

import numpy as np
import pytest
from cases import DTYPES, EXTREME_CASES, EXTREMES, OPTIONS, POISON, labels, logits, options
from expect import same_bits
from test_agreement import agree
from test_same_bits import WORKING, all_the_same, at_offset, working
from test_tiles import CANARY, between_canaries, gradient, in_rows, on_the_logits, smoothing

import fastsce
from fastsce.backends import cpu
from fastsce.backends.cpu import bands, threads
from fastsce.backends.cpu.tuning import GROUP, LANES

CAPLESS = [name for name in OPTIONS if "softcap" not in OPTIONS[name]]


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    """The kernels that are planned for, in their order, and no plan remembered."""
    planned, plan_of = [], cpu.plan_of.__wrapped__

    def noting(*how):
        plan = plan_of(*how)
        planned.append(plan[0])
        return plan

    monkeypatch.setattr(cpu, "plan_of", noting)
    return planned


@pytest.fixture
def banded(monkeypatch):
    """All classes first go by bands, in blocks of eight."""
    monkeypatch.setattr(cpu, "FEW_BYTES", 0)
    monkeypatch.setattr(bands, "BANDED_BYTES", 0)
    monkeypatch.setattr(bands, "BLOCK_CLASSES", 8)


def classes_first(x, samples):
    """At least so many samples, that lie side by side."""
    return np.asfortranarray(np.tile(x, (-(-samples // len(x)), 1)))


@pytest.mark.parametrize("samples", [1, 150])
@pytest.mark.parametrize(("name", "dtype"), EXTREME_CASES)
def test_extremes(name, dtype, samples, banded, kernels):
    x, target = EXTREMES[name]()
    if 8 * x.shape[1] > bands.LONGEST_BAND_BYTES:
        pytest.skip("too many classes")
    many = classes_first(x.astype(DTYPES[dtype]), samples)
    agree("cpu", many, np.resize(target, len(many)), reduction="none")
    if len(many) > 1:  # or it is a row
        assert set(kernels) == {bands.bands}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CAPLESS)
def test_options(name, dtype, banded, kernels):
    for shape in ((150, 33), (300, 70), (17, 21)):
        x = np.asfortranarray(logits(shape, dtype))
        agree("cpu", x, labels(*shape, ignored=True), **options(name, *shape))
    assert set(kernels) == {bands.bands}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(150, 1003), (530, 400), (20, 500)], ids=str)
def test_many_classes(shape, dtype, kernels):
    x = np.asfortranarray(logits(shape, dtype))
    agree("cpu", x, labels(*shape, ignored=True), **options("plain", *shape))
    agree("cpu", x, labels(*shape, ignored=True), **options("everything_uncapped", *shape))
    assert set(kernels) == {bands.bands}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, 9, 16, 19, 403])
def test_the_largest_logit_of_any_class(classes, dtype, banded, kernels):
    """Confident samples, whose losses are next to nothing: one for each class."""
    x, y = logits((classes, classes), dtype), np.arange(classes)
    x[y, y] += 40
    agree("cpu", np.asfortranarray(x), y, reduction="none")
    assert set(kernels) == {bands.bands}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("step", [-90.0, -7.0, 7.0, 25.0, 90.0])
@pytest.mark.parametrize("name", ["plain", "smoothing", "scale", "weight_and_smoothing"])
def test_blocks_far_from_each_other(name, step, dtype, banded):
    """Each block's logits are larger, or smaller, than those of the block before, or there are none but masks."""
    rng, shape = np.random.default_rng(0), (150, 61)
    x = rng.standard_normal(shape) + step * (np.arange(61) // 8) - (300 if step < 0 else 0)
    y = rng.integers(0, 61, 150)
    if "smoothing" not in name:
        x[::3, :8] = -np.inf
        x[1::3, 16:30] = -np.inf
        y[(np.arange(150) % 3 == 0) & (y < 8)] = 60
        y[(np.arange(150) % 3 == 1) & (y >= 16) & (y < 30)] = 60
    agree("cpu", np.asfortranarray(x.astype(dtype)), y, **options(name, *shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-36, 1e-33, 1e-30, 2e-9, 1e-8, 1e30])
@pytest.mark.parametrize("step", [0.0, 5.5, 6.5, 19.9])
def test_scales_of_any_size(step, scale, dtype, banded):
    """Of samples whose first block is below the next, by less and by more than makes another m."""
    x = np.zeros((150, 61)) + step * (np.arange(61) >= 8)
    agree("cpu", np.asfortranarray(x.astype(dtype)), np.arange(150) % 61, sample_weight=np.full(150, scale))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("spread", [3.0, 300.0, 1e6])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_smoothing_of_scaled_logits(spread, offset, dtype, banded):
    x = np.random.default_rng(0).standard_normal((150, 61)) * spread + offset
    given = {"label_smoothing": 0.1, "logit_scale": 0.7, "weight": np.linspace(0.1, 2, 61)}
    agree("cpu", np.asfortranarray(x.astype(dtype)), np.arange(150) % 61, **given)


@pytest.mark.parametrize("masked", [slice(0, 8), slice(0, 20), slice(8, 24), slice(40, 61)])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_smoothing_of_masked_classes(scale, masked, banded):
    """No loss, if they have no weight; else it is infinite."""
    x, y = np.random.default_rng(0).standard_normal((150, 61)).astype(np.float32), np.full(150, 30)
    x[:, masked], weight = -np.inf, np.ones(61)
    given = {"label_smoothing": 0.1, "logit_scale": scale, "reduction": "none"}
    assert (fastsce.cross_entropy(np.asfortranarray(x), y, backend="cpu", **given) == np.inf).all()
    weight[masked] = 0
    agree("cpu", np.asfortranarray(x), y, weight=weight, **given)


@pytest.mark.parametrize(("large", "of"), [(3e37, slice(None)), (3e37, 3), (np.inf, 3)])
def test_smoothing_with_huge_weights(large, of, banded):
    """A loss that is too large is infinite, no less and not NaN, and samples to leave out have no gradient."""
    x, y = np.full((150, 61), -15, np.float32), np.full(150, 30)
    x[:, 20:], weight = 0, np.ones(61)
    weight[of], y[::3] = large, -100
    given = {"label_smoothing": 0.1, "weight": weight, "reduction": "sum"}
    found = fastsce.cross_entropy_value_and_grad(np.asfortranarray(x), y, backend="cpu", **given)
    assert found.loss > 1e37
    assert not found.grad[::3].any()


@pytest.mark.parametrize("place", [0, 9, 57])
@pytest.mark.parametrize("name", POISON)
def test_poison(name, place, banded):
    """What is no number stays in its own sample, and is not seen at all in one to leave out."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((150, 61)).astype(np.float32), rng.integers(0, 61, 150)
    clean = fastsce.cross_entropy_value_and_grad(np.asfortranarray(x), y, reduction="none", backend="cpu")
    x[70, place : place + 4] = POISON[name]
    if name == "all_minus_inf":
        x[70] = -np.inf
    for ignored in (False, True):
        y[70] = -100 if ignored else y[70]
        loss, grad, lse = fastsce.cross_entropy_value_and_grad(np.asfortranarray(x), y, reduction="none", backend="cpu")
        others = np.arange(150) != 70
        assert same_bits(grad[others], clean.grad[others]) and same_bits(loss[others], clean.loss[others])
        if ignored:
            assert loss[70] == 0 and lse[70] == 0 and not grad[70].any()
        else:
            assert np.isnan(loss[70])


SIZES = [  # blocks, classes, samples
    (2, 385, 5),
    (2, 386, 63),
    (2, 387, 64),
    (1, 400, 129),
    (2, 401, 700),
    (1, 1001, 330),
]
WAYS = [(way, dtype) for way in (gradient, smoothing, on_the_logits) for dtype in DTYPES.values()]


@pytest.mark.parametrize(
    ("streamed", "lanes"),
    [(True, 2 * GROUP), (True, 4 * GROUP), (False, GROUP)],
    ids=["streamed", "wide", "not streamed"],
)
@pytest.mark.parametrize(("way", "dtype"), WAYS, ids=[f"{way.__name__}-{np.dtype(d).name}" for way, d in WAYS])
@pytest.mark.parametrize(("blocks", "classes", "samples"), SIZES)
def test_wherever_classes_begin(blocks, classes, samples, way, dtype, streamed, lanes, monkeypatch, kernels):
    """The same bits as of bands of LANES samples, none of which goes by groups; and nothing beside the result is
    written.
    """

    def wide(width):
        monkeypatch.setattr(bands, "band_lanes", lambda classes, a, b, *_: min(width, -(-b // LANES) * LANES))

    rng = np.random.default_rng(classes)
    x = (3 * rng.standard_normal((blocks, classes, samples))).astype(dtype)
    y = rng.integers(0, classes, (blocks, samples))
    y[:, 1::5] = -100
    expected = x.copy()
    wide(LANES)
    monkeypatch.setattr(threads, "ALONE", 1 << 40)
    way(x, y, expected)
    wide(lanes)
    monkeypatch.setattr(cpu, "STREAM_BYTES", 0 if streamed else 1 << 40)
    for alone, count in ((1 << 40, 16), (0, 1), (0, 3)):
        monkeypatch.setattr(threads, "ALONE", alone)
        monkeypatch.setattr(threads, "PART", 1000)
        monkeypatch.setattr(bands, "BANDS", count)
        for gap, offset in ((0, 0), (0, 4), (1, 0), (5, 3), (8, 1), (-samples % 32, 0), (-samples % 32, 7)):
            out, memory = between_canaries(x, gap, offset)
            way(x, y, out)
            assert same_bits(out, expected), (alone, count, gap, offset)
            out.view(np.uint8)[...] = CANARY
            assert (memory == CANARY).all(), (alone, count, gap, offset)
    assert set(kernels) == {bands.bands}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["plain", "everything_uncapped"])
def test_the_same_bits(name, dtype, kernels):
    """For any number of threads, any cut of the batch, wherever logits and gradients lie, and of the loss alone."""
    n, c = 530, 400
    x, y = np.ascontiguousarray(logits((n, c), dtype).T), labels(n, c, ignored=True)
    given = options(name, n, c) | {"axis": 0, "reduction": "none", "backend": "cpu"}
    given.pop("sample_weight", None)
    expected = fastsce.cross_entropy_value_and_grad(x, y, **given)
    for setting, changed in WORKING.items():
        with working(changed):
            found = fastsce.cross_entropy_value_and_grad(x, y, out=np.full_like(x, 7), **given)
            assert all_the_same(found, expected), setting
            assert same_bits(fastsce.cross_entropy(x, y, **given), expected.loss), setting
    for offset in (x.itemsize, 5 * x.itemsize, 32, 1):
        moved, out = at_offset(x, offset), at_offset(x, offset)
        assert all_the_same(fastsce.cross_entropy_value_and_grad(moved, y, out=out, **given), expected), offset
        with working(WORKING["past the caches"]):
            assert all_the_same(fastsce.cross_entropy_value_and_grad(moved, y, out=moved, **given), expected), offset
    for cut in (slice(0, 1), slice(1, 65), slice(65, 530)):
        part = fastsce.cross_entropy_value_and_grad(x[:, cut], y[cut], **given)
        assert same_bits(part.grad, expected.grad[:, cut]) and same_bits(part.loss, expected.loss[cut]), cut
    assert set(kernels) == {bands.bands}


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax(dtype, kernels):
    """Without labels: the same probabilities as gradients for labels have elsewhere, and the same lse."""
    x = np.ascontiguousarray(logits((150, 400), dtype).T)
    found = fastsce.cross_entropy_value_and_grad(x, np.zeros(150, int), axis=0, reduction="none", backend="cpu")
    p, lse = fastsce.softmax(x, axis=0, backend="cpu"), fastsce.logsumexp(x, axis=0, backend="cpu")
    assert set(kernels) == {bands.bands} and len(kernels) == 3
    assert same_bits(p[1:], found.grad[1:])
    assert same_bits(lse, found.lse.astype(lse.dtype))


def test_what_does_not_go_by_bands(kernels):
    """Few classes, rows, gradients in rows, and more classes; what is no label, and more than a gradient."""
    for x, out in [
        (np.zeros((384, 20), np.float32), None),
        (in_rows(np.zeros((1, 400, 20), np.float32))[0], None),
        (np.zeros((400, 20), np.float32), in_rows(np.zeros((1, 400, 20), np.float32))[0]),
        (np.zeros((6145, 20), np.float32), None),
    ]:
        y = np.zeros(20, int)
        fastsce.cross_entropy_value_and_grad(x, y, axis=0, out=np.zeros_like(x) if out is None else out, backend="cpu")
    on = {"axis": 0, "backend": "cpu"}
    x, y = np.zeros((400, 20), np.float32), np.zeros(20, int)
    fastsce.cross_entropy(x, y, softcap=5.0, **on)
    fastsce.cross_entropy(x, x + 1, **on)
    fastsce.cross_entropy_backward(x, y, np.zeros(20), **on)
    fastsce.cross_entropy_grad_and_hess(x, y, **on)
    fastsce.log_softmax(x, **on)
    assert bands.bands not in kernels and len(kernels) == 9
