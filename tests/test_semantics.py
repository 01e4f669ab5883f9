"""The edges: what each case of a row, a batch and an option means, and what users of other packages ran into."""

import numpy as np
import pytest
from cases import DTYPES, EXTREMES, INF, NAN, POISON, labels, logits, options, probabilities, rng
from expect import same_bits
from numpy.testing import assert_allclose

import fastsce

INTEGERS = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]


def both(x, target, **given):
    return fastsce.cross_entropy_value_and_grad(x, target, **given)


# -------------------------------------------------------------------------------------------------------- ignored rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [*POISON.values(), np.zeros(4)], ids=[*POISON, "zeros"])
def test_ignored_row_is_exactly_nothing(backend, row, dtype):
    """Loss 0, gradient 0 and no count, whatever its logits hold."""
    x = logits((3, 4), dtype)
    alone = both(x[::2].copy(), np.array([1, 2]), backend=backend)
    x[1] = row
    loss, grad, lse = both(x, np.array([1, -100, 2]), backend=backend)
    assert same_bits(loss, alone.loss) and same_bits(grad[::2].copy(), alone.grad)
    assert not grad[1].astype(float).any() and lse[1] == 0
    each = fastsce.cross_entropy(x, np.array([1, -100, 2]), reduction="none", backend=backend)
    assert each[1] == 0 and np.isfinite(each).all()


@pytest.mark.parametrize("name", ["plain", "weight", "everything", "everything_uncapped"])
def test_two_rows_one_ignored_is_one_row(backend, name):
    x = logits((2, 10), "float64")
    given = options(name, 2, 10)
    one = {k: v[:1] if k == "sample_weight" else v for k, v in given.items()}
    two = both(x, np.array([4, -100]), backend=backend, **given)
    alone = both(x[:1], np.array([4]), backend=backend, **one)
    assert same_bits(two.loss, alone.loss) and same_bits(two.grad[:1], alone.grad)


@pytest.mark.parametrize("sample_weight", [None, np.array([NAN, 2.0])])
def test_sample_weight_of_an_ignored_row_is_not_read(backend, sample_weight):
    loss, grad, _ = both(logits((2, 3)), np.array([-100, 1]), sample_weight=sample_weight, backend=backend)
    assert np.isfinite(loss) and np.isfinite(grad).all()


@pytest.mark.parametrize("rows", [0, 3])
def test_nothing_valid(backend, rows):
    """No row, or none that counts: mean NaN, sum 0, with a denominator 0; the gradient is 0."""
    x, target = logits((rows, 4)), np.full(rows, -100)
    for given, expected in (({}, NAN), ({"reduction": "sum"}, 0), ({"denominator": 5}, 0)):
        loss, grad, lse = both(x, target, backend=backend, **given)
        assert_allclose(loss, expected)
        assert grad.shape == x.shape and not grad.any() and not lse.any()
    assert both(x, target, reduction="none", backend=backend).loss.tolist() == [0] * rows


def test_nothing_that_counts_is_no_warning(backend):
    """Divided by 0, as the loss is, some gradients are infinite and some are no number."""
    given = {"weight": np.zeros(4), "sample_weight": np.arange(3), "backend": backend}
    loss, grad, _ = both(logits((3, 4)), np.array([0, 1, 2]), **given)
    assert np.isnan(loss) and not np.isfinite(grad).any()


def test_weights_beyond_float32_are_no_warning(backend):
    given = {"weight": np.full(3, 1e300), "reduction": "sum", "backend": backend}
    assert not np.isfinite(fastsce.cross_entropy(logits((2, 3)), np.array([0, 1]), **given))


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (2, 0, 4), (0, 4, 3)])
def test_empty_batches(backend, shape):
    x = np.zeros(shape)
    for target in (np.zeros(shape[:-1], int), x):
        given = {"label_smoothing": 0.1, "reduction": "sum", "backend": backend}
        loss, grad, lse = both(x, target, **given)
        assert loss == 0 and grad.shape == shape and lse.shape == shape[:-1]
        assert fastsce.cross_entropy_backward(x, target, lse, **given).shape == shape
        assert [a.shape for a in fastsce.cross_entropy_grad_and_hess(x, target, **given)] == [shape, shape]
    assert fastsce.softmax(x, backend=backend).shape == fastsce.log_softmax(x, backend=backend).shape == shape
    assert fastsce.softmax_vjp(x, x, backend=backend).shape == shape
    assert fastsce.logsumexp(x, backend=backend).shape == shape[:-1]
    assert np.isnan(fastsce.binary_cross_entropy(x, x, backend=backend))
    binary = fastsce.binary_cross_entropy_value_and_grad(x, x, reduction="sum", backend=backend)
    assert binary.loss == 0 and binary.grad.shape == shape


# ------------------------------------------------------------------------------------------------------ odd logits


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POISON)
def test_poison_stays_in_its_row(backend, name, dtype, kind):
    """A row of −inf only, or with +inf or NaN, has NaN loss and gradient; every other row has the bits it had."""
    x = logits((20, 4), dtype)
    wide = "float64" if dtype == "float64" else "float32"
    target = labels(20, 4) if kind == "index" else (probabilities((20, 4)) + 0.01).astype(wide)
    clean = both(x, target, reduction="none", backend=backend)
    x[7] = POISON[name]
    loss, grad, _ = both(x, target, reduction="none", backend=backend)
    assert np.isnan(loss[7]) and np.isnan(grad[7].astype(float)).all()
    assert same_bits(np.delete(loss, 7), np.delete(clean.loss, 7))
    assert same_bits(np.delete(grad, 7, 0), np.delete(clean.grad, 7, 0))


@pytest.mark.parametrize("name", [name for name in EXTREMES if name.startswith("masked")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_classes_are_as_if_absent(backend, name, dtype):
    """p = 0 and gradient 0 wherever in the row −inf stands, a leading block of 3000 included."""
    x, target = EXTREMES[name]()
    x = x.astype(DTYPES[dtype])
    live = np.isfinite(x[0].astype(float))
    loss, grad, _ = both(x, target, backend=backend)
    short = both(np.ascontiguousarray(x[:, live]), np.cumsum(live)[target] - 1, backend=backend)
    assert not grad[:, ~live].astype(float).any()
    assert_allclose(loss, short.loss, rtol=1e-6)
    assert_allclose(grad[:, live].astype(float), short.grad.astype(float), rtol=1e-2 if x.itemsize == 2 else 3e-6)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_masked_target(backend, softcap):
    """Loss +inf, gradient p − 1 at the target; softcap leaves −inf where it is."""
    x = np.array([[1.0, -INF, 2.0]])
    loss, grad, _ = both(x, np.array([1]), softcap=softcap, backend=backend)
    assert loss == INF
    slope = 1.0 if softcap is None else 0.0  # d(softcap·tanh)/dx at −inf
    assert_allclose(grad[0, 1], -slope)
    live = fastsce.cross_entropy_value_and_grad(x[:, [0, 2]], np.array([0]), softcap=softcap, backend=backend)
    assert_allclose(grad[0, 2], live.grad[0, 1])


@pytest.mark.parametrize("given", [{}, {"softcap": 5.0}, {"logit_scale": 0.5}, {"z_loss": 0.1}])
def test_soft_target_of_nothing_at_a_mask(backend, given):
    """0·log 0 = 0."""
    x, target = np.array([[1.0, -INF, 2.0, 0.5]]), np.array([[0.2, 0.0, 0.5, 0.3]])
    loss, grad, _ = both(x, target, backend=backend, **given)
    live = both(x[:, [0, 2, 3]], target[:, [0, 2, 3]], backend=backend, **given)
    assert_allclose(loss, live.loss, rtol=1e-14)
    assert_allclose(grad[:, [0, 2, 3]], live.grad, rtol=1e-13)
    assert grad[0, 1] == 0


def test_smoothing_gives_masked_classes_a_share(backend):
    """ε/C at a −inf logit costs +inf, as in torch."""
    loss = fastsce.cross_entropy(np.array([[1.0, -INF]]), np.array([0]), label_smoothing=0.1, backend=backend)
    assert loss == INF


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("offset", [1e6, 2.0**24, -(2.0**24), 1e30, -3e38])
def test_log_2_at_any_offset(backend, offset, dtype):
    """lse − x_y would cancel: log 2 stays log 2 far from 0."""
    x = np.full((1, 2), offset, dtype)
    loss, grad, _ = both(x, np.array([0]), backend=backend)
    assert_allclose(loss, np.log(2), rtol=1e-7 if dtype == "float32" else 1e-15)
    assert_allclose(grad, [[-0.5, 0.5]], rtol=1e-7)


@pytest.mark.parametrize("weight", [None, 1.0])
@pytest.mark.parametrize("classes", [2, 40, 300])
def test_log_2_where_the_square_of_lse_is_infinite(backend, classes, weight):
    x = np.zeros((1, classes))
    x[0, :2] = 1e200
    loss, _, _ = both(x, np.array([0]), weight=weight and np.ones(classes), backend=backend)
    assert_allclose(loss, np.log(2), rtol=1e-15)


@pytest.mark.parametrize("shift", [-104.0, -1000.0, -60000.0])
def test_rows_far_below_zero(backend, shift):
    """A row maximum that starts at 0 instead of −inf divides by 0 here."""
    x = np.array([[0.0, 1.0, -2.0]], np.float32)
    near = both(x, np.array([0]), backend=backend).grad
    assert_allclose(both(x + shift, np.array([0]), backend=backend).grad, near, rtol=4e-7)


@pytest.mark.parametrize("gap", [10, 20, 40, 60, 80])
@pytest.mark.parametrize("kind", ["index", "onehot"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_small_loss_is_not_0(backend, gap, kind, dtype):
    """Loss and gradient of a confident row have their relative accuracy, down to 1e-35."""
    x = np.array([[0, gap, 0]], DTYPES[dtype])
    target = np.array([1]) if kind == "index" else np.array([[0, 1, 0]])
    loss, grad, _ = both(x, target, backend=backend)
    rest = 2 * np.exp(-float(gap))
    rtol = 1e-5 if dtype != "float64" else 1e-13
    assert_allclose(loss, np.log1p(rest), rtol=rtol)
    share = rest / (1 + rest)
    assert_allclose(
        grad[0].astype(float), [share / 2, -share, share / 2], rtol=2.0**-8 if dtype == "bfloat16" else rtol
    )


def test_bfloat16_subtracts_1_before_rounding(backend):
    """p = 0.999 in bfloat16 is 1: rounding first would lose the whole gradient of the target."""
    x = np.array([[0.0, np.log(999.0)]]).astype(DTYPES["bfloat16"])
    true = both(x.astype(np.float64), np.array([1]), backend=backend).grad
    assert_allclose(both(x, np.array([1]), backend=backend).grad.astype(float), true, rtol=2.0**-8)


# ------------------------------------------------------------------------------------------- sums, means, upstream


def test_gradient_accumulation(backend):
    """Pieces with the whole batch's denominator add up to the whole batch; a mean of means does not."""
    x, target = logits((20, 5), "float64"), labels(20, 5, ignored=True)
    whole = both(x, target, backend=backend)
    count = int((target >= 0).sum())
    pieces = [both(x[a:b], target[a:b], denominator=count, backend=backend) for a, b in ((0, 3), (3, 4), (4, 20))]
    assert_allclose(sum(piece.loss for piece in pieces), whole.loss, rtol=1e-14)
    assert_allclose(np.concatenate([piece.grad for piece in pieces]), whole.grad, rtol=1e-14)


@pytest.mark.parametrize("kind", ["index", "soft"])
def test_grad_output_per_row(backend, kind):
    """Every row has its own upstream gradient, not the first row's; the loss is not touched."""
    x = logits((20, 5), "float64")
    target = labels(20, 5, ignored=True) if kind == "index" else probabilities((20, 5))
    up = rng("up").standard_normal(20)
    plain = both(x, target, reduction="none", backend=backend)
    loss, grad, _ = both(x, target, reduction="none", grad_output=up, backend=backend)
    assert same_bits(loss, plain.loss)
    assert_allclose(grad, plain.grad * up[:, None], rtol=1e-14)
    hess = fastsce.cross_entropy_grad_and_hess(x, target, reduction="none", grad_output=up, backend=backend).hess
    alone = fastsce.cross_entropy_grad_and_hess(x, target, reduction="none", backend=backend).hess
    assert_allclose(hess, alone * up[:, None], rtol=1e-13)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("name", ["plain", "everything", "everything_uncapped"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_backward_from_the_saved_lse(backend, name, kind, dtype):
    """lse is all that the backward pass needs."""
    x = logits((20, 5), dtype)
    target = labels(20, 5, ignored=True) if kind == "index" else probabilities((20, 5))
    given = {**options(name, 20, 5), "grad_output": 0.37}
    _, grad, lse = both(x, target, backend=backend, **given)
    again = fastsce.cross_entropy_backward(x, target, lse, backend=backend, **given)
    eps = np.finfo(dtype).eps
    assert again.dtype == x.dtype
    assert_allclose(again, grad, rtol=50 * eps, atol=4 * eps * np.abs(grad).max())


def test_backward_of_one_shard_of_the_classes(backend):
    """With the lse of all shards, a shard of the classes gives its own columns of p."""
    x, target = logits((6, 10), "float64"), probabilities((6, 10))
    lse = both(x, target, backend=backend).lse
    shard, share = x[:, :4], target[:, :4]
    grad = fastsce.cross_entropy_backward(shard, share, lse, backend=backend)
    expected = (share.sum(1, keepdims=True) * np.exp(shard - lse[:, None]) - share) / 6
    assert_allclose(grad, expected, rtol=1e-11, atol=1e-16)


# ----------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize("dtype", INTEGERS)
def test_label_dtypes(backend, dtype):
    """Every integer width and sign; −100 is met in signed ones only."""
    x, target = logits((17, 10), "float64"), labels(17, 10, ignored=dtype.startswith("i"))
    expected = both(x, target, backend=backend)
    found = both(x, target.astype(dtype), backend=backend)
    assert same_bits(found.loss, expected.loss) and same_bits(found.grad, expected.grad)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_are_not_narrowed(backend, dtype):
    """The highest label of a width is compared with C as it is."""
    top = min(int(np.iinfo(dtype).max), 300)
    x = logits((2, top + 1), "float64")
    assert np.isfinite(fastsce.cross_entropy(x, np.array([top, 0], dtype), backend=backend))


def test_labels_of_another_byte_order(backend):
    x, target = logits((17, 10)), labels(17, 10)
    expected = fastsce.cross_entropy(x, target, backend=backend)
    assert fastsce.cross_entropy(x, target.astype(">i4"), backend=backend) == expected


@pytest.mark.parametrize("dtype", ["bool", "int64", "uint8", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("axis", [-1, 0])
def test_onehot(backend, dtype, axis):
    x, target = logits((17, 10), "float64"), labels(17, 10)
    expected = both(x, target, backend=backend)
    hot = np.eye(10)[target].astype(DTYPES.get(dtype, dtype))
    found = both(np.moveaxis(x, -1, axis), np.moveaxis(hot, -1, axis), axis=axis, backend=backend)
    assert_allclose(found.loss, expected.loss, rtol=1e-14)
    assert_allclose(np.moveaxis(found.grad, axis, -1), expected.grad, rtol=1e-13, atol=1e-16)


def test_scalar_target_of_one_row(backend):
    row, target = logits((10,), "float64"), 4
    many = both(row[None], np.array([target]), backend=backend)
    for given in (target, np.int8(target), np.array(target)):
        loss, grad, lse = both(row, given, backend=backend)
        assert loss.shape == lse.shape == () and grad.shape == (10,)
        assert same_bits(loss, many.loss) and same_bits(grad, many.grad[0])


# ---------------------------------------------------------------------------------------------- axes, memory, `out`


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -3, -4])
@pytest.mark.parametrize("kind", ["index", "soft"])
def test_classes_on_any_axis(backend, axis, kind):
    shape = (3, 4, 5, 6)
    x = logits(shape, "float64")
    rows = tuple(np.delete(shape, axis))
    target = labels(rows, shape[axis], ignored=True) if kind == "index" else probabilities(shape)
    last = target if kind == "index" else np.moveaxis(target, axis, -1)
    loss, grad, lse = both(x, target, axis=axis, backend=backend)
    expected = both(np.ascontiguousarray(np.moveaxis(x, axis, -1)), np.ascontiguousarray(last), backend=backend)
    assert lse.shape == rows and grad.shape == shape
    assert_allclose(loss, expected.loss, rtol=1e-14)
    assert_allclose(np.moveaxis(grad, axis, -1), expected.grad, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("axis", [0, 1])
def test_in_place_only_when_asked(backend, axis, kind):
    """`out=logits` overwrites them with the gradient; otherwise no input changes."""
    x = logits((10, 10))
    given = {"target": labels(10, 10, ignored=True) if kind == "index" else probabilities((10, 10)), "axis": axis}
    given |= options("weight_and_smoothing", 10, 10) | {"sample_weight": np.linspace(0, 1, 10), "backend": backend}
    before = {name: value.copy() for name, value in given.items() if isinstance(value, np.ndarray)}
    kept = x.copy()
    expected = fastsce.cross_entropy_value_and_grad(x, **given)
    assert same_bits(x, kept) and all(same_bits(given[name], before[name]) for name in before)
    found = fastsce.cross_entropy_value_and_grad(x, out=x, **given)
    assert found.grad is x and same_bits(x, expected.grad) and same_bits(found.loss, expected.loss)
    assert all(same_bits(given[name], before[name]) for name in before)


def test_weights_that_lie_in_the_overwritten_logits(backend):
    x = np.abs(logits((3, 3), "float64"))
    expected = both(x.copy(), np.array([0, 1, 2]), weight=x[0].copy(), backend=backend)
    found = both(x, np.array([0, 1, 2]), weight=x[0], sample_weight=None, out=x, backend=backend)
    assert same_bits(found.grad, expected.grad) and same_bits(found.loss, expected.loss)


def test_hessian_in_place(backend):
    """Either of the two results may take the logits' place."""
    x, target = logits((9, 5)), labels(9, 5)
    grad, hess = fastsce.cross_entropy_grad_and_hess(x, target, backend=backend)
    for place in range(2):
        pair = [x.copy(), np.empty_like(x)]
        pair = pair[::-1] if place else pair
        found = fastsce.cross_entropy_grad_and_hess(pair[place], target, out=tuple(pair), backend=backend)
        assert found.grad is pair[0] and found.hess is pair[1]
        assert same_bits(found.grad, grad) and same_bits(found.hess, hess)


def test_no_argument_keeps_the_answer(backend):
    """Results are the caller's: a later call does not change them."""
    x, target = logits((9, 5)), labels(9, 5)
    first = both(x, target, reduction="none", backend=backend)
    kept = [np.copy(a) for a in first]
    both(-x, target, reduction="none", backend=backend)
    assert all(same_bits(a, b) for a, b in zip(first, kept))


def test_gradient_has_the_logits_layout(backend):
    """F-ordered logits get an F-ordered gradient, which is what boosting libraries ravel."""
    x, target = np.asfortranarray(logits((9, 5))), labels(9, 5)
    grad, hess = fastsce.cross_entropy_grad_and_hess(x, target, reduction="sum", backend=backend)
    assert grad.flags.f_contiguous and hess.flags.f_contiguous
    plain = fastsce.cross_entropy_grad_and_hess(np.ascontiguousarray(x), target, reduction="sum", backend=backend)
    assert_allclose(grad, plain.grad, rtol=1e-6, atol=1e-12)
    assert_allclose(hess, plain.hess, rtol=1e-6)
